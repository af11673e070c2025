"""`bench device`: what one device does in encoding, training and drawing, beside plain code of the libraries.

In here: the command's work and the report (`driver`), the process that measures (`worker`) and what it tells
(`recorder`), time and memory on a GPU or a CPU (`clock`), models and batches (`sizes`), what is measured (`parts`), the
table (`columns`) and the page (`markdown`).
Not in here: many workers (`bench.encode`), ranks (`bench.train`), how a report is shown (`bench.report`).
"""
