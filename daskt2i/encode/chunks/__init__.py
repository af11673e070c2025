"""All chunks of a run: who encodes which, what fails, what stands still.

In here: what a worker shows before its first chunk (`admission`), the open chunks and their tries (`chunk_queue`), the
row that kills its worker (`culprit`), a worker's report of a chunk that does not move (`watch`), and what the driver
makes of such reports (`standstill`).
Not in here: one chunk (`encode.worker`), the run around the chunks (`encode.driver`), which error is of which kind
(`faults`), where chunks run (`executors`).
"""
