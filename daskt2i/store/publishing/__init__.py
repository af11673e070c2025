"""How objects become visible in a run folder: written apart, then moved, and a former run can move nothing.

In here: who may be the driver (`lock`; `lease` where there is no `flock`), moving and exclusive creation (`moves`), the
folder of an attempt, which a worker writes into (`attempts`), what the driver of a run publishes (`publication`, in
threads by `queue`; `exchange` where the chunk was visible before), its other objects (`fenced`); `links` that lead out
of the folder, so that nothing is moved through one.
Not in here: the content of what is published (`zarr_store`, `receipts`).
docs/decisions/0012-publishing.md explains the protocol. tests/store/test_protocol.py plays it with crashes and zombies.
"""
