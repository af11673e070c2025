"""The settings that daskt2i chooses by itself: engine, precision, batch, and threads of a worker.

In here: the choice of a worker, by measurements (`on_worker`), what a plan knows before (`on_driver`), the rules that
need no measurement (`rules`).
Not in here: the measurements (`machine.precision`, the image encoder), the numbers of workers and of images in a batch
(`plan`), the fingerprint (`encode.prepare`).
"""
