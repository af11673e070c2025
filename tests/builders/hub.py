"""A Hugging Face hub on this machine: the requests that a push makes, and those that `hf://` makes to read.

Covers: tokens, repositories, the list of files, large files, commits, ranges of files.
Does not cover: Xet, branches, pages of a listing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

WRITER, READER = "hf_writer_token", "hf_reader_token"
"""Tokens: one that may write, and one that may only read."""

_LARGE = re.compile(r"\.parquet$|/c[./]")


@dataclass
class Hub:
    """What the hub has.

    Attributes:
        files: repository -> name -> content.
        private: repository -> whether it is private.
        commits: message and number of added files of each commit.
        uploads: large files that were received.
        breaks_at, breaks_with: number of the commit that the server does not take (None for none), and its answer.
    """

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[tuple[str, int]] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    uploads: int = 0
    breaks_at: int | None = None
    breaks_with: int = 503

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        """State and JSON (or bytes) of the answer."""
        if path.startswith("/large/"):
            self.large[path.removeprefix("/large/")] = body
            self.uploads += 1
            return 200, {}
        if token not in (WRITER, READER):
            return 401, {"error": "Invalid username or password."}
        sent: Any = json.loads(body) if body and "/commit/" not in path and "/paths-info/" not in path else {}
        if path == "/api/whoami-v2":
            return 200, {"name": "me"}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if path == "/api/repos/create":
            name = f"{sent['organization']}/{sent['name']}"
            if token == READER:
                return 403, {"error": "You don't have the rights to create a dataset under this namespace"}
            if name in self.files:
                return 409, {"error": "You already created this dataset repo", "url": f"{self.address}/datasets/{name}"}
            self.files[name] = {}
            self.private[name] = sent.get("visibility") == "private" or bool(sent.get("private"))
            return 200, {"url": f"{self.address}/datasets/{name}"}
        match = re.fullmatch(r"(?:/api)?/datasets/([^/]+/[^/]+?)(?:\.git)?(/.*)?", path)
        if match is None or match[1] not in self.files:
            return 404, {"error": "Repository not found"}
        files, rest = self.files[match[1]], match[2] or ""
        if rest.startswith("/preupload/"):
            modes = [(one["path"], "lfs" if _LARGE.search(one["path"]) else "regular") for one in sent["files"]]
            return 200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False, "oid": None} for p, m in modes]}
        if rest == "/info/lfs/objects/batch":
            return 200, {"objects": [self._batch(one) for one in sent["objects"]]}
        if rest.startswith("/commit/"):
            return self._commit(match[1], [json.loads(line) for line in body.splitlines()])
        if rest.startswith("/tree/"):
            below = "".join(f"{part}/" for part in rest.split("/")[3:])
            return 200, _tree({name: data for name, data in files.items() if name.startswith(below)})
        if rest.startswith("/paths-info/"):
            return 200, []
        if rest.startswith("/resolve/"):
            name = rest.split("/", 3)[3]
            return (200, files[name]) if name in files else (404, {"error": "Entry not found"})
        return 200, {"id": match[1], "sha": "1" * 40, "private": self.private[match[1]], "tags": [], "siblings": []}

    def _batch(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.large:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.address}/large/{wanted['oid']}"}}}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        if len(self.commits) == self.breaks_at:
            return self.breaks_with, {"error": "It is not taken"}
        files, oid = self.files[name], f"{len(self.commits):040x}"
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        self.commits.append((lines[0]["value"]["summary"], sum(line["key"] != "deletedFile" for line in lines[1:])))
        return 200, {
            "commitUrl": f"{self.address}/datasets/{name}/commit/{oid}",
            "commitOid": oid,
            "pullRequestUrl": None,
        }


def _tree(files: dict[str, bytes]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    folders = {name.rsplit("/", depth)[0] for name in files for depth in range(1, name.count("/") + 1)}
    found += [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders)]
    for name, data in files.items():
        about: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}
        if _LARGE.search(name):
            about["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        found.append(about)
    return found


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def hub_here(monkeypatch: pytest.MonkeyPatch, token: str = WRITER) -> Iterator[Hub]:
    """A hub on a free port, in a process that is logged in and sends large files without Xet."""
    hub = Hub()

    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            state, made = hub.answer(self.command, unquote(urlsplit(self.path).path), given, body)
            data = made if isinstance(made, bytes) else json.dumps(made).encode()
            if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
                data, state = data[int(span[1]) : int(span[2]) + 1 if span[2] else None], 206
            self.send_response(state)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_HEAD = _serve

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
