"""What a reader joins: rows and arrays that do not lie in one store with one shape.

In here: all stores and buckets of a run folder as one (`joined_reader`), the order over buckets (`bucket_mix`), rows
that `where` keeps (`chosen_rows`), arrays of columns by the rows of their store (`column_rows`), sizes and crops of
samples (`size_conditions`).
Not in here: reading one store (`loader.shards`), where columns lie and how their arrays are named
(`store.columns`).
"""
