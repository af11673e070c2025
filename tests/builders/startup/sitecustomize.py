"""Python imports this module when a process starts. The folder is on PYTHONPATH of the processes that tests start.

Covers: garbage collection, which takes a sixth of the time that torch, diffusers and transformers need to be imported.
Does not cover: the process of the tests (`conftest`); anything that changes what a process does.
"""

import gc

gc.set_threshold(10_000, 10, 10)
