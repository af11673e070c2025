"""Pretrained pipelines of diffusers, whose denoiser is tuned on the latents of a store.

In here: the classes that can be tuned (`tunables`), the folder of a pipeline (`pipeline_folder`), what its scheduler
says of the training (`schedule`), whether a store fits it (`fit`, `same_encoders`), which of its weights are trained
(`tuning`), LoRA files (`lora_files`).
Not in here: the settings (`config.training.pretrained`), the training (`train`), drawing (`sample`).
A base pipeline is only read. The work begins after all checks.
To add a kind of pipeline: a line in `TUNABLES` of `tunables`, its classes in `model.pipeline_parts`.
"""
