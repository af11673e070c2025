"""Fast reading of arrays that a store holds in fewer bytes.

In here: int8 and bfloat16 arrays block by block (`decoded`), where the text states of rows come from (`texts`).
Not in here: what the forms are (`store.forms`), decompressing blocks (`loader.inner_chunks`), which rows are read
(`loader.shards`).
To add a form: see `store.forms`; here it needs a branch in `decoded.array_of` or a class in `texts`.
"""
