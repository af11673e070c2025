"""The lock object of a run folder whose file system has no locks: a chain of claims, and signs of life.

    encode.lock                   the first claim, created exclusively: who holds the run folder
    encode.lock.<hash>            a claim after a dead one, whose content has this hash; created exclusively too
    encode.lock.beat-<token>      a counter that the holder of the claim with this token raises every few seconds

The last claim of the chain holds the run folder. A claim never changes. So of two processes that find the same claim
dead only one can create its successor, and a holder that wakes can neither take the lock back nor disturb the next one.

Covers: claims, signs of life, observing them by one's own clock.
Does not cover: waiting, and what a holder does (`store.publishing.lock`).

No two clocks are compared. An observer measures by its own monotonic clock how long nothing has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from daskt2i.store.publishing.moves import create_exclusively
from daskt2i.store.run_folder import LOCK, RunFolder

_LONGEST = 1000
"""Claims of a chain that are followed. Each is one dead holder, and the chain ends when a holder ends in order."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim in the chain: the name of its object, and its content."""

    name: str
    content: bytes

    @property
    def next_name(self) -> str:
        """The name of the claim of whoever finds this one dead."""
        return f"{LOCK}.{hashlib.sha256(self.content).hexdigest()[:32]}"

    @property
    def about(self) -> dict[str, Any]:
        """Who made it; empty if it cannot be read."""
        return parsed(self.content)

    @property
    def beat_name(self) -> str:
        """The name of its signs of life."""
        token = str(self.about.get("token", ""))
        return f"{LOCK}.beat-{token if token.isalnum() else 'none'}"


def parsed(content: bytes) -> dict[str, Any]:
    """The JSON object of a lock; empty if it is none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def chain(folder: RunFolder) -> list[Claim]:
    """All claims, the holder's last; empty if the run folder is free."""
    found: list[Claim] = []
    name = LOCK
    while len(found) < _LONGEST:
        try:
            claim = Claim(name, folder.read(name))
        except FileNotFoundError:
            break
        found.append(claim)
        name = claim.next_name
    return found


def take(folder: RunFolder, dead: Claim | None, about: Mapping[str, Any]) -> Claim | None:
    """Make a claim: the first one, or the one after a dead one. None if another process was faster.

    Args:
        about: who takes it, with a `token` that no other claim has.
    """
    # No two claims have the same content: a process that claimed twice, as its first claim came late, made a circle.
    content = json.dumps({**about, "claim": uuid.uuid4().hex}).encode()
    claim = Claim(LOCK if dead is None else dead.next_name, content)
    return claim if create_exclusively(folder, claim.name, claim.content) else None


def holds(folder: RunFolder, claim: Claim) -> bool:
    """Whether this claim is the last one of the chain."""
    return chain(folder)[-1:] == [claim]


def beat(folder: RunFolder, claim: Claim, count: int) -> None:
    """Give a sign of life."""
    folder.write(claim.beat_name, str(count).encode())


def release(folder: RunFolder, claim: Claim) -> None:
    """Make the run folder free, if the claim holds it. The first claim goes first: with it the chain is gone."""
    claims = chain(folder)
    if claims[-1:] == [claim]:
        for one in claims:
            folder.delete(one.name)
            folder.delete(one.beat_name)


def withdraw(folder: RunFolder, claim: Claim) -> None:
    """Remove a claim that is not in the chain: the holder that it was to follow has ended in order."""
    with contextlib.suppress(FileNotFoundError):
        if claim not in chain(folder) and folder.read(claim.name) == claim.content:
            folder.delete(claim.name)


@dataclass(slots=True)
class Observer:
    """Watches whether the holder lives, by this process's own clock.

    Attributes:
        claim: the holder at the first look.
        changed: it has given a sign of life since the first look, or there is another holder.
        quiet: seconds without a change, at the last look.
    """

    claim: Claim | None = None
    changed: bool = False
    quiet: float = 0.0
    _sign: bytes = field(default=b"")
    _since: float = field(default=0.0)

    def look(self, folder: RunFolder, now: float) -> Claim | None:
        """Look once. Returns the holder's claim; None if the run folder is free.

        Args:
            now: seconds of a monotonic clock of this process.
        """
        last = next(reversed(chain(folder)), None)
        if last is None:
            self.claim = None
            return None
        sign = b""
        with contextlib.suppress(FileNotFoundError):
            sign = folder.read(last.beat_name)
        if self.claim is None:
            self.claim, self._sign, self._since = last, sign, now
        elif (last, sign) != (self.claim, self._sign):
            self.claim, self._sign, self._since, self.changed = last, sign, now, True
        self.quiet = now - self._since
        return last
