"""The commands of `bench`.

In here: the application, showing reports, `encode` and `scheduler` (`command`), `read`, `loaders`, `train` and `sample`
(`training`), `peers`, `device`.
Not in here: measuring and reports (`daskt2i.bench`), options that all commands share (`cli.options`).
To add a benchmark: a function here, and its line in `daskt2i.workflow`.
"""
