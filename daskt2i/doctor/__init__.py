"""What a run would find: each worker, the network, the run folder, the plan, and each problem with what to do.

In here: what any Python process says of its machine (`bare`), what a worker with daskt2i sees of a workflow (`sight`),
asking workers with time limits (`asking`), speeds and clocks (`speeds`), the rules that find problems (`rules`, with
one module for each subject), what is shown (`result`), the whole look (`driver`), the method of `Run` (`run_doctor`).
Not in here: benchmarks (`bench`), the plan itself (`encode.prepare`), what a worker must have (`encode.chunks`).
It runs no model, starts only the workers that a user names, and leaves nothing behind.
To add a finding: a rule in `rules`, from facts that `bare` or `sight` collect, and a test with facts that are healthy.
"""
