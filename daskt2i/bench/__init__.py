"""Benchmarks: how fast each stage runs on this machine.

In here: encoding by workers and schedulers (`encode`), encoding and loaders beside other tools (`peers`, `loaders`),
samples out of a store (`read`), training by ranks (`train`), drawing (`sample`), one device beside plain code
(`device`), many simulated workers (`scheduler`, `simulation`). Shared parts: separate processes (`child`, `cell`),
tasks and figures (`measured`), memory (`meter`), stores of random numbers (`stores`), reports (`report`, `page`).
Not in here: a forecast of one run (`estimate`), the options of the commands (`cli.bench`).
To add a benchmark: a function that returns a `BenchReport`, and its command in `cli`.
"""
