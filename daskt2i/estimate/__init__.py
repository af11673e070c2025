"""Time, memory, disk and cost of an encode: the arithmetic, and what was forecast before.

In here: measured rates to hours and money (`arithmetic`), a forecast on disk and the comparison with the run that
followed (`forecast`).
Not in here: measuring (`encode.calibration`), how a forecast looks (`display.estimate`).
Imports: `errors`, `plan`, `config`, `store`. No torch, no Dask.
"""
