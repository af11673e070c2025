"""The command line: read options, call the stages, and show their results.

In here: options that commands share (`options`, `numbers`), output and errors (`console`), making a `Run` from options
(`front`), the commands for data (`data`), for models (`model`), and for benchmarks (`bench`).
Not in here: the stages themselves. Only this room and `workflow` print.
To add a command: a function here with options of `options`, its line in `daskt2i.workflow`, and its line in the README.
"""
