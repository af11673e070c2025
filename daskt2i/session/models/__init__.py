"""Methods of the front object about models: training, drawing, measuring.

In here: the class that `Run` inherits (`methods`).
Not in here: what the stages do (`train`, `sample`), running them on the workers (`session.stages`), the settings that
they read (`config.training`).
To add a method: its arguments in `methods`, its stage in `session.stages`.
"""
