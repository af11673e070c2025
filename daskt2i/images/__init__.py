"""Image files to pixels.

In here: limits, cropping and scaling (`read`), which part of an image is shown (`framing`, `attention`), sizes of
aspect buckets (`buckets`), the formats that are read (`formats`), `orientation`, `colour`, and whether the picture of a
JPEG, PNG or TIFF is whole and what its file means (`jpeg`, `png`, `tiff`).
Not in here: where image files are (`sources`), what encodes pixels (`encoders`).
Imports: `errors` and `types`. The packages sources, encoders and images never import each other.
To add a format: add its line in `formats`, and its row in FORMS of tests/images/test_whole.py, which damages it.
"""
