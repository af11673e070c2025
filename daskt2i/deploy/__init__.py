"""Connections to Dask: to a cluster that daskt2i starts, or to a running one.

In here: clients of a running scheduler (`connect`), cluster files and starting what they name (`cluster_file`), the
process of such a cluster (`cluster_process`, `cluster_child`), arguments in terms of each class (`kinds`), waiting for
a queue (`waiting`), the workers of a scheduler (`workers`), child processes that end with their parent.
Not in here: what the setting of the scheduler means and how many workers to start (`session`), what runs on the workers
(`executors`, `launch`).
Imports: `documents`, `errors`, `formatting` and `config`. It uses Dask and knows nothing about images or models.
To add a kind of cluster: a file in `clusters/` that names its class. It needs code (`kinds`) only for other arguments.
"""
