"""Figures that the field compares: FID, KID, CMMD, CLIP score, precision and recall.

In here: models that make features of pictures (`extractors`, `inception`), what a worker does (`worker`), parts that
are kept, so that a killed driver can go on (`parts`), the pictures to compare with (`reference`) and their statistics
(`statistics`), the distances (`distances`), what is checked before work begins (`request`), the whole (`driver`), what
came out (`result`).
Not in here: drawing (`sample`), the judge of drawn scenes (`evaluation.judging`).
To add a figure: a name in `config.training.drawing`, its model in `request`, its value in `driver`.
"""
