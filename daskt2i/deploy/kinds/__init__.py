"""Kinds of clusters: each gets the number, memory and environment of its workers in its own terms.

In here: what is asked of a cluster (`request`), what all kinds have in common and classes that are not known (`kind`),
batch systems through dask-jobqueue (`jobqueue`, `slurm`), how many jobs there is work for (`adapting`), hosts that SSH
reaches (`ssh`), Kubernetes (`kubernetes`), workers of this machine (`local`), its GPUs and Dask Gateway (`small`), and
which class is of which kind (`by_class`).
Not in here: cluster files (`deploy.cluster_file`), the process that holds a cluster (`deploy.cluster_process`).
To add a kind: a module with a subclass of `Kind`, and a line in `by_class`. The methods run in the process that holds
the cluster, which alone imports the class.
"""
