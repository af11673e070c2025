"""The figures of the steps: loss, norm and held-out loss over all ranks, and what follows from bad ones.

In here: the figures of the steps and what they decide (`step_figures`), steps with a loss or a gradient far too large
(`spikes`), the error for a value that is not finite (`not_finite`), the loss on held-out rows (`heldout`)
and by noise level (`by_time`).
Not in here: the files of the figures (`train.metrics`), the loop that asks for them (`train.loop`), how they look
(`display`, `dashboard`).
Only rank 0 writes, and every rank sees the same sums, so all ranks decide alike.
"""
