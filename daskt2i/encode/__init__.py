"""Encode images and captions into a latent store: the plan, one chunk, all chunks, and checks.

In here: the plan (`prepare`), the job of a worker (`job`), its loaded models (`model_cache`), reading ahead
(`read_ahead`), one chunk (`worker`), checks on encoded rows (`gates`), all chunks of a run (`chunks`), the run itself
(`driver`), chunks of an earlier run (`resume`), the result (`summary`), checking a store again (`verify`), measuring
rows before a run (`calibration`), the settings that a run folder keeps (`saved_workflow`), those that daskt2i chooses
by itself (`choices`), and pictures of several sizes (`shapes`).
Not in here: where chunks run (`executors`), encoders, arrays on disk (`store`).
`driver` runs in the user's process, `worker` on the workers.
To add a check on encoded rows: a function in `gates`, called by `worker`.
"""
