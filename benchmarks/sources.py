"""How fast a tar is indexed and read beside the same files in a folder, and what an index of many rows holds in memory.

    python benchmarks/sources.py tar --rows 100000 --folder /tmp/sources-bench
    python benchmarks/sources.py index --rows 4000000 --parts 64 --folder /tmp/sources-bench

Covers: time and memory of an index of one tar, rows per second by random access with several threads, for a tar and a
folder; memory of the driver with an index of made-up rows, and rows per second out of it.
Does not cover: networks, encoders. It prints JSON. The files stay in the folder: delete it afterwards.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from daskt2i.machine.processor import processor_name
from daskt2i.sources.coco import CocoSource
from daskt2i.sources.index.build import build
from daskt2i.sources.index.found import Found, Tally
from daskt2i.sources.index.places import Container, Place
from daskt2i.sources.index.shelf import Shelf
from daskt2i.sources.webdataset import WebDatasetSource
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Row

SIZES = (6_000, 14_000)
"""Smallest and largest image, bytes."""


def memory() -> dict[str, float]:
    """MiB of this process: now, and at the most so far."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"now_mib": round(pages / 2**20, 1), "most_mib": round(most / 2**20, 1)}


def make_tar(path: Path, rows: int) -> None:
    """A tar with images of random bytes, and a caption for each."""
    luck = random.Random(1)
    noise = luck.randbytes(2 * SIZES[1])
    with tarfile.open(path, "w") as archive:
        for number in range(rows):
            begin = luck.randrange(SIZES[1])
            image = noise[begin : begin + luck.randint(*SIZES)]
            text = f"a picture with the number {number}, and some words about it".encode()
            for ending, data in (("jpg", image), ("txt", text)):
                member = tarfile.TarInfo(f"{number:07d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def unpack(path: Path, folder: Path) -> None:
    """The images of the tar as files."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(path) as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # it would keep all of them
            if member.name.endswith(".jpg") and (stream := archive.extractfile(member)) is not None:
                (folder / member.name).write_bytes(stream.read())


def rate(read: Callable[[Row], bytes], rows: list[Row], threads: int) -> dict[str, float]:
    """Rows per second in random order, and microseconds of the processor for a row."""
    begun, busy = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        size = sum(pool.map(lambda row: len(read(row)), rows, chunksize=64))
    assert size
    per_second = len(rows) / (time.perf_counter() - begun)
    return {"rows_per_second": round(per_second), "processor_us": round(1e6 * (time.process_time() - busy) / len(rows))}


def tar(folder: Path, rows: int) -> dict[str, Any]:
    """Index a tar, then read it and the same files from a folder."""
    path = folder / "x.tar"
    if not path.exists():
        make_tar(path, rows)
        unpack(path, folder / "files")
    shutil.rmtree(folder / "run", ignore_errors=True)
    before = memory()
    source = WebDatasetSource(str(path))
    source.keep_index(RunFolder(folder / "run"), True)
    begun, busy = time.perf_counter(), time.process_time()
    info = source.info()
    seconds, busy = time.perf_counter() - begun, time.process_time() - busy
    after = memory()
    kept = WebDatasetSource(str(path))
    kept.keep_index(RunFolder(folder / "run"), True)
    begun = time.perf_counter()
    kept.info()
    again = time.perf_counter() - begun
    listed = list(source.rows(0, info.rows))
    plain = [Row(row.index, row.image_id, row.file_name.partition("/")[2], row.captions) for row in listed]
    order = random.Random(2).sample(range(len(listed)), min(len(listed), 30_000))
    beside = CocoSource(str(folder / "files"), "unused")
    rates: dict[str, dict[str, dict[str, float]]] = {}
    for threads in (1, 2, 4):
        rates[f"{threads} threads"] = {
            "tar": rate(source.read, [listed[n] for n in order], threads),
            "folder": rate(beside.read, [plain[n] for n in order], threads),
        }
    return {
        "rows": info.rows,
        "tar_bytes": path.stat().st_size,
        "index_bytes": sum(one.stat().st_size for one in (folder / "run" / "index").iterdir()),
        "index_seconds": round(seconds, 2),
        "index_processor_seconds": round(busy, 2),
        "index_again_seconds": round(again, 4),
        "memory_before": before,
        "memory_after": after,
        "random_access": rates,
    }


def index(folder: Path, rows: int, parts: int) -> dict[str, Any]:
    """What the driver holds with an index of made-up rows, five captions each, and how fast it gives rows."""
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    for number in range(parts):
        (folder / "parts" / f"{number:05d}.tar").write_bytes(b"x")
    each = rows // parts
    captions = tuple(f"a caption of about fifty characters, number {n} of 5" for n in range(5))

    def scan(container: Container, tally: Tally) -> Iterator[Found]:
        for number in range(each):
            yield Found(f"{container.name}/{number:08d}.jpg", captions, offset=number * 9000, size=8000)

    place, shelf = Place(str(folder / "parts"), {}, (".tar",), "tar"), Shelf(RunFolder(folder / "many"), True)
    begun = time.perf_counter()
    build(place, scan, shelf, "made up")
    built = time.perf_counter() - begun
    return {"rows": each * parts, "parts": parts, "build_seconds": round(built, 1), "memory": memory()}


def use(folder: Path) -> dict[str, Any]:
    """In a new process: what the driver holds with that index, and how fast it gives all rows in chunks."""
    place, shelf = Place(str(folder / "parts"), {}, (".tar",), "tar"), Shelf(RunFolder(folder / "many"), False)
    before = memory()

    def scan(container: Container, tally: Tally) -> Iterator[Found]:
        raise AssertionError("the index is there")

    begun = time.perf_counter()
    found = build(place, scan, shelf, "made up")
    opened, after = time.perf_counter() - begun, memory()
    total = found.info("made-up", "made up").rows
    begun = time.perf_counter()
    for start in range(0, total, 1024):
        found.rows(start, start + 1024)
    seconds = time.perf_counter() - begun
    return {
        "rows": total,
        "open_seconds": round(opened, 3),
        "memory_before": before,
        "memory_open": after,
        "memory_after_all_rows": memory(),
        "rows_per_second": round(total / seconds),
        "index_bytes": sum(one.stat().st_size for one in (folder / "many" / "index").iterdir()),
    }


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tar", "index", "use"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--parts", type=int, default=64)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    calls = {
        "tar": lambda: tar(given.folder, given.rows),
        "index": lambda: index(given.folder, given.rows, given.parts),
        "use": lambda: use(given.folder),
    }
    json.dump({"processor": processor_name(), **calls[given.what]()}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
