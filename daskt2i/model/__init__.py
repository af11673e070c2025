"""The models that daskt2i trains, and the diffusers folder that holds a trained model.

In here: the denoisers (`denoisers`), the loss and its noise (`diffusion`, `noise_schedule`), the autoencoder and
its loss (`autoencoder`, `autoencoder_loss`), how a trained pipeline is written and described (`pipeline`).
Not in here: the loop that trains (`train`), drawing with the result (`sample`), encoders for data (`encoders`).
Imports: `errors`, `types`, `protocols`, `config`, `machine`, `encoders`, `store`; torch and diffusers inside functions.
To add a denoiser: see `denoisers`. To add another model: a module for it, and one for its loss.
"""
