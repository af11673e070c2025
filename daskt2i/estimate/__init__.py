"""Forecasts of time, memory, disk and cost of an encode.

In here: the arithmetic from measured rates to hours and money (`arithmetic`), the result of one estimate (`result`), a
forecast on disk and the comparison with the run that followed (`forecast`).
Not in here: measuring (`encode.calibration`), how a forecast is shown (`display.estimate`).
It imports no torch and no Dask.
"""
