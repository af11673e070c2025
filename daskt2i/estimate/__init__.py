"""Time, memory, disk and cost of an encode: the arithmetic, and what was forecast before.

In here: measured rates to hours and money (`arithmetic`), what one command found (`result`), a forecast on disk and the
comparison with the run that followed (`forecast`).
Not in here: measuring (`encode.calibration`), how a forecast looks (`display.estimate`).
It imports no torch and no Dask.
"""
