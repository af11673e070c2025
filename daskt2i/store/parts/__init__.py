"""Parts: stores beside a store, with other rows and the arrays of the same encoders.

    runs/coco/latents.zarr/                        the first store
    runs/coco/parts/0001/latents.zarr/             a part: a run folder of its own, with receipts and settings
    runs/coco/rows.json                            which parts count, and which rows are removed

In here: where a part lies (`places`), the object that says which rows there are (`rows_file`).
Not in here: encoding a part (`encode.parts`), which rows it has (`facts.part_rows`), reading samples (`loader`).
Why a store of its own: nothing of the first store is read or written again. Readers see new rows at once, when
`rows.json` is replaced, and never half of them.
"""
