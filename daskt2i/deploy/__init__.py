"""Connections to Dask: to a cluster that daskt2i starts, or to a running one.

In here: making a client from a cluster file or an address (`connect`), the process of a cluster that daskt2i starts
(`cluster_process`), the workers of a scheduler (`workers`), child processes that ignore Ctrl-C and end with their
parent (`child_processes`).
Not in here: what the setting of the scheduler means and how many workers to start (`session`), what runs on the workers
(`executors`, `launch`).
Imports: `documents`, `errors` and `config`. It uses Dask and knows nothing about images or models.
To add a kind of cluster: a file in `clusters/` that names its class. It needs code only for other arguments.
"""
