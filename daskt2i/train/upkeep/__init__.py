"""What goes on beside the steps of a training.

In here: when a checkpoint is saved between the planned ones (`save_times`), the precision in which a step is faster
(`precision_probe`), hashing shards before they are used (`checked_store`), launching the ranks with what the settings
say, and the object that `status` reads while a rank stands still (`launching`), requests to a training that runs
(`requests`).
Not in here: the steps (`train.loop`), checkpoints themselves (`train.checkpoint`), who stands still
(`launch.vitals.standstill`).
"""
