"""Sources of images with captions. Each source is a class that a workflow can name.

In here: COCO's caption format (`coco`, `coco_index`), pictures of a folder (`folder`), JSON Lines and CSV (`table`),
Karpathy's splits (`karpathy`), and what these share (`listed`, ids in `identity`); tars (`webdataset`), `parquet`, data
sets of HF (`hf`), and their `index` in parts; drawn scenes (`scenes`, `drawn`); a fake for tests (`fake`); where bytes
lie (`files`); short names and a guess (`names`).
Not in here: decoding images (`images`), encoders, which rows are kept (`facts.selection`).
Imports: `events`, `protocols`, and rooms of floors 0 to 3.
To add one: write a class with a cheap constructor and the methods of `daskt2i.protocols.Source`, and subclass
`daskt2i.testing.source.SourceSuite` in a test. A workflow names it by its dotted path; there is no registry. The row
number of an image must never change, because it is the row of the store. `info().content` must change with the data,
because it is fingerprinted. Never move a source: workflow files and fingerprints hold its class path.
"""
