"""A dataset repository of the Hugging Face hub: what is in it, and commits of limited size.

Covers: the token, the name, the files of a repository, commits; errors of the hub as one sentence.
Does not cover: which files belong in it (`files`), the order of a push (`driver`).

The token comes from the environment or from the login of the hub (`huggingface_hub.get_token`). It is part of no
setting, and from then on it is hidden in every text of this process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from daskt2i.errors import AccessRefused, ConfigError, Daskt2iError, StoreError, TransportFailed
from daskt2i.faults.kinds import Kind, kind_of
from daskt2i.redact import remember, without_secret
from daskt2i.store.run_folder import RunFolder

_KIND = "dataset"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of the repository.

    Attributes:
        bytes: its size.
        sha256: SHA-256 of its content; None if git keeps the file itself.
        blob: the id that git gives to the content.
    """

    bytes: int
    sha256: str | None
    blob: str

    def is_equal(self, folder: RunFolder, name: str) -> bool:
        """Whether a file of a run folder has the same content. It reads the file only if the size is the same."""
        if folder.size(name) != self.bytes:
            return False
        if self.sha256 is not None:
            return folder.sha256(name) == self.sha256
        data = folder.read(name)
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == self.blob


class Repository:
    """A dataset repository, for a user who is logged in.

    Args:
        name: `OWNER/NAME`.
        endpoint: address of the hub. None: that of huggingface_hub, which reads `HF_ENDPOINT`.

    Raises:
        ConfigError: this is no name, the hub is switched off, or there is no token. Nothing was sent.
        AccessRefused: the hub does not accept the token.
        TransportFailed: the hub does not answer.
    """

    def __init__(self, name: str, endpoint: str | None = None) -> None:
        import huggingface_hub
        from huggingface_hub.constants import HF_HUB_OFFLINE

        require_name(name)
        if HF_HUB_OFFLINE:
            raise ConfigError(
                "HF_HUB_OFFLINE is set, so nothing can be sent to the Hugging Face hub. Nothing was sent; unset it, "
                "and push again."
            )
        token = huggingface_hub.get_token()
        if not token:
            raise ConfigError(
                "There is no token for the Hugging Face hub. Nothing was sent; run `hf auth login`, or set HF_TOKEN, "
                "and push again."
            )
        remember({"token": token})
        self.name = name
        self._api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
        with self._explained("Nothing was sent"):
            self._api.whoami()

    @property
    def address(self) -> str:
        """Its address for fsspec: `hf://datasets/OWNER/NAME`."""
        return f"hf://datasets/{self.name}"

    @property
    def link(self) -> str:
        """Its page."""
        return f"{self._api.endpoint}/datasets/{self.name}"

    def create(self, private: bool) -> None:
        """Make the repository. One that is there stays as it is, private or public."""
        with self._explained("Nothing was sent"):
            self._api.create_repo(self.name, repo_type=_KIND, private=private, exist_ok=True)

    def files(self) -> dict[str, RemoteFile]:
        """Its files by name."""
        with self._explained("Nothing was sent"):
            tree = self._api.list_repo_tree(self.name, repo_type=_KIND, recursive=True)
            found: dict[str, RemoteFile] = {}
            for one in tree:
                if hasattr(one, "blob_id"):  # folders have none
                    lfs: Any = one.lfs
                    found[one.path] = RemoteFile(one.size, None if lfs is None else lfs.sha256, one.blob_id)
        return found

    def commit(self, message: str, added: Mapping[str, str | bytes], removed: Iterable[str] = ()) -> None:
        """Make one commit. It is there completely or not at all.

        Args:
            added: name -> path of a file on this machine, or bytes.
            removed: names of files.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        gone: list[Any] = [CommitOperationDelete(name) for name in removed]
        with self._explained("What was sent before stays"):
            made = [CommitOperationAdd(name, data) for name, data in added.items()]
            self._api.create_commit(self.name, [*gone, *made], commit_message=message, repo_type=_KIND)

    @contextmanager
    def _explained(self, still: str) -> Iterator[None]:
        """Turn errors of the hub into one sentence.

        Args:
            still: what is true after an error.

        Raises:
            AccessRefused, TransportFailed, StoreError: see the class.
        """
        from daskt2i.encoders.finding.quiet import first_line, quiet

        try:
            with quiet():
                yield
        except Daskt2iError:
            raise
        except Exception as error:
            said = without_secret(getattr(error, "server_message", None) or first_line(error)).rstrip(".")
            kind = kind_of(error)
            if kind is Kind.ACCESS:
                raise AccessRefused(
                    f"The hub refuses access to {self.name}: {said}. {still}; log in (`hf auth login`) with a token "
                    "that may write, and give an OWNER that is you or your organisation (to)."
                ) from error
            if kind is Kind.TRANSPORT:
                raise TransportFailed(
                    f"The hub at {self._api.endpoint} does not answer: {said}. {still}; push again later, and it goes "
                    "on from there."
                ) from error
            raise StoreError(
                f"The hub did not take this for {self.name}: {said}. {still}; correct it, and push again."
            ) from error


def require_name(name: str) -> None:
    """Check the name of a repository.

    Raises:
        ConfigError: it is not `OWNER/NAME`.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
        owner, _, rest = name.partition("/")
        if owner and rest:
            return
    except HFValidationError:
        pass
    raise ConfigError(
        f"{name!r} is not the name of a repository on the Hugging Face hub. Nothing was sent; give OWNER/NAME, of "
        "letters, digits, - _ and . (to)."
    )
