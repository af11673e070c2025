"""How a step changes the weights.

In here: the model with its optimiser, gradient scaler and moving average (`train_state`), where its weights are
(`replicas`: whole on every rank; `shards`: a part on each), and the optimiser Muon (`muon`).
Not in here: the rate of a step (`train.resume`), the steps themselves (`train.loop`), what the loss is
(`train.denoiser_rank`, `train.autoencoder_rank`).
"""
