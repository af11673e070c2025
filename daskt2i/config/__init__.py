"""Workflow files and typed settings: what a user asks for.

In here: reading a workflow (`workflow_file`), the models of its sections (`settings`, `image_settings`), a class named
by its dotted path (`component`), old names of settings (`renamed`), the defaults of `run:` and `launch:`
(`defaults.yaml`).
Not in here: what a setting does. The room that uses a setting knows that.
Imports: only rooms of floors 0 to 3, so every room below may import this one.
To add a setting: a field with a docstring line in `settings`, and a line in docs/reference/config.md. A setting that
changes stored arrays belongs below `dataset:`, which is fingerprinted. To rename a setting, add a row in `renamed` too.
"""
