"""Drawn scenes: their pictures, their sentences, and a judge that reads both back.

In here: shapes and colours to pixels (`drawing`), scenes to captions and captions to expectations (`grammar`), whether
a picture shows what a sentence says (`judge`).
Not in here: the source that serves scenes as rows (`sources.scenes`).
Who imports it: `sources.scenes`, `sample.fidelity`, and the scripts in `workflows/`.
"""
