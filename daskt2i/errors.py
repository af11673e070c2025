"""Every deliberate error, in one tree.

    Daskt2iError
    ├── ConfigError            (ValueError)         a workflow, a setting or an option is wrong
    │   └── UnknownArgument    (TypeError)          a call has an unknown argument, or an argument is missing
    ├── SourceError                                 the caption file or the image folder as a whole cannot be used
    │   └── SourceMissing      (FileNotFoundError)  the caption file or the image folder does not exist
    ├── RowRejected                                 one row cannot be used; carries a `Reason`; never ends a run
    ├── ModelError                                  a model cannot be loaded or used
    │   ├── ModelMissing       (FileNotFoundError)  the model is not in the local cache and cannot be downloaded
    │   └── OutOfMemory        (MemoryError)        even a batch of one item does not fit
    ├── GateError                                   latents do not decode back to the images that were encoded
    │   └── LowPsnr                                 latents of one chunk decode poorly; other chunks may be fine
    ├── AccessRefused          (PermissionError)    images, or the run folder, may not be read or written
    ├── TransportFailed        (ConnectionError)    a network or a disk failed for longer than the set time
    ├── ReadStalled            (TimeoutError)       a read did not return within the set time
    ├── ImagesExchanged                            images became others, under the same names, while they were encoded
    ├── ImagesMissing          (FileNotFoundError)  all images of a chunk are missing: probably a missing mount
    ├── PlanError              (ValueError)         the run does not fit the machine or the disk; nothing was started
    ├── StoreError                                  the latent store or a receipt cannot be used
    │   ├── StoreMissing       (FileNotFoundError)  there is no store at this address
    │   ├── FingerprintMismatch (ValueError)        the store was made with other settings or other data
    │   ├── StoreBusy                               another encode holds the store
    │   ├── TakenOver                               another run took over the run folder of this one
    │   └── StoreFull          (OSError)            the disk of the store has no space left
    ├── NonFiniteLoss          (ArithmeticError)    the training loss is NaN or infinite
    ├── LossSpike              (ArithmeticError)    a step's loss or gradient is far above those before
    ├── ExecutorError                               the executor failed, not the work
    │   ├── WorkerLost                              the worker died at each try of this chunk
    │   ├── WorkerMismatch                          a worker has other versions or sees other files than the driver
    │   │   └── WorkerWithoutFiles                  a worker does not see the run folder, the images or the models
    │   ├── RankLost                                a rank ended early at each attempt of the launch
    │   └── SchedulerError     (ConnectionError)    a scheduler could not be started or reached
    └── Interrupted            (KeyboardInterrupt)  the user stopped the run; what is committed stays

The message of an error says what happened, what is still true, and what to do next. Each error takes this message as
its only argument (`RowRejected` takes a reason and a detail). A subclass may take other arguments. All errors survive
pickling with their message, their attributes, their notes and the name of their cause.

`ends_run` tells the encode stage whether one such error on one chunk makes the remaining chunks pointless.

See also: `portable_errors`, which sends errors to another process; `notebooks`, which shows errors in a notebook.
"""

from __future__ import annotations

import enum
from typing import Any

from daskt2i.notebooks import render_traceback
from daskt2i.redact import without_secret


class Reason(enum.StrEnum):
    """Why a row was rejected. The list is fixed, because manifests, receipts and reports contain these strings."""

    UNREADABLE_IMAGE = "unreadable-image"
    IMAGE_TOO_SMALL = "image-too-small"
    IMAGE_TOO_LARGE = "image-too-large"
    MISSING_FILE = "missing-file"
    UNSAFE_PATH = "unsafe-path"
    NO_CAPTION = "no-caption"
    DUPLICATE_ID = "duplicate-id"
    NOT_FINITE = "not-finite"
    KILLS_WORKER = "kills-worker"


class Daskt2iError(Exception):
    """Root of the tree."""

    ends_run = False
    _caused_by = ""

    @property
    def caused_by(self) -> str:
        """Class name of the error that caused this one, or `""`. The cause itself may be in another process."""
        return self._caused_by if self.__cause__ is None else type(self.__cause__).__name__

    def __str__(self) -> str:
        return without_secret(super().__str__())

    def __repr__(self) -> str:
        return without_secret(super().__repr__())

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython and notebooks show instead of a traceback: the message. The traceback is folded."""
        return render_traceback(self)

    def __reduce__(self) -> tuple[Any, ...]:
        reduced = super().__reduce__()
        assert isinstance(reduced, tuple)
        _, arguments, *state = reduced
        attributes = {**(state[0] if state else {}), **({"_caused_by": self.caused_by} if self.caused_by else {})}
        return _again, (type(self), arguments, attributes)


def _again(kind: type[Daskt2iError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> Daskt2iError:
    """Make an error from its parts. The constructor is not called, because it may take other arguments."""
    # Not `kind.__new__`: `MemoryError.__new__` refuses subclasses.
    make: Any = OSError.__new__ if issubclass(kind, OSError) else Exception.__new__
    error: Daskt2iError = make(kind, *arguments)
    if isinstance(error, OSError):  # `__new__` sets no errno and no message if a subclass has its own constructor
        OSError.__init__(error, *arguments)
    error.__setstate__(attributes)
    return error


class ConfigError(Daskt2iError, ValueError):
    """A workflow file, a setting, a class path or an option is wrong."""

    ends_run = True


class UnknownArgument(ConfigError, TypeError):
    """A method was called with an unknown argument, or without a required one."""


class SourceError(Daskt2iError):
    """A source cannot be used as a whole."""

    ends_run = True


class SourceMissing(SourceError, FileNotFoundError):
    """The caption file, the image folder or the archive does not exist."""


class RowRejected(Daskt2iError):
    """One row cannot be used.

    Args:
        reason: the category under which the row is counted.
        detail: one clause for a person, e.g. `"shorter side 7 < 32"`.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = Reason(reason)
        self.detail = without_secret(detail)

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)


