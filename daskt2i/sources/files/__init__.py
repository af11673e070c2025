"""Where the bytes of images and captions lie, for all sources.

In here: opening any of these places (`opening`), files of a folder and of an fsspec address (`folders`), entries of a
zip archive (`zipped`), spans of a larger file (`spans`), values of Parquet files (`row_groups`), packed caption files
(`packed`), and whether a place is still there (`presence`).
Not in here: which rows there are (the sources beside this room), decoding images (`images`).
To add a kind of place: a class with `read(name)`, `stamp(name)`, `names()`, and no file that stays open.
"""
