"""Short measurements of this machine: made once in a child process, and kept in the user's cache folder.

In here: figures by processor, versions and question (`cache`), a function in a process of its own with a time limit
(`child`), the two together (`measure`).
Not in here: what is measured, and what follows from it (`machine.precision`, `encoders.ncnn`).
Imports: no other room.
To measure something: a function that gets `tell` and JSON values, and calls `tell(name, seconds)` for each figure; then
`measure.seconds_of` with its dotted path.
"""
