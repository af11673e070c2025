"""Encoding: one chunk, all chunks, and what comes before and after.

In here: a workflow made ready (`prepare`), what a worker is told (`job`) and what it keeps (`model_cache`), reading
ahead (`read_ahead`), one chunk (`worker`) and the checks on what was encoded (`gates`), all chunks (`driver`) and their
totals (`summary`), a store checked again (`verify`), rows measured before a run (`calibration`), the settings that a
run folder keeps (`saved_workflow`).
Not in here: where chunks run (`executors`), encoders, arrays on disk (`store`).
`driver` runs beside the user, `worker` on the workers.
To add a check on encoded rows: a function in `gates`, called by `worker`.
"""
