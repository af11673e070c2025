"""Whether ranks live and move, and what they use.

In here: signs of life and requests inside a rank (`heartbeat`), what its supervisor sees of the process (`pulse`),
which rank stands still (`standstill`).
Not in here: starting and stopping ranks (`launch.supervisor`, `launch.attempt`), checkpoints (`train`).
"""
