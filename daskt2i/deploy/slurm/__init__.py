"""A SLURM job of daskt2i without dask-jobqueue: one script for `sbatch` that holds a whole cluster.

In here: what a user may ask of SLURM, with checks (`request`), the text of the script (`script`), what the running job
needs from Python: its folder with certificates and Dask's settings (`job_folder`), and waiting for its workers
(`arrival`). The size of a partition (`partition`).
Not in here: the command that prints the script (`cli.cluster`), clusters that daskt2i starts itself (`connect`).
It may import `config`, `errors` and its own room. Only the script starts anything in SLURM.
"""
