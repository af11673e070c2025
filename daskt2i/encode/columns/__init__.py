"""Columns: another encoder's arrays for the rows of a store, encoded as a store beside it.

In here: the workflow of a column (`workflow`), and whether its pictures are those of the store (`pictures`).
Not in here: where columns lie (`store.columns`), which rows they have (`facts.accepted`), encoding (`encode.driver`).
A column is an encode like any other: the same receipts, gates, resume and verify, on the same workers.
"""
