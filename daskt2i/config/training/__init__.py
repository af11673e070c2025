"""The settings of models: how they are trained, where their ranks run, how they draw and how they are measured.

In here: what the denoiser and the autoencoder share (`optimiser`), the denoiser (`denoiser`), the autoencoder
(`autoencoder`), the ranks (`launch`), pictures and figures of them (`drawing`).
Not in here: the other sections of a workflow file (`settings`), what the settings do.
"""
