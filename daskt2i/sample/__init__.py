"""Draw pictures from prompts.

In here: one batch of pictures (`painter`), one worker's part (`worker`), all pictures on the workers and in `samples/`
(`driver`), contact sheets (`image_grid`), the text states of prompts and their lengths.
Not in here: the pipeline folder (`model.pipeline`), training, measuring what is drawn (`evaluation`).
Imports: `model`, `encode` and the rooms above them. An executor decides where pictures are drawn.
"""
