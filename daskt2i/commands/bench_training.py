"""What `bench read`, `bench train` and `bench sample` do, to be registered with the other `bench` commands.

Covers: reading options, calling what measures, giving back the report.
Does not cover: measuring (`daskt2i.bench`), where reports are written and how they are shown (`commands.bench`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from daskt2i.commands.estimate import numbers


def read(
    shapes: str, readers: str, windows: str, origins: str, repeats: int, place: str | None, command: str, tell: Any
) -> Any:
    """`bench read`: the report.

    Raises:
        ConfigError: an option is wrong.
    """
    from daskt2i.bench.read import ORIGINS, bench_read
    from daskt2i.errors import ConfigError

    wanted = _words(origins)
    if wrong := [name for name in wanted if name not in ORIGINS]:
        raise ConfigError(f"--from {wrong[0]!r} is none of {', '.join(ORIGINS)}.")
    return bench_read(
        _words(shapes),
        numbers("--readers", readers),
        numbers("--windows", windows),
        wanted,  # type: ignore[arg-type]  # checked above
        repeats=repeats,
        place=place,
        command=command,
        tell=tell,
    )


def train(
    settings: Any,
    ranks: str,
    shape: str,
    steps: int,
    threads: int | None,
    scheduler: str,
    repeats: int,
    place: str | None,
    command: str,
    tell: Any,
) -> Any:
    """`bench train`: the report.

    Args:
        settings: a workflow, of which `train` and `launch` count.

    Raises:
        ConfigError: an option is wrong.
    """
    from daskt2i.bench.train import bench_train

    return bench_train(
        numbers("--ranks", ranks),
        settings.train,
        settings.launch,
        shape=shape,
        steps=steps,
        threads=threads,
        repeats=repeats,
        place=place,
        hands=hands_of(settings, scheduler),
        command=command,
        tell=tell,
    )


def sample(
    place: str,
    steps: str,
    batches: str,
    prompts: list[str],
    guidance: float,
    sampler: str,
    device: str,
    threads: int | None,
    repeats: int,
    command: str,
    tell: Any,
) -> Any:
    """`bench sample`: the report.

    Raises:
        ConfigError: an option is wrong.
    """
    from pathlib import Path

    from daskt2i.bench.sample import PROMPT, bench_sample
    from daskt2i.errors import ConfigError
    from daskt2i.machine import this_machine

    if sampler not in ("dpm++", "ddim", "euler"):
        raise ConfigError(f"--sampler {sampler!r} is none of dpm++, ddim, euler.")
    return bench_sample(
        Path(place).expanduser(),
        numbers("--steps", steps),
        numbers("--batches", batches),
        prompts=prompts or (PROMPT,),
        guidance=guidance,
        sampler=sampler,  # type: ignore[arg-type]  # checked above
        device=device,
        threads=threads or this_machine().cores,
        repeats=repeats,
        command=command,
        tell=tell,
    )


def hands_of(settings: Any, scheduler: str) -> Callable[[int, int], Any]:
    """Where ranks run: child processes for a pool's name, else the workers of a Dask cluster started for them."""
    from daskt2i.cluster import Scheduler
    from daskt2i.hands import LocalHands
    from daskt2i.plan import Crew
    from daskt2i.session import Session

    chosen = Scheduler.parse(scheduler)

    @contextmanager
    def hands(ranks: int, threads: int) -> Iterator[Any]:
        if chosen.is_pool:
            yield LocalHands(ranks)
            return
        from daskt2i.machine import this_machine

        with Session(chosen, Crew(ranks, threads, this_machine().memory // ranks, "as asked for")) as session:
            yield session.hands()[0]

    return hands


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
