"""The run folder: arrays, receipts, manifest, lock.

In here: names and whole-object writes in a run folder (`run_folder`), the arrays (`zarr_store`, flushed by
`zarr_flush`, laid out by `layout`, opened for a person by `dataset`), the proof that a chunk is done (`receipts`), one
line for each row (`manifest`), one writer at a time (`lock`), how far a folder has come (`status`).
Not in here: what makes the arrays (`encode`), what reads samples for training (`loader`).
Imports: `errors`, `types`, `plan`.
To add a kind of file: a module here with its name, its reader and its writer, and a line in
docs/reference/run-folder.md.
"""
