"""The trained model as a folder that diffusers loads: `DiffusionPipeline.from_pretrained(RUN/pipeline)`.

    pipeline/model_index.json
    pipeline/unet/ vae/ text_encoder/ tokenizer/ scheduler/        transformer/ in place of unet/ for a transformer
    pipeline/daskt2i.json          the label: the training data, whether padding was masked, a map from latents to RGB

Covers: the files of this folder, schedulers for each objective and sampler, the fast map from latents to colours.
Does not cover: how folders of other pipelines differ (`pipeline_forms`), making it visible in one step
(`store.artifacts.publish`), whether it is finished (`store.artifacts.finished`), drawing pictures (`sample.painter`),
training (`train`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.component import Component
from daskt2i.config.samplers import Sampler
from daskt2i.encoders import export
from daskt2i.encoders.weights import first_line, quiet
from daskt2i.errors import ModelError, ModelMissing
from daskt2i.model.denoisers.denoiser import DenoiserKind
from daskt2i.model.denoisers.kinds import KINDS
from daskt2i.model.denoisers.unet import UNet, pools_text
from daskt2i.model.noise_schedule import SCHEDULE, STEPS, Objective
from daskt2i.model.pipeline_forms import FLOW_EULER, form_of
from daskt2i.model.pipeline_parts import refuse_foreign_parts
from daskt2i.protocols import ImageEncoder, TextEncoder
from daskt2i.store.artifacts.finished import ALONE as ALONE
from daskt2i.store.artifacts.finished import LABEL, PIPELINE_FOLDER, State, look
from daskt2i.store.artifacts.full_disk import temporary_folder
from daskt2i.store.artifacts.publish import publishing
from daskt2i.store.run_folder import PIPELINE, RunFolder

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor, nn

INDEX = PIPELINE_FOLDER.index
ABOUT = LABEL
CLASS, SIDES = "class", "latent_sides"
"""Keys of `daskt2i.json`: the class of the denoiser, and height and width of the latents that it draws. Both are absent
for a U-Net, whose config has the sides; the config of a transformer has one number for both."""

POOLED, WITHOUT_PADDING = "pooled_text", "without padding"
"""Key of `daskt2i.json` and of a training's identity, and its value: padding is no part of the pooled prompt.

