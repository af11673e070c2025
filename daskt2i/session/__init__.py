"""One run folder with its settings, and one set of workers for one stage after the other.

In here: a cluster that is started once and closed at the end (`session`), the stages on it (`stages`, `estimate`), what
`--scheduler` means (`schedulers`), how many workers and threads (`worker_layout`), which settings hold for a run folder
(`run_settings`), what can be read of it (`run_reader`, `run_view`), how its methods are called (`verbs`).
Not in here: what a stage does (`encode`, `train`, `sample`), how it looks (`display`), the front object (`run`).
Who imports it: `run`, `bench`, `cli`.
"""
