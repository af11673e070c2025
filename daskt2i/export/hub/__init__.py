"""A run folder as a data set on the Hugging Face hub.

In here: which files are pushed and in which order (`files`), the data card with the header of the hub (`dataset_card`),
the repository (`repository`), the steps of a push (`driver`), its result (`result`).
Not in here: reading from the hub. `open_store("hf://datasets/OWNER/NAME")` reads it like any address, because
huggingface_hub gives fsspec the protocol `hf`.
A repository has the layout of a run folder, so that everything that reads a run folder reads it there too.
"""
