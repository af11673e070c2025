"""What a reader joins: rows and arrays that do not lie in one store with one shape.

In here: the rows that `train.where` keeps (`chosen_rows`), arrays of columns by the rows of their store
(`column_rows`).
Not in here: reading one store (`loader.shards`), where columns lie and how their arrays are named
(`store.columns`).
"""
