"""Image encoders that describe a picture and cannot draw it: SigLIP and DINOv2.

In here: kind and sizes of such a model from its config (`visionconfig`), the encoder that a workflow names (`vision`).
Not in here: autoencoders (`encoders.vae`), text encoders (`encoders.text`), the training that compares a denoiser with
features.
Their `decode` returns None, so no chunk is decoded back and compared; NaN and infinity are still found.
To add a kind: add it to `visionconfig.KINDS`, and compare it with plain transformers in tests/encoders/test_vision.py.
"""
