"""What a rank must see before its first step: the run folder of the driver, and on rank 0 the models of the encoders.

Covers: refusing a rank on a host that lacks them, by the name of the host.
Does not cover: shards (`checked_store`), sending models (`hosts.model_files`), what the driver does then (`launching`).

Rank 0 exports the encoders at the end of the training. A model that is missing there must not be found out after days.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daskt2i.config.settings import EncoderSettings
from daskt2i.errors import ModelMissing
from daskt2i.hosts.model_files import bring_models
from daskt2i.hosts.sight import here, require_folder
from daskt2i.launch import rank as ranks
from daskt2i.model.own_encoders import infos
from daskt2i.store.run_folder import RunFolder


def require_seen(folder: RunFolder, nonce: str, dataset: Mapping[str, Any] | None = None) -> None:
    """Refuse to train where something is not there.

    Args:
        nonce: of `hosts.sight.visible`; "" for no check of the folder.
        dataset: section of the workflow, if rank 0 needs its encoders.

    Raises:
        WorkerWithoutFiles: this process does not see the run folder of the driver.
        ModelMissing: this is rank 0, and a model of the encoders is neither here nor in the run folder.
    """
    number = ranks.rank().rank
    who = f"Rank {number} on {here()}"
    if nonce:
        require_folder(folder, nonce, who, "no step was trained; saved checkpoints are kept")
    if number or dataset is None:
        return
    encoders, resolution = EncoderSettings.model_validate(dataset["encoders"]), dataset["image"]["resolution"]
    bring_models(encoders, resolution, folder)
    try:
        infos(encoders, resolution)
    except ModelMissing as error:
        raise ModelMissing(
            f"{who} lacks a model of the encoders, which it needs for the pipeline at the end. {error} No step was "
            "trained, and saved checkpoints are kept."
        ) from error
