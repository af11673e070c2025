"""How objects become visible in a run folder: written apart, then moved, and a former run can move nothing.

In here: moving and exclusive creation (`moves`), the folder of an attempt, which a worker writes into (`attempts`),
what the driver of a run publishes (`publication`).
Not in here: who may be the driver (`store.lock`), the content of what is published (`zarr_store`, `receipts`).
docs/decisions/0012-publishing.md explains the protocol. tests/store/test_protocol.py plays it with crashes and zombies.
"""
