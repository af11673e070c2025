"""One run folder with its settings, and one set of workers for all its stages.

In here: a cluster that starts once and closes at the end (`session`), the stages on it (`stages`, `estimate`), the
meaning of `--scheduler` (`schedulers`), the number of workers and threads (`worker_layout`), the settings of a run
folder (`run_settings`), reading a run folder (`run_reader`, `run_view`), calls of the methods of `Run` (`verbs`).
Not in here: what a stage does (`encode`, `train`, `sample`), how it looks (`display`), the front object (`run`).
Who imports it: `run`, `bench`, `cli`.
"""
