"""The parts of what is known of a run: the figures of an encode, the figures of a training, curves of a fixed size.

In here: folding the messages of one kind of stage (`encode`, `train`); curves, histograms and the strip of chunks
(`series`).
Not in here: the whole state of a run, which pages draw (`run_state`), the messages (`messages`).
To add a figure: put it into a message, give it an attribute with its unit here, and fold it. What has no bound of its
own needs one: a run may have millions of rows, and its state must stay small.
"""
