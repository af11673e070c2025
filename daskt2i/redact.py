"""Secrets in text and settings: they are replaced by `***` before anything is written or printed.

    without_secret("https://me:pw@host/a.zip?sig=x1")  ->  "https://***@host/a.zip?sig=***"
    without_secrets({"key": "AKIA1", "secret": "s3cr3t"}, options=True)  ->  {"key": "***", "secret": "***"}

Covers: addresses with a password, a token or a signature; names such as `secret`, `token`, `account_key` in settings,
in command lines and in messages of libraries; values that this process used as credentials, wherever they show.
Does not cover: where credentials come from (`credentials`), files that users write themselves.

A value `env:NAME` is the name of an environment variable. It is no secret, and stays.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
"""What stands in place of a secret."""

_NAME = (
    r"[\w.-]*(?:secret|passw(?:or)?d|passphrase|credentials?|signature|account[_-]?key|access[_-]?key|api[_-]?key"
    r"|private[_-]?key|shared[_-]?key|connection[_-]?string|conn[_-]?str)(?:[_-]?(?:id|key|value|file|json))?"
    r"|(?:[\w.-]*[_.-])?(?:access|refresh|session|security|auth|bearer|sas|api|hf|hub|git|github|gitlab|bot|web|identity)"
    r"[_-]?token|token|sig|pwd|pass|authorization|proxy-authorization|cookie|jwt|awsaccesskeyid|googleaccessid"
)
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)

_OPTIONS = {"storage_options", "client_kwargs", "config_kwargs", "s3_additional_kwargs", "headers", "auth"}
"""Settings whose inner names are those of a file system: there `key` and `username` belong to a secret too."""

_USERS = {"user", "username", "login"}
_IN_OPTIONS = {"key", "auth", *_USERS}
_PLAIN_WORDS = {"", "true", "false", "none", "null", "anon", "anonymous", "google_default", "cache", "cloud", "browser"}
_SHORTEST = 6
"""Shorter values are not looked for in text: they would hide parts of other words."""

_USER_PART = re.compile(r"\b([a-z][a-z0-9+.-]*://)([^\s/?#'\"<>@:]*:[^\s'\"<>]{0,4096}?)@(?=[\w.\[*-])", re.IGNORECASE)
"""The length of a password has a limit: else a long text full of `://` takes minutes."""
_BARE_TOKEN = re.compile(r"\b((?:https?|git|wss?)://)([^\s/?#:'\"<>@]+)@", re.IGNORECASE)
_QUERY_NAME = (
    rf"{_NAME}|key|x-(?:amz|goog)-credential|auth|hmac|ticket|hdnts|hdnea|subscription-key|code(?==[^\s&]{{16}})"
)
"""Of functions of Azure, of Akamai and of gateways too. A short `code` is one of a country or a language."""
_QUERY = re.compile(rf"([?&;#](?:{_QUERY_NAME})=)([^\s&#'\"<>,;)\]}}]+)", re.IGNORECASE)
_QUOTED = re.compile(rf"(['\"](?:{_NAME})['\"]\s*:\s*)(b?\"(?:\\.|[^\"\\])*\"|b?'(?:\\.|[^'\\])*')", re.IGNORECASE)
_VALUE = r"""("[^"]*"|'[^']*'|[^\s'",;&)\]}]+)"""
_ASSIGNED = re.compile(rf"((?<![\w?&;#.-])(?:{_NAME}|(?-i:[A-Z][A-Z0-9_]*_(?:KEY|PASS|PW)))=){_VALUE}", re.IGNORECASE)
_FLOW = re.compile(rf"([{{,]\s*(?:{_NAME}):\s+){_VALUE}", re.IGNORECASE)
_BEARER = re.compile(r"\b((?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}")
_KEY = re.compile(rf"((?<![\w-])['\"]?key['\"]?\s*[:=]\s*){_VALUE}")
_KEY_CONTEXT = re.compile(r"storage_options|client_kwargs|['\"{, .]secret", re.IGNORECASE)

_known: set[str] = set()


def is_secret_name(name: object, options: bool = False) -> bool:
    """Whether a setting of this name holds a secret.

    Args:
        options: whether it is inside `storage_options` or the like.
    """
    if not isinstance(name, str):
        return False
    return bool(_SECRET_NAME.fullmatch(name)) or (options and name.lower() in _IN_OPTIONS)


def is_secret_setting(name: object) -> bool:
    """Whether a setting of this name is a secret, or holds secrets as `storage_options` does."""
    return is_secret_name(name) or name in _OPTIONS


def without_secrets(value: Any, *, options: bool = False) -> Any:
    """A copy of plain data (mappings, lists, text) without secrets. A value that has none is equal to its copy.

    Args:
        options: whether the value is inside `storage_options` or the like.
    """
    if isinstance(value, Mapping):
        return {
            name: _hidden(one)
            if is_secret_name(name, options) and not (isinstance(one, Mapping) and name in _OPTIONS)
            else without_secrets(one, options=options or name in _OPTIONS)
            for name, one in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(without_secrets(one, options=options) for one in value)
    return without_secret(value) if isinstance(value, str) else value


def without_secret(text: str) -> str:
    """A text without secrets: an address, a message, a traceback, a command line."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    if "://" in text:
        text = _USER_PART.sub(rf"\1{HIDDEN}@", text)
        text = _BARE_TOKEN.sub(rf"\1{HIDDEN}@", text)
    if "=" in text:
        text = _QUERY.sub(rf"\1{HIDDEN}", text)
        text = _ASSIGNED.sub(_keep_plain, text)
    if ":" in text:
        text = _QUOTED.sub(_keep_plain, text)
        text = _FLOW.sub(_keep_plain, text)
    if _KEY_CONTEXT.search(text):
        text = _KEY.sub(_keep_plain, text)
    return _BEARER.sub(rf"\1{HIDDEN}", text)


