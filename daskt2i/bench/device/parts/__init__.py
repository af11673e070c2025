"""The parts of `bench device`: each has a function `measure` that tells a recorder what it finds.

In here: the device itself (`hardware`), encoders alone (`encoders`), `bench encode` on one device (`whole_path`),
training (`training`), drawing (`drawing`), kernels (`kernels`).
Not in here: time and memory of a call (`clock`), models and batches (`sizes`), the order of the parts (`worker`).
To add a part: a module here, and its line in `worker`: its share of the time, and its call.
"""
