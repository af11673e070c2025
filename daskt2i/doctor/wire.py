"""A connection between two workers on ports of the system's choice, as ranks of a training make them.

Covers: one message and its answer, some bytes in one direction, in plain sockets of asyncio.
Does not cover: which workers are asked (`speeds`), Dask's own connections.

The listening worker takes one connection that begins with a token, for a few seconds. All others are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from typing import Any

WIRE_SECONDS = 5.0
"""Time for one connection. A firewall that drops packets gives no answer at all."""

_BLOCK = 1 << 20

_ends: set[asyncio.Task[None]] = set()
"""Tasks that close a listening socket. asyncio itself does not keep them alive."""


async def listen(host: str, token: str, size: int) -> int:
    """Listen on a free port of this host, and return it. One connection with the token may send `size` bytes.

    Args:
        host: address of this worker, as other workers know it.
        token: ASCII text.
    """
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, TimeoutError), contextlib.closing(writer):
            async with asyncio.timeout(WIRE_SECONDS):
                if hmac.compare_digest(await reader.readexactly(len(token)), token.encode()):
                    writer.write(b"k")
                    await writer.drain()
                    left = size
                    while left and (block := await reader.read(min(left, _BLOCK))):
                        left -= len(block)
                    writer.write(b"k")
                    await writer.drain()
                    done.set()

    server = await asyncio.start_server(serve, host, 0, limit=_BLOCK)

    async def end() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), 2 * WIRE_SECONDS)
        server.close()

    task = asyncio.ensure_future(end())
    _ends.add(task)
    task.add_done_callback(_ends.discard)
    return int(server.sockets[0].getsockname()[1])


async def send(host: str, port: int, token: str, size: int) -> dict[str, Any]:
    """Connect to a listening worker and send it some bytes.

    Returns:
        `seconds` of the first message and its answer, `rate` in bytes a second, and `error`: "" if it works.
    """
    try:
        async with asyncio.timeout(WIRE_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            with contextlib.closing(writer):
                begun = time.perf_counter()
                writer.write(token.encode())
                await reader.readexactly(1)
                first = time.perf_counter()
                for start in range(0, size, _BLOCK):
                    writer.write(bytes(min(_BLOCK, size - start)))
                    await writer.drain()
                await reader.readexactly(1)
                last = time.perf_counter()
    except TimeoutError:
        return {"error": "no answer"}
    except (OSError, EOFError) as error:
        return {"error": str(getattr(error, "strerror", None) or error)}
    return {"error": "", "seconds": first - begun, "rate": bytes_a_second(size, last - first, first - begun)}


def bytes_a_second(size: int, seconds: float, trip: float) -> float:
    """The rate of a transfer without the time of the round trip.

    On a busy host one message may take longer than a transfer that came after it. So at most half of the time of the
    transfer counts as the round trip.

    Args:
        size: bytes.
        seconds: of the transfer and its answer.
        trip: seconds of one small message and its answer.
    """
    return size / max(seconds - trip, seconds / 2, 1e-6)
