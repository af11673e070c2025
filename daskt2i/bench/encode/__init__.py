"""`bench encode`: time by workers and schedulers, compared with a naive program and with the machine's peak.

In here: the runs and their order (`driver`), their rows (`rows`), workers that are warm before the clock starts
(`warm`), a program as people write it by hand (`naive`), the processor's peak (`peak`), the runs of one cell (`runs`),
making a report from runs (`scaling`, `columns`, `plots`).
Not in here: showing a report (`bench.report`).
"""
