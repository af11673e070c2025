"""Image encoders (pixels to latents) and text encoders (captions to text states). A workflow can name each class.

In here: autoencoders (`vae`, `vaeconfig`), one text model (`text`, `text_model`, `textconfig`, `tokens`), all text
models of a pipeline (`joint`), features (`features`), finding and loading weights (`finding`, `weights`), size and
memory of a model (`footprint`), scaling and shifting latents (`latent_scaling`), encoders in a trained pipeline folder
(`export`), a fake (`fake`), encoders that make nothing (`nothing`), a faster engine (`ncnn`).
Not in here: when and where a chunk is encoded (`encode`), the models that are trained (`model`).
Imports: rooms of floors 0 to 3.
To add one: write a class with a cheap constructor and the methods of `daskt2i.protocols.ImageEncoder` or `TextEncoder`,
and subclass the suite in `daskt2i.testing.encoder` in a test. The constructor must not import torch. A workflow names
the class by its dotted path; there is no registry. Never move an encoder: fingerprints hold its class path.
"""
