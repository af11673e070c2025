"""The classes of denoisers that training knows, one module for each: its config, its weights, its call.

In here: what all of them share (`denoiser`), the class by its path (`kinds`), the U-Net of diffusers (`unet`, with the
mask of its pooled prompt in `masked_unet`).
Not in here: objectives (`model.diffusion`), the trained folder (`model.pipeline`), drawing with it (`sample`).
To add a class: a module with the four methods of `denoiser.DenoiserKind`, and a line in `kinds`. What is special about
the class (signs, scales of time, learned variances) stays in its module.
"""
