"""Figures of a training in the trackers of a user: Weights & Biases, MLflow.

In here: reading the figures while the ranks write them, and giving them to a tracker on a thread of its own (`follow`),
the trackers (`weights_and_biases`, `mlflow_store`).
Not in here: the figures themselves (`train.figures`), their file and TensorBoard (`train.metrics`).
All of it runs on the driver, and a tracker that fails never ends a training.
To add a tracker: write a class with the methods of `follow.Tracker`, and name it in `follow.open_tracker`.
"""
