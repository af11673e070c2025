"""`push`: a run folder becomes a data set on the Hugging Face hub.

Covers: what must be true before, the order of commits, going on after a stop, removing what an older push left.
Does not cover: the hub (`repository`), which files (`files`), the card (`dataset_card`).

Shards and receipts go first, in commits of limited size. The files by which readers find a store go in the last commit,
with the data card. So a reader sees the whole store or none. If shards are there that will be replaced, the first
commit takes the metadata of the store away. After a stop the next push asks what is there, and sends the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from daskt2i.errors import ConfigError, StoreError
from daskt2i.events import Listener, Progress, ignore
from daskt2i.export.columns import refuse_column
from daskt2i.export.hub.dataset_card import dataset_card
from daskt2i.export.hub.files import GROUP, PushedFile, is_of_store, pushed_files
from daskt2i.export.hub.repository import RemoteFile, Repository, require_name
from daskt2i.export.hub.result import PushResult
from daskt2i.store.layout import about_store
from daskt2i.store.parts.rows_file import members
from daskt2i.store.run_folder import MANIFEST, MARKER, ROWS, RunFolder
from daskt2i.store.zarr_store import ZarrStore

CARD = "README.md"

_COMMIT_FILES, _COMMIT_BYTES = 100, 512 * 2**20
"""The hub advises at most 100 files a commit. The bytes of one are in memory if the run folder is at an address."""

_GIVEN = frozenset({CARD, ".gitattributes", "LICENSE"})
"""Files that a repository may have before the first push."""


def push(
    folder: RunFolder,
    to: str,
    *,
    public: bool = False,
    dry_run: bool = False,
    listener: Listener = ignore,
    endpoint: str | None = None,
) -> PushResult:
    """Send a finished store with its receipts, settings and a data card to a dataset repository.

    Args:
        to: `OWNER/NAME`.
        public: whether a new repository is public. One that is there stays as it is.
        dry_run: list the files, and send nothing. It needs no token and no network.
        endpoint: address of the hub. None: that of huggingface_hub.

    Raises:
        StoreMissing, StoreError: there is no store, or it is not finished.
        ConfigError: the name is wrong, there is no token, or the repository has files of somebody else.
        AccessRefused, TransportFailed: the hub refuses, or does not answer. What was sent stays.
    """
    require_name(to)
    card = _card(folder, to)
    rows = folder.read(ROWS) if folder.exists(ROWS) else None  # before the list, which then has all parts of it
    files = pushed_files(folder)
    ends = {file.name: folder.read(file.name) for file in files if file.is_last}
    ends |= {} if rows is None else {ROWS: rows}
    sizes = {file.name: file.bytes for file in files}
    if dry_run:
        return PushResult(folder.root, to, sizes, 0, 0, 0, True, f"hf://datasets/{to}", "")
    repository = Repository(to, endpoint)
    repository.create(private=not public)
    there = repository.files()
    _refuse_others(there, to)
    listener(Progress("files pushed", 0, len(files)))
    data = [file for file in files if not file.is_last]
    new = [file for file in data if file.name not in there or not there[file.name].is_equal(folder, file.name)]
    done = len(data) - len(new)
    if any(is_of_store(file.name) and file.name in there for file in new) and GROUP in there:
        repository.commit("The store is about to be replaced", {}, [GROUP])
    for part in _parts(new):
        repository.commit(f"{len(part)} files", _contents(folder, part))
        done += len(part)
        listener(Progress("files pushed", done, len(files)))
    gone = sorted(name for name in there if is_of_store(name) and name not in sizes)
    repository.commit("The store is complete", {**ends, CARD: card.encode()}, gone)
    listener(Progress("files pushed", len(files), len(files)))
    sent = sum(file.bytes for file in new) + sum(map(len, ends.values()))
    count = len(new) + len(ends)
    return PushResult(folder.root, to, sizes, count, sent, len(gone), False, repository.address, repository.link)


def _card(folder: RunFolder, to: str) -> str:
    """The data card, of a store that is finished.

    Raises:
        StoreMissing, StoreError: there is no store, or it is not finished.
        ConfigError: the folder is that of a column.
    """
    refuse_column(folder)
    about = about_store(ZarrStore(folder))
    if about is None or not all(member.folder.exists(MANIFEST) for member in members(folder)):
        raise StoreError(
            f"{folder} has no finished store to push. Nothing was sent; run encode to its end first, and push again."
        )
    return dataset_card(folder, about, to)


def _refuse_others(there: Mapping[str, RemoteFile], to: str) -> None:
    """Refuse a repository that no push has filled.

    Raises:
        ConfigError: it has other files.
    """
    others = sorted(there.keys() - _GIVEN)
    if others and not any(name == MARKER or is_of_store(name) for name in others):
        raise ConfigError(
            f"{to} has files that no push has written, such as {others[0]}. Nothing was sent; give the name of a new "
            "repository (to)."
        )


def _parts(files: Sequence[PushedFile]) -> Iterator[list[PushedFile]]:
    """The files in groups for one commit each. The marker of the run folder is in the first one."""
    part: list[PushedFile] = []
    for file in sorted(files, key=lambda one: one.name != MARKER):
        if part and (len(part) == _COMMIT_FILES or sum(one.bytes for one in part) + file.bytes > _COMMIT_BYTES):
            yield part
            part = []
        part.append(file)
    if part:
        yield part


def _contents(folder: RunFolder, part: Sequence[PushedFile]) -> dict[str, str | bytes]:
    if folder.is_local:
        return {file.name: str(folder.local_path(file.name)) for file in part}
    return {file.name: folder.read(file.name) for file in part}