class ModelError(Daskt2iError):
    """A model cannot be loaded or used."""

    ends_run = True


class ModelMissing(ModelError, FileNotFoundError):
    """A model is not in the local cache and cannot be downloaded."""


class OutOfMemory(ModelError, MemoryError):
    """Even a batch of one item does not fit into the memory of the device. Another worker may have more memory."""

    ends_run = False


class GateError(Daskt2iError):
    """The latents of an encoder do not decode back to the images that it encoded."""

    ends_run = True


class LowPsnr(GateError):
    """Sampled rows of one chunk decode poorly, and no linear pixel change explains it: odd images, or a weak model."""

    ends_run = False


class AccessRefused(Daskt2iError, PermissionError):
    """Access was refused: a permission or credentials are missing, or expired. It is never a reason to reject a row."""


class TransportFailed(Daskt2iError, ConnectionError):
    """A network or a disk failed for longer than the set time. No row is rejected for it."""


class ReadStalled(Daskt2iError, TimeoutError):
    """A read did not return within the set time. No row is rejected for it."""


class ImagesExchanged(Daskt2iError):
    """Images of a chunk became others while it was encoded. The chunk fails, so it is tried again with the new ones."""


class ImagesMissing(Daskt2iError, FileNotFoundError):
    """All images of a chunk are missing. The chunk fails instead of rejecting its rows, so a later run retries it."""


class PlanError(Daskt2iError, ValueError):
    """The run does not fit the machine or the disk. Nothing was started."""

    ends_run = True


class StoreError(Daskt2iError):
    """The latent store or a receipt cannot be used."""

    ends_run = True


class StoreMissing(StoreError, FileNotFoundError):
    """There is no store at this address."""


class FingerprintMismatch(StoreError, ValueError):
    """The store was made with other settings or other data."""


class StoreBusy(StoreError):
    """Another encode holds the run folder."""


class TakenOver(StoreError):
    """Another run took over the run folder. This process can change nothing in it any more."""


class StoreFull(StoreError, OSError):
    """The disk of the store has no space left."""


class NonFiniteLoss(Daskt2iError, ArithmeticError):
    """The training loss is NaN or infinite. The last good checkpoint stays."""

    ends_run = True


class LossSpike(Daskt2iError, ArithmeticError):
    """A step's loss or gradient norm is far above those of the steps before, and the settings say to stop."""

    ends_run = True


class ExecutorError(Daskt2iError):
    """The executor failed, not the work."""


class WorkerLost(ExecutorError):
    """The worker died at each try of this piece of work."""


class WorkerMismatch(ExecutorError):
    """A worker has other versions than the driver, or sees other files. It wrote nothing."""

    ends_run = True


class WorkerWithoutFiles(WorkerMismatch):
    """A worker does not see the run folder, the images or the models that the driver sees. Others may see them."""


class RankLost(ExecutorError):
    """A rank ended early, and no restart is left. The last checkpoint stays."""

    ends_run = True


class SchedulerError(ExecutorError, ConnectionError):
    """A scheduler could not be started or reached."""

    ends_run = True


class Interrupted(Daskt2iError, KeyboardInterrupt):
    """The user stopped the run. What is committed stays, and the next run continues from there."""

    ends_run = True


def sentence(error: BaseException) -> str:
    """An error as one line: its message, and where it happened. An error of another library also shows its class name.

    `"The disk is away (on node7:812)."`, `"ValueError: odd (on node7:812)"`
    """
    text, notes = _line(str(error)), getattr(error, "__notes__", None)
    note = notes[0] if isinstance(notes, list) and notes else ""  # other code may have put anything there
    if not isinstance(error, Daskt2iError) or not text:
        text = f"{type(error).__name__}: {text or 'no message'}"
    if not isinstance(note, str) or "\n" in note.strip():  # the traceback of another process
        return text
    end = "." if text.endswith(".") else ""
    if note.startswith("on "):
        return without_secret(f"{text.removesuffix('.')} ({_line(note)}){end}")
    return f"{text} {_line(note)}".rstrip()


def _line(text: str) -> str:
    return without_secret(" ".join(text.split()))
