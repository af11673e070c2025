"""Decoded rows in memory: what they are, when they come and go, and blocks of memory that are used again.

In here: the decoded rows of a shard (`loaded_rows`), rows that batches will need (`upcoming_rows`), all rows in files
(`mapped_rows`), memory that is used again (`used_again`).
Not in here: decoding (`loader.inner_chunks`), which rows a batch has (`loader.row_stream`).
Imports: `loader.sample_order` only.
"""
