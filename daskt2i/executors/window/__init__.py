"""The driver's window of items on a Dask cluster.

In here: the items that the scheduler has (`flight`), who gets the next item where workers differ (`lanes`), which
workers were lost with which items (`losses`).
Not in here: what an item is (`encode`), what runs on the worker (`executors.dask_task`), when the window is filled
(`executors.dask`).
"""
