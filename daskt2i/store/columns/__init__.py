"""Columns: stores beside a store, with the same rows and the arrays of another encoder.

    runs/coco/latents.zarr/                        the store
    runs/coco/columns/dino/latents.zarr/           a column of it: a run folder of its own, with receipts and settings

In here: where a column lies (`places`), the names of its arrays beside those of the store (`arrays`), one Dataset of
both (`joined`).
Not in here: encoding a column (`encode.columns`), which rows it has (`facts.accepted`).
Why a store of its own: nothing of the first store is read or written again, and a reader sees a column whole or not at
all, because it looks for its manifest.
"""
