"""An index in two levels, for sources with more rows than the memory of the driver holds.

In here: the files of a place and their stamps (`places`), what a source finds in a file (`found`), rows of a part as an
Arrow file (`part_rows`), one line for each file and part (`lines`), building all of it (`build`), equal ids in
different parts (`repeats`), where it is kept (`shelf`), giving rows from it (`row_index`), and all of that for a source
(`indexed`); captions that lie beside an image (`captions`); columns of Arrow tables (`columns`).
Not in here: reading a tar, a Parquet or an Arrow file (the sources beside this room), reading images (`files`).
To add a source in parts: give `build` the files of your place and a function from a file to its rows.
"""
