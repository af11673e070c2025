"""The text models of one pipeline, side by side: SDXL has two, SD 3 has three, Flux has two.

In here: which models a pipeline has and how their states are joined (`layouts`), the encoder that a workflow names
(`text`).
Not in here: one text model (`encoders.text`), the denoiser that reads the states (`model`).
To add a pipeline: add its parts to `LAYOUTS`, and compare with its `encode_prompt` in tests/encoders/test_joint.py.
"""
