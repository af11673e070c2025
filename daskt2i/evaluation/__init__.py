"""Measure what a model draws: whether pictures show their prompts.

In here: prompts that the model has not seen (`unseen_prompts`, `heldout_captions`), comparing pictures with their
prompts (`judging`, `words`, `clip_scores`, `intervals`), the stage that draws and measures (`driver`), what it found
(`result`).
Not in here: drawing (`sample`), the judge of drawn scenes (`sources.drawn.judge`), training.
Imports: `sample` and the rooms above it. `train` does not import this room.
"""
