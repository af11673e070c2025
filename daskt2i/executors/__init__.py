"""Where chunks run: one process, process pools, or Dask.

In here: `serial`, `multiprocessing`, `joblib`, `dask`, the record of items and retries (`attempts`), the items in
flight and who gets the next one (`window`), one item on a worker (`dask_task`), unloading the encoders of Dask workers
(`unload`), whether this machine can start processes of a pool (`shared_memory`).
Not in here: what a chunk is (`encode`), how a cluster starts (`deploy`), what `--scheduler` means (`session`).
To add one: write a class with `start`, `run`, `avoid` and `close` as `daskt2i.protocols.Executor` describes them,
subclass `daskt2i.testing.executor.ExecutorSuite` in a test, and name it in `daskt2i.session.schedulers`. `run` must
take its items lazily, return every item exactly once, and survive the death of a worker. `attempts.Attempts` keeps the
records for that.
"""
