"""The shapes of pictures that a run encodes: squares, several sizes, aspect buckets, mirrored pictures.

In here: which views a run makes, and of which chunks (`views`), the arrays of each (`arrays`), encoding and decoding
pictures of several views (`pictures`), and what a plan says of them (`words`).
Not in here: which bucket a row belongs to (`facts.bucketed`), crops (`images.framing`), how a store tells its views
(`store.views`).
A run without any of these settings has one view, and its arrays have plain names.
"""