The key is absent if padding counts as text (`pad: full`), and if the denoiser does not pool the prompt. Older versions
pooled padding too, so it is absent from what they left.
"""


_UNET = UNet()


def scheduler_config(objective: Objective, shift: float = 1.0) -> dict[str, Any]:
    """Arguments of the `DPMSolverMultistepScheduler` (dpm++, arXiv:2211.01095) that fits the training objective."""
    if objective == "flow":
        # FlowMatchEulerDiscreteScheduler does not run in a StableDiffusionPipeline: it has no init_noise_sigma.
        return {
            "num_train_timesteps": STEPS,
            "prediction_type": "flow_prediction",
            "use_flow_sigmas": True,
            "flow_shift": shift,
        }
    if objective == "v":
        # With zero terminal SNR, sampling must start at the last step (arXiv:2305.08891, 3.3). "trailing" does that.
        also = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    else:
        also = {"prediction_type": "epsilon", "timestep_spacing": "leading", "steps_offset": 1}
    return {**SCHEDULE, **also}


def scheduler_for(config: Mapping[str, Any], sampler: Sampler) -> Any:
    """The diffusers scheduler of a sampler.

    Args:
        config: the config of the pipeline's own scheduler.

    For flow, `ddim` and `euler` are the same: both step straight along the velocity. A first-order solver in terms of
    the clean latent does so too.
    """
    import diffusers

    given = {key: value for key, value in config.items() if not key.startswith("_")}
    if "shift" in config:  # the pipeline works with this one alone, whatever the sampler
        return diffusers.FlowMatchEulerDiscreteScheduler.from_config(given)
    if sampler == "dpm++":
        return diffusers.DPMSolverMultistepScheduler.from_config(given)
    if config.get("use_flow_sigmas"):
        return diffusers.DPMSolverMultistepScheduler.from_config({**given, "solver_order": 1})
    if sampler == "ddim":
        return diffusers.DDIMScheduler.from_config({**given, "clip_sample": False, "set_alpha_to_one": True})
    return diffusers.EulerDiscreteScheduler.from_config(given)


def publish(
    folder: RunFolder,
    denoiser: nn.Module,
    image: Mapping[str, Any],
    text: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    about: Mapping[str, Any],
    latents: npt.NDArray[np.float32],
    kind: DenoiserKind = _UNET,
) -> tuple[str, str | None]:
    """Write `pipeline/` into the run folder. It becomes visible in one step.

    Args:
        denoiser: the model.
        image, text: the components of the encoders, as in the workflow.
        scheduler: the result of `scheduler_config`.
        about: JSON values for `daskt2i.json`.
        latents: some final latents `float32[n, c, y, x]`, to fit the map to colours.
        kind: of the denoiser.

    Returns:
        The address of the folder, and None. If diffusers cannot load the encoders, or there is no pipeline for this
        kind, the second value is the reason, and the folder holds the denoiser without encoders.

    Raises:
        StoreFull, StoreError: the folder cannot be written; the former one is unchanged.
        ModelMissing, ModelError: an encoder is no longer there.
    """
    import diffusers

    form = form_of(kind.pipeline)
    library, _, name = kind.class_path.rpartition(".")
    with publishing(folder, PIPELINE_FOLDER) as new:
        here = new.place
        with quiet():
            _save_denoiser(denoiser, here / form.denoiser, name)
            if form.scheduler == FLOW_EULER and "flow_shift" in scheduler:
                scheduler = {"num_train_timesteps": STEPS, "shift": scheduler["flow_shift"]}
            getattr(diffusers, form.scheduler).from_config(dict(scheduler)).save_pretrained(str(here / "scheduler"))
        index: dict[str, Any] = {
            "_class_name": kind.pipeline,
            "_diffusers_version": diffusers.__version__,
            form.denoiser: [library, name],
            "scheduler": ["diffusers", form.scheduler],
            **form.index,
        }
        image_encoder = Component.model_validate(image).build(ImageEncoder, "dataset.encoders.image")
        text_encoder = Component.model_validate(text).build(TextEncoder, "dataset.encoders.text")
        why = form.unfit(image_encoder, text_encoder)
        if kind.class_path not in KINDS:
            why = f"daskt2i knows no pipeline for {kind.class_path}"
        own = {} if kind.class_path == _UNET.class_path else {CLASS: kind.class_path}
        new.label.update({**about, **own} if why is None else {**about, **own, ALONE: why})
        if why is None:
            # Pipelines of newer models add the shift, which is folded into the weights, and do not take null for none.
            vae = export.export_vae(image_encoder, here / "vae", 0.0 if form.scheduler == FLOW_EULER else None)
            form.text.write(text_encoder, here)
            parts = {name: value if form.clip else [None, None] for name, value in form.text.index.items()}
            index |= {"vae": ["diffusers", type(vae).__name__], **parts}
            new.label.update(_colours(vae, latents))
            (here / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return folder.address(PIPELINE), why


def _save_denoiser(model: Any, folder: Path, name: str) -> None:
    """Write the denoiser as a model of the class of this name, whose weights and config it has."""
    model.save_pretrained(str(folder), safe_serialization=True)
    label = folder / "config.json"
    config = json.loads(label.read_text(encoding="utf-8"))
    config["_class_name"] = name
    label.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _colours(vae: Any, latents: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Fit a linear map from latent channels to RGB (-1 to 1), using pictures that the autoencoder decodes.

    The fit is least squares over all positions of all latents. Pictures are first averaged down to the latents' size.
    """
    import torch

    if not len(latents):
        return {}
    given = torch.from_numpy(np.ascontiguousarray(latents))
    with torch.no_grad():
        made = torch.cat([vae.decode(part / vae.config["scaling_factor"]).sample for part in given.split(1)])
    small = torch.nn.functional.adaptive_avg_pool2d(made, (given.shape[2], given.shape[3]))
    inputs = given.permute(0, 2, 3, 1).flatten(0, 2).double()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1)
    targets = small.permute(0, 2, 3, 1).flatten(0, 2).double()
    found = torch.linalg.lstsq(inputs, targets).solution
    return {
        "latent_rgb": [[round(value, 5) for value in row] for row in found[:-1].tolist()],
        "latent_rgb_bias": [round(value, 5) for value in found[-1].tolist()],
    }


