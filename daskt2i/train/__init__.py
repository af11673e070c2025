"""Training: what a rank does, and what the driver does.

In here: the denoiser on a rank (`denoiser_rank`), an autoencoder on a rank (`autoencoder_rank`), the loop of both
(`loop`), the model with its optimiser (`train_state`, `muon`), files (`checkpoint`, `metrics`), and what the driver
checks, starts and sums up (`driver`, `plan`), a whole run of all stages (`whole_run`).
Not in here: starting ranks (`launch`), models and losses (`model`), samples (`loader`).
`driver` runs beside the user, `*_rank` and `loop` on the workers.
To train something else: a module with a task for `loop`, as `autoencoder_rank` is one; docs/how-to/launch.md
has the steps.
"""
