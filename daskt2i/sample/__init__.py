"""Prompts to pictures, and whether they are right.

In here: one batch of pictures (`painter`), a worker's part of them (`worker`), all of them on the workers and into
`samples/` (`driver`), many pictures in one (`image_grid`), pictures against their prompts (`fidelity`), and the stage
that draws and measures (`evaluate`).
Not in here: the pipeline folder (`model.pipeline`), training, the judge of drawn scenes (`sources.drawn.judge`).
Imports: `model`, `encode` and the rooms above them; where pictures are drawn it is told by an executor.
To add a measure of pictures: a function in `fidelity`.
"""
