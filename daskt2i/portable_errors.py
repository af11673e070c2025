"""How an error gets from one process to another, by pickle or as JSON.

    error -> portable(error) -> pickle -> error                    executors
    error -> to_json(error) -> text -> from_json(…) -> error       ranks, processes that measure

Covers: an error arrives with its class, sentence, `ends_run`, notes and the name of its cause. If the receiver cannot
know the class, the nearest class of the tree replaces it. ExecutorError replaces any other error that cannot be sent.
Does not cover: the tree of errors, and how its classes are pickled (`errors`); how a stage handles an error, and
processes that die without an error (`retries`, `executors`, `launch`).

    error                     by pickle                         by JSON
    a class of the tree       unchanged                         unchanged
    a subclass of one         unchanged if it can be pickled;   as the nearest class of the tree
                              else the nearest of the tree
    any other                 unchanged if it can be pickled;   as ExecutorError, `"ValueError: its message"`,
                              else as by JSON                   with its traceback as the last note

A cause that cannot be pickled is removed, because Dask would send it too. Its name stays in the error.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from daskt2i import errors
from daskt2i.errors import Daskt2iError, ExecutorError
from daskt2i.redact import hide_in_error, without_secret

TREE: Mapping[str, type[Daskt2iError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Daskt2iError)
}
"""The classes that both processes know, by name."""


def portable(error: Exception) -> Exception:
    """The error itself if it survives pickling, else an error of the tree with the same message.

    Some exceptions can be pickled but not unpickled, because their constructor needs more than the message. Such an
    exception would break a process pool.
    """
    hide_in_error(error)
    if not _survives(error):
        return from_json(_told(error, with_traceback=True))
    if not all(map(_survives, _behind(error))):
        error.add_note(_traceback(error))
        if isinstance(error, Daskt2iError):
            error._caused_by = error.caused_by
        error.__cause__ = error.__context__ = None
    return error


def to_json(error: BaseException) -> dict[str, Any]:
    """An error as a JSON object, for `from_json` in the other process.

    Returns:
        `type` and `message`; if they add information, also `arguments` of the constructor, `notes`, `cause` and
        `ends_run`.
    """
    return _told(error, with_traceback=not isinstance(error, Daskt2iError))


def from_json(told: Mapping[str, Any]) -> Daskt2iError:
    """The error that `to_json` described, as exactly as possible. For any input it is an error of the tree."""
    arguments, notes, ends_run = told.get("arguments"), told.get("notes"), told.get("ends_run")
    error = _made(TREE.get(str(told.get("type")), Daskt2iError), str(told.get("message")), arguments)
    for note in notes if isinstance(notes, list) else ():
        error.add_note(str(note))
    if isinstance(ends_run, bool):
        error.ends_run = ends_run
    error._caused_by = str(told.get("cause") or "")
    return error


def _told(error: BaseException, with_traceback: bool) -> dict[str, Any]:
    hide_in_error(error)
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    if with_traceback:
        notes.append(_traceback(error))
    if isinstance(error, Daskt2iError):
        kind, message, cause = _nearest(error), str(error), error.caused_by
    else:
        kind, message, cause = ExecutorError, without_secret(f"{type(error).__name__}: {error}"), type(error).__name__
    told: dict[str, Any] = {"type": kind.__name__, "message": message}
    if isinstance(error, Daskt2iError) and error.args != (message,) and all(map(_is_plain, error.args)):
        told["arguments"] = list(error.args)
    if notes:
        told["notes"] = notes
    if cause:
        told["cause"] = cause
    if (ends_run := bool(getattr(error, "ends_run", False))) != kind.ends_run:
        told["ends_run"] = ends_run
    return told


def _made(kind: type[Daskt2iError], message: str, arguments: object) -> Daskt2iError:
    """An error of this class, or of the nearest base class that has this message: some constructors need more."""
    for candidate in kind.__mro__:
        for given in (arguments, [message]):
            if issubclass(candidate, Daskt2iError) and isinstance(given, list):
                try:
                    error = candidate(*given)
                except (TypeError, ValueError):
                    continue
                if str(error) == message:
                    return error
    return Daskt2iError(message)


def _nearest(error: Daskt2iError) -> type[Daskt2iError]:
    return next(kind for kind in type(error).__mro__ if TREE.get(kind.__name__) is kind)


def _survives(error: BaseException) -> bool:
    try:
        pickle.loads(pickle.dumps(error))  # an object of this process  # nosec B301
    except Exception:
        return False
    return True


def _behind(error: BaseException) -> Iterator[BaseException]:
    """The causes and contexts of an error, and of these errors in turn; each once."""
    seen, open_ = {id(error)}, [error]
    while open_:
        last = open_.pop()
        for one in (last.__cause__, last.__context__):
            if one is not None and id(one) not in seen:
                seen.add(id(one))
                open_.append(one)
                yield one


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _traceback(error: BaseException) -> str:
    return without_secret("".join(traceback.format_exception(error)))
