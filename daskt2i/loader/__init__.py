"""Training samples from a latent store or from a source.

In here: the data set of latents (`dataset`), the arrays of a batch (`batch_arrays`), the order of samples
(`sample_order`), their random numbers (`random_numbers`), which rows are held out together (`content`), reading
(`shards`, `inner_chunks`, `loaded_rows`) and memory (`read_ahead`, `upcoming_rows`, `used_again`), the data set of
pictures for training an autoencoder (`picture_dataset`).
Not in here: how a sample is used (`model`, `train`).
Imports: `store`, `facts` (near copies), `encoders`, `images` and the rooms above them. Trainers in other packages may
import this room too.
To add a data set: a class that makes batches from any position, so that a run can stop and resume at any step.
"""
