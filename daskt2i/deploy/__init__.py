"""A connection to Dask: a cluster that we start, or one that is there already.

In here: cluster files and addresses to a connected client (`connect`), the process in which a cluster of ours lives
(`cluster_process`), which workers a scheduler has (`workers`), processes that end with their parent and do not hear
Ctrl-C (`child_processes`).
Not in here: what `--scheduler` means and how many workers are sensible (`session`), what runs on the workers
(`executors`, `launch`).
Imports: `errors` and `config`. It knows Dask and nothing of images or models.
To add a kind of cluster: a file in `clusters/` that names its class; code only if the class needs other arguments.
"""
