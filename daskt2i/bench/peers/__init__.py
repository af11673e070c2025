"""Encoding with other tools beside ours, on the same photographs, with the same models: `bench peers`.

In here: the command's measurement (`driver`), photographs and models as files that every tool can read (`inputs`), the
process of one tool (`peer`, `ours`), processor time and memory of a process and its children (`watch`), whether two
tools made the same (`agreement`), the table (`columns`), an environment for a peer (`environments`, for
`bench.loaders` too).
Not in here: ours by workers and schedulers (`bench.encode`), loaders beside ours (`bench.loaders`).
To add a peer: a function that runs it and one that reads its files in `peer.TOOLS`, its package in `driver.PACKAGES`.
"""
