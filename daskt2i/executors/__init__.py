"""Where chunks run: one process, process pools, or Dask.

How to add one: write a class with `start`, `run` and `close` as `daskt2i.protocols.Executor` describes them, subclass
`daskt2i.testing.executor.ExecutorSuite` in a test, and name it in `daskt2i.cluster.open_executor`. `run` must draw
its items lazily, hand back every item exactly once, and survive the death of a worker; `attempts.Attempts` keeps the
books for that.
"""
