"""Pixels to latents and captions to text states. Each encoder is a class that a workflow can name.

In here: VAEs (`vae`), text encoders (`text`, `textconfig`, `tokens`), finding and loading weights (`weights`), what a
model needs (`footprint`), how raw latents become final ones (`latent_scaling`), the layout of a trained folder
(`export`), one process loading while others wait (`one_at_a_time`), a fake for tests (`fake`).
Not in here: when and where a chunk is encoded (`encode`), the models that we train (`model`).
Imports: `errors` and `types`.
To add one: write a class with the methods of `daskt2i.protocols.ImageEncoder` or `TextEncoder`, with a cheap
constructor that imports no torch, and subclass the suite in `daskt2i.testing.encoder` in a test. A workflow names it by
its dotted path; no registry needs to know it. Class paths stand in fingerprints, so an encoder never moves.
"""
