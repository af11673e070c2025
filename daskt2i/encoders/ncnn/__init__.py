"""An autoencoder by ncnn: exact fp32 on processors, with Winograd's convolutions.

Here: the networks written straight from a loaded diffusers model, and the engine that runs them. The package `ncnn` is
optional (`pip install "daskt2i[fast-cpu]"`). Without it everything runs with torch.

Not in here: the encoder class with its settings (`encoders.vae`); the choice of the fastest engine; text encoders.

To add a layer: write its form in `translate.py`, and a test in tests/encoders/test_ncnn.py that compares it with torch.
"""
