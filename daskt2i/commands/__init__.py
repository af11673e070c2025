"""The commands. To add one: a function here with options of `daskt2i.options`, and its line in `daskt2i.workflow`."""
