"""Every deliberate error, in one tree.

    Daskt2iError
    ├── ConfigError            (ValueError)         a workflow, a setting or an option is wrong
    │   └── UnknownArgument    (TypeError)          a method has no such argument, or misses one
    ├── SourceError                                 the caption file or the image folder as a whole cannot be used
    │   └── SourceMissing      (FileNotFoundError)  it is not there
    ├── RowRejected                                 one row cannot be used; carries a `Reason`; never ends a run
    ├── ModelError                                  a model cannot be loaded or used
    │   ├── ModelMissing       (FileNotFoundError)  neither in the local cache nor reachable
    │   └── OutOfMemory        (MemoryError)        not even one item at a time fits
    ├── GateError                                   what an encoder made does not decode back to what it was given
    │   └── LowPsnr                                 so it is in one chunk, and nothing says that it is so everywhere
    ├── ImagesMissing          (FileNotFoundError)  not one image of a chunk is there: a mount is missing, not a file
    ├── PlanError              (ValueError)         the run cannot fit the machine; nothing was started
    ├── StoreError                                  the latent store or a receipt cannot be used
    │   ├── StoreMissing       (FileNotFoundError)  there is none at this place
    │   ├── FingerprintMismatch (ValueError)        it was made with other settings or other data
    │   ├── StoreBusy                               another encode holds it
    │   └── StoreFull          (OSError)            no space is left where it lies
    ├── NonFiniteLoss          (ArithmeticError)    the loss of a training run is no number any more
    ├── ExecutorError                               the engine failed, not the work
    │   ├── WorkerLost                              the worker died each time this chunk was tried
    │   ├── RankLost                                a rank of a distributed run ended early each time it was tried
    │   └── SchedulerError     (ConnectionError)    no scheduler could be started or reached
    └── Interrupted            (KeyboardInterrupt)  the user asked to stop; what is committed stays

The sentence of an error says what happened, what is still true, and what to do next. Each error takes that one
sentence as its only argument (`RowRejected` also a reason). A class below one of them may take what it likes: all
survive pickling with their sentence, their attributes, their notes and the name of their cause.

`ends_run` tells the encode stage whether one such error on one chunk makes the remaining chunks pointless.

See also: `portable_errors`, for errors on their way to another process; `notebooks`, for how they look in one.
"""

from __future__ import annotations

import enum
from typing import Any

from daskt2i.notebooks import render_traceback


class Reason(enum.StrEnum):
    """Why a row was rejected. The list is fixed: manifests, receipts and reports hold these strings."""

    UNREADABLE_IMAGE = "unreadable-image"
    IMAGE_TOO_SMALL = "image-too-small"
    IMAGE_TOO_LARGE = "image-too-large"
    MISSING_FILE = "missing-file"
    UNSAFE_PATH = "unsafe-path"
    NO_CAPTION = "no-caption"
    DUPLICATE_ID = "duplicate-id"
    NOT_FINITE = "not-finite"


class Daskt2iError(Exception):
    """Root of the tree."""

    ends_run = False
    _caused_by = ""

    @property
    def caused_by(self) -> str:
        """Name of the class that this error was raised from, or `""`. The cause itself may be in another process."""
        return self._caused_by if self.__cause__ is None else type(self.__cause__).__name__

    def _render_traceback_(self) -> list[str]:
        """IPython and notebooks show this in place of a traceback: the sentence. The traceback is folded."""
        return render_traceback(self)

    def __reduce__(self) -> tuple[Any, ...]:
        reduced = super().__reduce__()
        assert isinstance(reduced, tuple)
        _, arguments, *state = reduced
        attributes = {**(state[0] if state else {}), **({"_caused_by": self.caused_by} if self.caused_by else {})}
        return _again, (type(self), arguments, attributes)


def _again(kind: type[Daskt2iError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> Daskt2iError:
    """An error out of its parts. Its constructor is not asked: what that takes need not be what the parts are."""
    # Not `kind.__new__`: that of MemoryError refuses classes below it.
    make: Any = OSError.__new__ if issubclass(kind, OSError) else Exception.__new__
    error: Daskt2iError = make(kind, *arguments)
    if isinstance(error, OSError):  # with a constructor below it, `__new__` has left the number and the words out
        OSError.__init__(error, *arguments)
    error.__setstate__(attributes)
    return error


class ConfigError(Daskt2iError, ValueError):
    """A workflow file, a `--set`, a class path or an option is wrong."""

    ends_run = True


class UnknownArgument(ConfigError, TypeError):
    """A method was called with an argument that it does not take, or without one that it needs."""


class SourceError(Daskt2iError):
    """A source cannot be used as a whole."""

    ends_run = True


class SourceMissing(SourceError, FileNotFoundError):
    """The caption file, the image folder or the archive is not there."""


class RowRejected(Daskt2iError):
    """One row cannot be used.

    Args:
        reason: the bucket the row goes into.
        detail: one clause for a person, e.g. `"shorter side 7 < 32"`.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = Reason(reason)
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)


class ModelError(Daskt2iError):
    """A model cannot be loaded or used."""

    ends_run = True


class ModelMissing(ModelError, FileNotFoundError):
    """A model is neither in the local cache nor reachable."""


class OutOfMemory(ModelError, MemoryError):
    """Not even one item at a time fits into the memory of the device; another worker may have more."""

    ends_run = False


class GateError(Daskt2iError):
    """What an encoder made does not decode back to what it was given."""

    ends_run = True


class LowPsnr(GateError):
    """The sampled rows of one chunk decode poorly, by no linear change of the pixels: odd pictures, or a weak model."""

    ends_run = False


class ImagesMissing(Daskt2iError, FileNotFoundError):
    """Not one image of a chunk is there. The chunk fails, so that its rows are not rejected for good."""


class PlanError(Daskt2iError, ValueError):
    """The run cannot fit the machine or the disk; nothing was started."""

    ends_run = True


class StoreError(Daskt2iError):
    """The latent store or a receipt cannot be used."""

    ends_run = True


class StoreMissing(StoreError, FileNotFoundError):
    """There is no store at this place."""


class FingerprintMismatch(StoreError, ValueError):
    """The store was made with other settings or other data."""


class StoreBusy(StoreError):
    """Another encode holds the run folder."""


class StoreFull(StoreError, OSError):
    """No space is left where the store lies."""


class NonFiniteLoss(Daskt2iError, ArithmeticError):
    """The loss of a training run is no number any more; the last good checkpoint stands."""

    ends_run = True


class ExecutorError(Daskt2iError):
    """The engine failed, not the work."""


class WorkerLost(ExecutorError):
    """The worker died each time this piece of work was tried."""


class RankLost(ExecutorError):
    """A rank of a distributed run ended early, and the attempts are used up; the last checkpoint stands."""

    ends_run = True


class SchedulerError(ExecutorError, ConnectionError):
    """No scheduler could be started or reached."""

    ends_run = True


class Interrupted(Daskt2iError, KeyboardInterrupt):
    """The user asked to stop. What is committed stays; the same command goes on."""

    ends_run = True


def sentence(error: BaseException) -> str:
    """An error as one line for a person: its sentence, or its kind where it is not ours."""
    text = " ".join(" ".join([str(error), *getattr(error, "__notes__", [])[:1]]).split())
    return text if isinstance(error, Daskt2iError) and text else f"{type(error).__name__}: {text or 'no message'}"
