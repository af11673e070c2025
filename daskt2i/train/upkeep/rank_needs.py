"""What a rank must see before its first step: the run folder of the driver, images, and models.

Covers: refusing a rank on a host that lacks them, by the name of the host.
Does not cover: shards (`checked_store`), sending models (`hosts.model_files`), what the driver does then (`launching`).

Rank 0 exports the encoders at the end of a training of the denoiser. A model that is missing there must not be found
out after days, and one with other weights must not get into the pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from daskt2i.config.image_settings import ImageSettings
from daskt2i.config.settings import EncoderSettings
from daskt2i.errors import ModelError, ModelMissing, SourceMissing, WorkerWithoutFiles
from daskt2i.hosts.model_files import bring_models, encoder_infos, fetch
from daskt2i.hosts.sight import here, require_folder
from daskt2i.launch import rank as ranks
from daskt2i.store.layout import about_store
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

_DONE = "no step was trained; saved checkpoints are kept"


def require_seen(
    folder: RunFolder, nonce: str, name: str, dataset: Mapping[str, Any] | None = None, every: bool = False
) -> None:
    """Refuse to train where something is not there.

    Args:
        nonce: content of the object `name`, of `hosts.sight.visible`; "" for no check of the folder.
        dataset: section of the workflow, if rank 0 needs its encoders.
        every: whether each rank needs them, because the ranks encode captions.

    Raises:
        WorkerWithoutFiles: this process does not see the run folder of the driver.
        ModelMissing: this is rank 0, and a model of the encoders is neither here nor in the run folder, or the one here
            is not the one that the store was made with.
    """
    if nonce:
        require_folder(folder, nonce, _who(), _DONE, name)
    if dataset is None or (ranks.rank().rank and not every):
        return
    encoders = EncoderSettings.model_validate(dataset["encoders"])
    resolution = ImageSettings.model_validate(dataset["image"]).side
    wanted = _weights_of(folder)
    try:
        bring_models(encoders, resolution, folder, wanted)
        found = encoder_infos(encoders, resolution)()
    except ModelError as error:
        raise ModelMissing(
            f"{_who()} lacks a model of the encoders, which it needs for the pipeline at the end. {error} So {_DONE}."
        ) from error
    if wanted is not None and found != wanted:
        raise ModelMissing(
            f"{_who()} has other weights of the encoders than those that made the store, and it needs them for the "
            f"pipeline at the end. So {_DONE}. Put the models of the driver under the same path there, and train again."
        )


def _weights_of(folder: RunFolder) -> tuple[str, str] | None:
    """The identities of the image and text weights that the store was made with; None without a store."""
    if (stored := about_store(ZarrStore(folder))) is None:
        return None
    encoders = stored["identity"]["encoders"]
    return str(encoders["image"]["weights"]), str(encoders["text"]["weights"])


@contextmanager
def named(folder: RunFolder, find: Callable[[], object]) -> Iterator[None]:
    """A block that opens images and a model. What is missing is told with the name of this host.

    Args:
        find: finds the model. If it is missing, it is fetched from the run folder, if that offers it.

    Raises:
        WorkerWithoutFiles: the images are not here.
        ModelMissing: the model is neither here nor in the run folder.
    """
    try:
        try:
            find()
        except ModelMissing:
            fetch(folder)
        yield
    except ModelMissing as error:
        raise ModelMissing(f"{_who()} lacks a model. {error} So {_DONE}.") from error
    except SourceMissing as error:
        raise WorkerWithoutFiles(
            f"{_who()} does not see the images or the captions that the driver sees, so {_DONE}. Give all machines "
            "the same files under the same paths, or at addresses (images, captions)."
        ) from error


def _who() -> str:
    return f"Rank {ranks.rank().rank} on {here()}"
