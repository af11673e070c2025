"""Drawn scenes: their pictures, their captions, and a judge that compares the two.

In here: drawing shapes and colours (`drawing`), writing and parsing captions (`grammar`), checking whether a picture
shows what a caption says (`judge`).
Not in here: the source that serves scenes as rows (`sources.scenes`).
Importers: `sources.scenes`, `evaluation.judging`, and the scripts in `workflows/`.
"""
