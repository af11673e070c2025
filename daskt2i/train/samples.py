"""What decides the samples of a training of the denoiser: its part of the identity, and notes before the first step.

Covers: trainings that an older version began, the validation rows as the plan shows them, what limits the loader.
Does not cover: the samples (`loader`), the rest of the identity (`driver`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from daskt2i.config.settings import TrainSettings
from daskt2i.errors import ConfigError, FingerprintMismatch
from daskt2i.formatting import many
from daskt2i.loader.caption_weights import require_captions
from daskt2i.loader.content import GROUPS, Split, groups_are_kept, keep_groups
from daskt2i.loader.dataset import SAMPLES, LatentDataset
from daskt2i.loader.joined.chosen_rows import chosen_rows, digest_of
from daskt2i.loader.joined.joined_reader import AnyReader, Choice, Shape, open_reader
from daskt2i.loader.sample_order import Whole
from daskt2i.model.denoisers.denoiser import StoreFacts
from daskt2i.model.denoisers.kinds import kind_of
from daskt2i.store.artifacts.finished import IDENTITY, PIPELINE_FOLDER, look
from daskt2i.store.layout import about_store
from daskt2i.store.parts.rows_file import read_rows
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.checkpoint import CHECKPOINTS, Checkpoints

_MANY_ROWS = 20_000
"""Comparing so many rows takes some seconds."""


REJECTED = "rejected"
"""Key of an identity, and of the list of groups: which rows of the store are not there. Encode may add them later, when
their images were mended. Then the order of the rows is another one, and other rows are held out, among them some that a
training has learned. Without such rows there is no key."""


CHOSEN = "chosen"
"""Key of an identity: which rows `train.where` keeps. A column that was added again, or facts that were found again,
may keep other rows for the same expression. Without `train.where` there is no key."""


ROWS = "rows"
"""Key of an identity: the rows of a run folder with parts or removed rows. Rows that are appended or removed change the
order, and which rows are held out. A run folder with one whole store has no such key."""


def as_begun(identity: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """The identity of a training with the samples that it began with: those of an older version if that began it."""
    more = {**_rejected(folder), **_chosen(identity, folder), **_rows(folder)}
    began, now = _began(folder), {**identity, **more}
    if began is None:
        return now
    return {key: value for key, value in now.items() if key in began or key not in (SAMPLES, REJECTED)}


def _began(folder: RunFolder) -> Mapping[str, Any] | None:
    """The identity that the training in a run folder began with; None if none has begun, or it is not known."""
    newest = Checkpoints(folder, CHECKPOINTS).newest(tensors=False)
    label = look(folder, PIPELINE_FOLDER, hashes=False).label if newest is None else newest.about
    found = label.get(IDENTITY)
    return found if isinstance(found, Mapping) else None


def _rejected(folder: RunFolder) -> dict[str, str]:
    """The rows of a store that were rejected: their number, and a hash of them; empty if all were accepted."""
    stored = about_store(ZarrStore(folder))
    fingerprint = None if stored is None else stored["fingerprint"]
    rows = [
        rejection.row
        for receipt in Receipts(folder).read()
        if receipt.fingerprint == fingerprint
        for rejection in receipt.rejected
    ]
    digest = hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()
    return {REJECTED: f"{len(rows)} row{'s' * (len(rows) > 1)}, {digest[:12]}"} if rows else {}


def refuse_other_rows(folder: RunFolder, identity: Mapping[str, Any]) -> None:
    """Refuse to go on with a training after rows were appended or removed.

    Args:
        identity: of the training that would go on, from `as_begun`.

    Raises:
        FingerprintMismatch: the rows of now are not those that the training began with.
    """
    began = _began(folder)
    if began is None or began.get(ROWS) == identity.get(ROWS):
        return
    then, now = (str(one.get(ROWS, "one store, as it was encoded")) for one in (began, identity))
    raise FingerprintMismatch(
        f"Rows of {folder} were appended or removed since its training began (then: {then}; now: {now}), so it cannot "
        "go on: other samples would follow, and rows that it has learned might be held out. The checkpoints and the "
        f"pipeline were not touched. To train on the rows of now, remove {folder.address(CHECKPOINTS)} and "
        f"{folder.address(PIPELINE_FOLDER.name)}, or move them to another place first."
    )


def _rows(folder: RunFolder) -> dict[str, str]:
    """The rows of a run folder with parts or removed rows: their number, and a hash of them and of their stores."""
    found = read_rows(folder)
    if not found.parts and not found.removed:
        return {}
    reader = open_reader(folder, 0, sample=False)
    reader.close()
    rows = reader.accepted()
    digest = hashlib.sha256(f"{reader.fingerprint} ".encode() + rows.astype("<i8").tobytes()).hexdigest()
    return {ROWS: f"{many(len(rows), 'row')} of {many(1 + len(found.parts), 'store')}, {digest[:12]}"}


def check_sizes(settings: TrainSettings, folder: RunFolder) -> None:
    """Refuse a model that cannot take the samples of a store, before a rank starts. Imports no torch.

    Raises:
        ConfigError: the store lacks what the model needs, or there is no such view or class of models.
    """
    check_model(settings, store_facts(folder, settings.view))


def store_facts(folder: RunFolder, view: str | None) -> StoreFacts:
    """What the store of a run folder gives a denoiser.

    Raises:
        ConfigError: there is no such view. StoreMissing, StoreError: the store cannot be read.
    """
    reader = open_reader(folder, 0, sample=False, choice=Choice(view))
    reader.close()
    return facts_of(reader, reader.shapes)


def check_model(settings: TrainSettings, facts: StoreFacts, least: int = 0) -> None:
    """Refuse a model or an objective that does not fit what a store has. Imports no torch.

    Args:
        least: fewest samples that the model gets at once; 0 if that is not known.

    Raises:
        ConfigError: it does not fit.
    """
    kind = kind_of(settings.model)
    if settings.objective not in kind.objectives:
        raise ConfigError(
            f"train.objective is {settings.objective}, but the pipeline of {kind.class_path} ({kind.pipeline}) cannot "
            f"draw with it. Nothing was started; set train.objective to {' or '.join(kind.objectives)}."
        )
    kind.config(settings.model.preset, settings.model.config, facts, least)


def facts_of(store: AnyReader | LatentDataset, shapes: tuple[Shape, ...]) -> StoreFacts:
    """What a store gives a denoiser.

    Args:
        shapes: of its latents, the most frequent one first.
    """
    text = store.attributes.get("text_encoder") or {}
    parts = [str(part.get("class", "")) for part in text.get("parts", (text,))]
    features = store.features or int(text.get("features", 0))  # none are stored if training encodes the captions
    tokens = max(store.tokens, int(text.get("max_tokens", 0)))
    return StoreFacts(shapes, features, tokens, store.pooled, store.masked, encoders=tuple(parts))


def _chosen(identity: Mapping[str, Any], folder: RunFolder) -> dict[str, str]:
    """The rows that `train.where` of an identity keeps: their number, and a hash of them.

    Raises:
        ConfigError: the expression is wrong, or keeps no row.
    """
    where = identity["train"].get("where") if isinstance(identity.get("train"), Mapping) else None
    stored = None if where is None else about_store(ZarrStore(folder))
    if stored is None:
        return {}
    return {CHOSEN: digest_of(rows_of_training(folder, where))}


def rows_of_training(folder: RunFolder, where: str | None, *, keep: bool = False) -> Whole:
    """The rows of a finished store that train or are held out, ascending.

    Args:
        where: `train.where`.
        keep: whether to write a list of the rows that it keeps into the run folder, for the ranks.

    Raises:
        ConfigError, StoreError, StoreFull: see `chosen_rows`.
    """
    reader = open_reader(folder, 0, sample=False)
    accepted = reader.accepted()
    reader.close()
    return accepted if where is None else chosen_rows(folder, accepted, reader.fingerprint, where, keep=keep)


def _forget_groups(folder: RunFolder, missing: Mapping[str, str]) -> None:
    """Before a new training, remove a list of groups that was made when other rows were missing."""
    with contextlib.suppress(FileNotFoundError, ValueError, RecursionError):
        kept = json.loads(folder.read(GROUPS))
        known = kept.get(REJECTED) if isinstance(kept, Mapping) else None
        if known != missing.get(REJECTED) and _began(folder) is None:
            folder.delete(GROUPS)


def dataset_of(
    folder: RunFolder, settings: TrainSettings, older: bool, ranks: int = 1, cache_bytes: int = 2**29
) -> LatentDataset:
    """The samples of rank 0.

    Raises:
        ConfigError, StoreMissing, StoreError: the store does not fit to these settings.
    """
    return LatentDataset(
        folder,
        seed=settings.seed,
        batch=settings.batch,
        world=ranks,
        window=settings.shuffle_window,
        heldout=settings.validation,
        where=settings.where,
        weights=settings.caption_weights,
        view=settings.view,
        posterior=settings.posterior,
        cache_bytes=cache_bytes,
        older=older,
    )


def known_split(folder: RunFolder, settings: TrainSettings) -> Split | None:
    """The rows for training and validation, if they can be told at once; None if rows must be compared first.

    Raises:
        ConfigError, StoreError: the store does not fit to these settings.
    """
    older = SAMPLES not in as_begun({SAMPLES: {}}, folder)
    stored = about_store(ZarrStore(folder))
    if stored is None:
        return None
    if settings.validation and not older:
        reader = open_reader(folder, 0, sample=False)
        reader.close()
        if not groups_are_kept(folder, reader.fingerprint):
            return None
    data = dataset_of(folder, settings, older)
    data.close()
    return data.split


def notes_before(folder: RunFolder, settings: TrainSettings, older: bool, ranks: int, cache: int) -> Iterator[str]:
    """What a user should know before the first step. It writes the groups of equal content and the list of chosen rows
    into the run folder.

    Raises:
        ConfigError, StoreError, StoreFull: the store does not fit to these settings, or cannot be read or written.
    """
    if settings.where is not None:
        rows = rows_of_training(folder, settings.where, keep=True)
        yield f"train.where (`{settings.where}`) keeps {many(len(rows), 'row')}."
    if older:
        yield (
            "An older version began this training, so its random numbers and its validation rows stay as they were: "
            "validation rows may share captions or pictures with training rows. A new training, in another run folder "
            "(out), divides rows by content."
        )
    elif settings.validation:
        every = settings.model_copy(update={"validation": 0, "where": None})
        data = dataset_of(folder, every, older, ranks, cache)
        data.close()
        fingerprint, missing = data.fingerprint, _rejected(folder)
        _forget_groups(folder, missing)
        known = groups_are_kept(folder, fingerprint)
        if data.rows >= _MANY_ROWS and not known:
            yield f"Captions and pictures of {data.rows:,} rows are compared once, to hold out rows by content."
        keep_groups(folder, data.accepted, fingerprint)
        if missing and not known:
            folder.write(GROUPS, json.dumps({**json.loads(folder.read(GROUPS)), **missing}).encode())
    data = dataset_of(folder, settings, older, ranks, cache)
    data.close()
    if settings.caption_weights is not None:
        require_captions(folder, data.chosen, settings.caption_weights, "train.caption_weights")
    held, left_out = len(data.heldout), data.split.left_out
    if held < settings.validation:
        yield (
            f"{many(held, 'row')} {'is' if held == 1 else 'are'} held out instead of {settings.validation} "
            "(train.validation): all other rows share "
            "captions or pictures with too many rows."
        )
    if left_out:
        what = "it shares" if left_out == 1 else "they share"
        yield (
            f"{many(left_out, 'row')} {'is' if left_out == 1 else 'are'} left out of this training, because {what} "
            "content with validation rows."
        )
    if held > len(data.split.training):
        yield (
            f"Only {many(len(data.split.training), 'row')} will train the model, and {held} are held out. For a small "
            "data set, set train.validation lower."
        )
    if data.limit is not None:
        yield data.limit
