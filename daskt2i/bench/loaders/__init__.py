"""Our loader beside others, on the same rows and with the same work: `bench loaders`.

In here: the command's measurement (`driver`), the rows and our store of them (`rows`), the process of one loader
(`peer`).
Not in here: an environment for each peer (`bench.peers`), our loader alone by threads and windows (`bench.read`),
training (`bench.train`), reports (`bench.report`).
To add a peer: a class in `peer` with `write` and `batches`, its package in `driver.PACKAGES`.
"""
