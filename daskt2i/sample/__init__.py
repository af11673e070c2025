"""Draw pictures from prompts, and measure whether the pictures show their prompts.

In here: one batch of pictures (`painter`), one worker's part (`worker`), all pictures on the workers and in `samples/`
(`driver`), contact sheets (`image_grid`), comparing pictures with their prompts (`fidelity`), the stage that draws and
measures (`evaluate`).
Not in here: the pipeline folder (`model.pipeline`), training, the judge of drawn scenes (`sources.drawn.judge`).
Imports: `model`, `encode` and the rooms above them. An executor decides where pictures are drawn.
To add a measure of pictures: a function in `fidelity`.
"""
