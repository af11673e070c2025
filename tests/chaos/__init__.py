"""Chaos: an encode of thousands of rows whose processes, connections, disk and clocks are disturbed until time is up.

    python tests/chaos --minutes 3 --seed 7

Afterwards the store must equal the store of a calm run, byte for byte, and every row must be counted. The seed decides
what is done and when, but not how the processes react, so two runs of one seed are alike and not equal.

In here: the cluster and the commands (`stage`), an encoder that takes its time (`slow`), a TCP proxy that delays, tears
and drops connections (`proxy`), a disk that can be filled (`disk`), what can be done to them (`mischief`), the
comparison with the calm run (`judge`), rounds and report (`run`).

Not in here: interleavings of the publishing protocol in simulated time (`tests/store`), faults of single functions.
"""
