"""Training samples out of a store or out of a source.

In here: the data set of latents (`dataset`), decoded shards in memory (`shards`), which sample comes when
(`sample_order`), the data set of pictures for training an autoencoder (`picture_dataset`).
Not in here: what a sample is used for (`model`, `train`).
Imports: `store`, `encoders`, `images` and the rooms above them. Trainers of other people may import this room too.
To add a data set: a class with `batch` by step number, so that a run can stop and go on at any step.
"""
