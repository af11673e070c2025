"""Training samples from a latent store or from a source.

In here: the data set of latents (`dataset`), batches from any position (`row_stream`), their arrays (`batch_arrays`),
the order of samples (`sample_order`), their random numbers (`random_numbers`), which rows are held out together
(`content`), reading (`shards`, `inner_chunks`, `read_ahead`), decoded rows (`memory/`), pictures for training an
autoencoder (`picture_dataset`), `daskt2i.torch_dataset` for trainers of others (`own_trainer/`).
Not in here: how a sample is used (`model`, `train`).
Imports: `store`, `facts` (near copies), `encoders`, `images` and the rooms above them. Trainers in other packages may
import this room too.
To add a data set: a class that makes batches from any position, so that a run can stop and resume at any step.
"""
