"""Rows of images with captions: where data comes from. Each source is a class that a workflow can name.

In here: COCO's caption format (`coco`, its index in `coco_index`, images in a zip in `zipped`), drawn scenes
(`scenes`, with everything about drawing in `drawn`), and a fake for tests (`fake`).
Not in here: decoding images (`images`), encoders, which rows are kept (`facts.selection`).
Imports: `errors`, `types`, `events`.
To add one: write a class with `info`, `rows` and `read` as `daskt2i.protocols.Source` describes them, with a cheap
constructor, and subclass `daskt2i.testing.source.SourceSuite` in a test. A workflow names it by its dotted path; no
registry needs to know it. Row `index` stays the same for ever, as it is the row of the store; `info().content` changes
whenever the data does, as it goes into the fingerprint. Class paths stand in workflow files and in fingerprints, so a
source never moves.
"""
