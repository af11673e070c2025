"""Loaded models of diffusers and transformers, rewritten so that inference is faster.

In here: the list of passes (`rewrite`), and the passes: elementwise steps in place (`residual_blocks`, `activations`),
convolution weights in the layout of the processor (`packed_convolutions`), work that depends on the prompt alone
(`conditions`), attention (`attention`); how a new class is compared with the old one (`parity`). CLIP text models with
all captions in one product (`packed_captions`).
Not in here: loading models (`encoders`, `sample`), training, which must not get a rewritten model.
Imports: no other room; torch and diffusers inside functions.
To add a pass: a function that takes a module and returns how many submodules it changed. It changes only classes that
it knows, keeps the keys of `state_dict`, and gives the same bits. Add it to `PASSES`, and a test that compares bits.
"""