def preview(latents: Tensor, about: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Show latents as small pictures, without the autoencoder: `[n, c, y, x]` -> `uint8[n, y, x, 3]`.

    Args:
        about: `daskt2i.json` of the pipeline. If it has no map to colours, the picture is the channels' mean in grey.
    """
    values = latents.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    if "latent_rgb" in about:
        colours = values @ np.array(about["latent_rgb"], np.float32) + np.array(about["latent_rgb_bias"], np.float32)
    else:
        colours = np.repeat(values.mean(axis=3, keepdims=True) / 3, 3, axis=3)
    made: npt.NDArray[np.uint8] = ((colours + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return made


def about(folder: RunFolder) -> dict[str, Any]:
    """`daskt2i.json` of a run folder's pipeline; empty if there is none.

    Raises:
        ModelError: the file is damaged.
    """
    name = f"{PIPELINE}/{ABOUT}"
    try:
        found = json.loads(folder.read(name))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ModelError(
            f"{folder.address(name)} is damaged: it is not a JSON object. The weights beside it were not changed; "
            "train again to write it again from the newest checkpoint."
        )
    return found


def pooled_padding(folder: RunFolder) -> bool:
    """Whether an older version trained this denoiser, with padding of captions in the pooled prompt. See `POOLED`."""
    said = about(folder)
    if not said.get("masked") or POOLED in said:
        return False
    try:
        config = json.loads(folder.read(f"{PIPELINE}/unet/config.json"))
    except (FileNotFoundError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and pools_text(config)


def exists(folder: RunFolder) -> bool:
    """Whether the run folder has a complete pipeline, which can draw."""
    found = look(folder, PIPELINE_FOLDER, hashes=False)
    return found.finished and found.alone is None


def load(folder: RunFolder, device: str = "auto") -> DiffusionPipeline:
    """Load the pipeline into this process, as `DiffusionPipeline.from_pretrained` does.

    Args:
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        ModelMissing: the run folder has no pipeline, or one without encoders.
        ModelError: the pipeline is damaged.
        ConfigError: this machine has no such device.
    """
    import diffusers

    from daskt2i.machine.precision import check_device, default_device

    if why := alone(folder):
        raise ModelMissing(
            f"{folder.address(PIPELINE)} holds the denoiser without encoders, because {why}. diffusers cannot load it; "
            "use sample, which draws through the encoders of the workflow."
        )
    with local(folder) as place:
        try:
            with quiet():
                name = json.loads((place / INDEX).read_text(encoding="utf-8"))["_class_name"]  # one of FORMS
                found = getattr(diffusers, name).from_pretrained(
                    str(place), use_safetensors=True, local_files_only=True
                )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"The pipeline in {place} cannot be loaded: {first_line(error)}. The checkpoints were not changed; "
                "remove this folder and train again, which writes it from the newest checkpoint."
            ) from error
    return found.to(default_device() if device == "auto" else check_device(device, "device"))


def alone(folder: RunFolder) -> str | None:
    """Why there are no encoders beside the denoiser, one clause; None if there are, or if there is no denoiser."""
    return look(folder, PIPELINE_FOLDER, hashes=False).alone


def require(folder: RunFolder, *, hashes: bool = False) -> None:
    """Refuse a run folder without a trained denoiser.

    Args:
        hashes: whether to read and hash all files. Otherwise only sizes are compared.

    Raises:
        ModelMissing: it has none.
        ModelError: it is damaged.
    """
    found, place = look(folder, PIPELINE_FOLDER, hashes=hashes), folder.address(PIPELINE)
    if found.state is State.DAMAGED:
        raise ModelError(
            f"The pipeline in {place} is damaged: {found.why}. It is unchanged, and so are the checkpoints; train "
            "again, which writes it from the newest checkpoint (train or run)."
        )
    if not found.finished:
        raise ModelMissing(f"There is no trained pipeline in {place}. Train first (train or run).")


@contextmanager
def local(folder: RunFolder) -> Iterator[Path]:
    """The pipeline as a folder on this machine. A remote pipeline is copied, and the copy lasts as long as the block.

    Raises:
        ModelMissing: the run folder has no pipeline.
        ModelError: it is damaged, or it could run code when it is loaded.
    """
    require(folder, hashes=True)
    if folder.is_local:
        refuse_foreign_parts(folder.local_path(PIPELINE))
        yield folder.local_path(PIPELINE)
        return
    with temporary_folder(f"copy {PIPELINE}") as place:
        for name in folder.list(PIPELINE):
            path = place / Path(name).relative_to(PIPELINE)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(folder.read(name))
        refuse_foreign_parts(place)
        yield place
