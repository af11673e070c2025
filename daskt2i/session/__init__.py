"""One set of workers for one stage after the other.

In here: a cluster that is started once and closed at the end (`session`), the stages on it (`stages`), what
`--scheduler` means (`schedulers`), how many workers and threads (`worker_layout`).
Not in here: what a stage does (`encode`, `train`, `sample`), how it looks (`display`).
Who imports it: `bench`, `cli`, and notebooks.
"""
