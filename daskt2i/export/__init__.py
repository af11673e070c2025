"""A store as files of another format, for trainers that read that format.

In here: what an export is and how it becomes whole (`driver`), the rows (`rows`, `columns`), one module a format
(`webdataset`, `npy`, `parquet`, `hf`, `kohya`, `mds`), the data card (`card`), the result (`result`), the methods of
`Run` (`run_export`), a run folder on the Hugging Face hub (`hub`).
Not in here: reading a store as it is (`daskt2i.open_store`), batches for torch (`loader.own_trainer`).
To add a format: a class with the methods of `rows.Writer`, and its name in `driver.FORMATS`; a test reads it back with
the library that people use.
"""
