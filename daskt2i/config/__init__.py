"""Workflow files and typed settings: what a user asks for.

In here: reading a workflow (`workflow_file`), the models that its sections become (`settings`), a class named by its
dotted path (`component`), old names of settings (`renamed`), the defaults of `run:` and `launch:` (`defaults.yaml`).
Not in here: what a setting does. The room that uses a setting knows that.
Imports: `errors` alone, so every room may import this one.
To add a setting: a field with a docstring line in `settings`, a line in docs/reference/config.md. If it changes stored
arrays, it belongs below `dataset:`, which is fingerprinted. To rename one: a row in `renamed` besides.
"""
