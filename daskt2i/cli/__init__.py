"""The command line: reads options, calls what does the work, shows what came of it.

In here: options that commands share (`options`), output and errors (`console`), the commands about data (`data`), about
models (`model`), the estimate (`estimate`), benchmarks (`bench`, `bench_training`).
Not in here: any work. Together with `workflow` this is the only room that prints.
To add a command: a function here with options of `options`, its line in `daskt2i.workflow`, and its line in the README.
"""
