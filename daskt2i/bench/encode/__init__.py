"""`bench encode`: time by workers and schedulers, against the naive way and the machine's limit.

In here: which runs there are, and their order (`driver`), the rows they encode (`rows`), workers that are warm before
the clock starts (`warm`), the way people write it by hand (`naive`), the processor's limit (`peak`), the runs of one
cell (`runs`), runs to a report (`scaling`, `columns`, `plots`).
Not in here: how a report is shown (`bench.report`).
"""
