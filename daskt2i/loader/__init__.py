"""Training samples from a latent store or from a source.

In here: the data set of latents (`dataset`), decoded shards in memory (`shards`), the order of samples
(`sample_order`), the data set of pictures for training an autoencoder (`picture_dataset`).
Not in here: how a sample is used (`model`, `train`).
Imports: `store`, `encoders`, `images` and the rooms above them. Trainers in other packages may import this room too.
To add a data set: a class that makes batches from any position, so that a run can stop and resume at any step.
"""
