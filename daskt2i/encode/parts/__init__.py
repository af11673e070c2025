"""Parts: new rows for a store, encoded as a store beside it.

In here: the workflow of a part (`workflow`), which rows it has (`new_rows`), what a change of rows says (`result`).
Not in here: where parts lie and which count (`store.parts`), encoding (`encode.driver`), the order of the steps of a
change (`session.rows`).
A part is an encode like any other: the same receipts, gates, resume and verify, on the same workers.
"""
