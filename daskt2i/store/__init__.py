"""The run folder: arrays, receipts, manifest, lock.

In here: names and whole-object writes in a run folder (`run_folder`, `partial_files`), whose a folder is
(`ownership`), the arrays (`zarr_store`; `zarr_flush` flushes them, `array_checks` checks them, `layout` lists them,
`views` tells which sizes of picture they show, `dataset` opens them as xarray), the proof that a chunk is done
(`receipts`), how a chunk becomes visible, and the lock for one writer at a time (`publishing`), one line for each row
(`manifest`), the progress of a run folder (`status`).
Not in here: what makes the arrays (`encode`), what reads samples for training (`loader`).
Imports: `plan`, and rooms of floors 0 to 3.
To add a kind of file: a module here with its name, its reader and its writer, and a line in
docs/reference/run-folder.md.
"""
