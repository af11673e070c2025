"""Image files to pixels.

In here: decoding, orientation, colour and cropping (`read`), which formats are read and how they are recognised
(`formats`).
Not in here: where image files lie (`sources`), what encodes pixels (`encoders`).
Imports: `errors` and `types`. Sources, encoders and images never import each other.
To add a format: its line in `formats`, and a file of it in the tests, whole and damaged.
"""
