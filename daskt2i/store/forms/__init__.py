"""How arrays of encoders are stored: exact, or in a form that takes fewer bytes.

In here: 8-bit and bfloat16 numbers (`numbers`), text states without padding, equal captions once (`packed`), which
array has which form and what the store says about it (`form`), arrays of a chunk to and from their forms (`chunks`),
rows of a store as the encoders made them (`made_rows`).
Not in here: shards and compression (`store.zarr_store`), the fast reading of training (`loader`).
A form is described in the attribute `daskt2i` of the store, under `forms`. An array without an entry there is exact.
Readers of all rooms decode through this package: `made_layout` says which arrays there are, `read_made` reads rows.
To add a form: a function each way in `numbers` or `packed`, a value of `dataset.store` in `config.store_settings`.
"""
