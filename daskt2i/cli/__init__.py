"""The command line: reads options, calls what does the work, shows what came of it.

In here: options that commands share (`options`, `numbers`), output and errors (`console`), from options to a `Run` and
back (`front`), the commands about data (`data`), about models (`model`), benchmarks (`bench`, `bench_training`).
Not in here: any work. Together with `workflow` this is the only room that prints.
To add a command: a function here with options of `options`, its line in `daskt2i.workflow`, and its line in the README.
"""
