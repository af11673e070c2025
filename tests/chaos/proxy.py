"""A TCP proxy in front of a scheduler: it delays, tears, drops and blocks connections."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time

BLOCK = 65536


class Proxy:
    """Listens on a free port of loopback, and forwards to another.

    Args:
        target: the port to forward to.

    Attributes:
        port: the port of the proxy.
        delay: seconds that each block of bytes waits.
        blocked: nothing is forwarded while it is True; connections stay open.
        refusing: new connections are closed at once.
    """

    def __init__(self, target: int) -> None:
        self.target, self.delay, self.blocked, self.refusing = target, 0.0, False, False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                if self.refusing:
                    raise ConnectionRefusedError
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._pairs.append((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(BLOCK):
                while self.blocked:
                    time.sleep(0.05)
                if self.delay:
                    time.sleep(self.delay)
                sink.sendall(data)
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()

    def drop(self, dice: random.Random, share: float) -> int:
        """Close a share of the open connections, with a reset and with whatever was half sent. Returns their number."""
        with self._lock:
            self._pairs = [pair for pair in self._pairs if pair[0].fileno() >= 0]
            chosen = [pair for pair in self._pairs if dice.random() < share]
        for pair in chosen:
            for side in pair:
                with contextlib.suppress(OSError):
                    # A reset throws away what waits to be sent: the other side has received a part of a message.
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    side.shutdown(socket.SHUT_RDWR)
        return len(chosen)

    def heal(self) -> None:
        """Forward everything again, at once."""
        self.delay, self.blocked, self.refusing = 0.0, False, False

    def close(self) -> None:
        """Stop listening, and close every connection."""
        self._listening.close()
        self.blocked = False
        self.drop(random.Random(0), 2.0)
