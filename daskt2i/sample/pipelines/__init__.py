"""How each class of diffusers' pipelines draws: one module for each class or two.

In here: what drawing with a pipeline needs (`drawing`), the classes by name (`drawings`), the pipelines of Stable
Diffusion (`stable_diffusion`, `stable_diffusion_xl`), PixArt (`pixart`), and transformers that learn flow
(`flow_transformers`).
Not in here: batches, seeds and files (`sample.painter`, `sample.driver`), the folder of a pipeline (`model.pipeline`).
To add a class: its form in `model.pipeline_forms`, a module here with the methods of `drawing.Drawing`, and a line in
`drawings`.
"""
