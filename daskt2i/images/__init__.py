"""Image files to pixels.

In here: decoding, orientation, colour and cropping (`read`), the formats that are read (`formats`).
Not in here: where image files are (`sources`), what encodes pixels (`encoders`).
Imports: `errors` and `types`. The packages sources, encoders and images never import each other.
To add a format: add its line in `formats`. Add a whole and a damaged file of this format to the tests.
"""
