"""Train the denoiser or an autoencoder: the work of a rank, and the work of the driver.

In here: the denoiser on a rank (`denoiser_rank`), an autoencoder on a rank (`autoencoder_rank`), the loop of both
(`loop`), the model with its optimiser (`optimisation`), the figures of the steps (`figures`), what goes on beside the
steps (`upkeep`), files (`checkpoint`, `metrics`), the driver (`driver`) and its plan (`plan`), what a checkpoint may be
continued with (`resume`, `samples`), a whole run of all stages (`whole_run`).
Not in here: starting ranks (`launch`), models and losses (`model`), samples (`loader`).
`driver` runs in the user's process, `*_rank` and `loop` on the workers.
To train another model: write a module with a task for `loop`, like `autoencoder_rank`;
docs/how-to/launch.md has the steps.
"""
