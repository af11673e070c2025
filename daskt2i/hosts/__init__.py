"""What the hosts of a cluster share, and what becomes of hosts that lack something.

In here: what one process sees of run folder, images and models (`sight`), asking all workers before the first chunk
(`check`), models that come to workers through the run folder (`model_files`).
Not in here: versions and pixels of a worker (`encode.chunks.admission`), finding a model's files and the copies of this
machine (`encoders`), reading and writing the run folder (`store`).
Imports: `config`, `encoders`, `store` and the rooms above them.
To check one more thing: a line in `sight.look`, and its advice in `check`.
"""
