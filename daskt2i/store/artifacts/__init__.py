"""Folders of trained models in a run folder, and the checkpoints that they come from: what is finished.

In here: the one place that says whether a model is finished, missing, damaged or of another training (`finished`),
making such a folder visible in one step (`publish`), the JSON files of checkpoints (`checkpoint_labels`), the structure
of folders of older versions, which kept no hashes (`structure`), full disks (`full_disk`), what messages call the
objects of a run folder (`words`).
Not in here: the content of the folders (`model`), tensors of checkpoints and the training itself (`train`).
Imports: other modules of `store`.
docs/decisions/0016-what-is-done.md explains the rules.
"""