def hide_in_error(error: BaseException) -> None:
    """Remove secrets from an error and from the errors behind it: logs of Dask and of others print them as they are."""
    seen, open_ = set[int](), [error]
    while open_:
        one = open_.pop()
        seen.add(id(one))
        arguments = tuple(without_secret(part) if isinstance(part, str) else part for part in one.args)
        if arguments != one.args:
            one.args = arguments
        if isinstance(one, OSError):  # its text is not made from `args`
            for name in ("strerror", "filename", "filename2"):
                if isinstance(part := getattr(one, name), str) and (hidden := without_secret(part)) != part:
                    setattr(one, name, hidden)
        open_ += [each for each in (one.__cause__, one.__context__) if each is not None and id(each) not in seen]


def command_line(arguments: Iterable[str]) -> str:
    """A command line for a file or a message: quoted for a shell, without secrets."""
    return shlex.join(without_secret(one) for one in arguments)


def has_hidden(value: Any) -> bool:
    """Whether plain data hold `***` in place of a secret, so that they cannot be used."""
    if isinstance(value, Mapping):
        return any(map(has_hidden, value.values()))
    if isinstance(value, list | tuple):
        return any(map(has_hidden, value))
    return isinstance(value, str) and HIDDEN in value


def remember(value: Any, options: bool = True) -> None:
    """Hide these credentials from now on, wherever they show in a text of this process.

    Args:
        value: plain data; values under the names of secrets are remembered.
        options: as in `without_secrets`.
    """
    if isinstance(value, Mapping):
        for name, one in value.items():
            if is_secret_name(name, options) and isinstance(one, str) and not _is_plain(one):
                # The name of a user is a part of many paths (/home/NAME), which must stay whole in saved settings.
                if len(one) >= _SHORTEST and name not in _USERS:
                    _known.add(one)
            else:
                remember(one, options or name in _OPTIONS)


def remember_address(address: str) -> None:
    """Hide the password and the signatures of an address from now on: a library may name a part of it alone."""
    found = [each[2].partition(":")[2] for each in _USER_PART.finditer(address)]
    found += [each[2] for each in (*_BARE_TOKEN.finditer(address), *_QUERY.finditer(address))]
    for one in (*found, *map(unquote, found)):
        if len(one) >= _SHORTEST and not _is_plain(one):
            _known.add(one)


def _hidden(value: Any) -> Any:
    """A secret as it is shown. What says that there is none (`anon`, false, null, an `env:` name) stays."""
    if isinstance(value, str):
        return value if _is_plain(value) else HIDDEN
    if value is None or isinstance(value, bool):
        return value
    return HIDDEN


def _is_plain(value: str) -> bool:
    return value.startswith("env:") or value.lower() in _PLAIN_WORDS or value == HIDDEN


def _keep_plain(found: re.Match[str]) -> str:
    before, value = found.groups()
    quote = value[-1] if value[-1] in "'\"" else ""
    plain = _is_plain(value.removeprefix("b").strip("'\"") if quote else value)
    return found.group(0) if plain else f"{before}{quote}{HIDDEN}{quote}"
