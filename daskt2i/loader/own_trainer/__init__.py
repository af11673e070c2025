"""`daskt2i.torch_dataset`: the samples of a store for a trainer that is not ours.

In here: the function and the iterable data set (`torch_dataset`), single rows (`map_style`), the batches of one epoch
(`epochs`), their tensors (`sample_tensors`), what a sample has (`columns`), rank and world size (`ranks`).
Not in here: noise, times and caption dropout, which belong to a trainer (`loader.batch_arrays` has those of ours);
reading and memory (`loader`).
"""
