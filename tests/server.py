"""A `servery up` of the tests' own: its manifest, its process, and plain ways to talk to it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from servery.cli.child import servery_command
from servery.wire.tensors import DTYPES

READY_S = 50.0
_POLL_S = 0.02


class Reply(msgspec.Struct, frozen=True):
    """What came back. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error in the protocol's own form; fails on any other body."""
        assert self.headers["content-type"] == "application/json", self
        assert list(self.json) == ["error"], self.body[:300]
        return self.json["error"]

    def tensors(self) -> dict[str, Any]:
        """The outputs by name: numpy arrays, or lists of bytes for BYTES in binary."""
        length = self.headers.get("inference-header-content-length")
        at = len(self.body) if length is None else int(length)
        found: dict[str, Any] = {}
        for output in json.loads(self.body[:at])["outputs"]:
            size = (output.get("parameters") or {}).get("binary_data_size")
            if size is None:
                assert output["datatype"] != "BF16"
                kind = DTYPES[output["datatype"]]
                found[output["name"]] = np.array(output["data"], dtype=kind).reshape(output["shape"])
                continue
            block, at = self.body[at : at + size], at + size
            found[output["name"]] = (
                unpack_bytes(block)
                if output["datatype"] == "BYTES"
                else np.frombuffer(block, DTYPES[output["datatype"]]).reshape(output["shape"])
            )
        assert at == len(self.body)
        return found


class Server:
    """`servery up` in a child process, as a context manager: started and, where it can be, ready once it is entered."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data = folder / "data"
        self.manifest = folder / "servery.yaml"
        # Slow models stay in the worker unless a test is about where they run. (JSON is YAML too.)
        server = {"in_process_ms": 60_000, **manifest.get("server", {})}
        self.manifest.write_text(json.dumps({"servery": 1, **manifest, "server": server}))
        self._options = options
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        arguments = ("up", str(self.manifest), "--port", "0", "--data", str(self.data), *self._options)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*servery_command(), *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self.port = int(self._await(r"starting on http://\S+:(\d+)"))
            self._await(r"serving on \S+ ((?:un)?ready)")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _log(self) -> Path:
        return self.folder / "log.txt"

    def written(self) -> str:
        return self._log.read_text(errors="replace")

    def _await(self, pattern: str) -> str:
        assert self.process is not None
        deadline = time.monotonic() + READY_S
        while (found := re.search(pattern, self.written())) is None:
            assert self.process.poll() is None, self.written()
            assert time.monotonic() < deadline, self.written()
            time.sleep(_POLL_S)
        return found[1]

    def stop(self) -> int:
        """SIGTERM, the end of the process, and its exit code. After it the ledger has every Record."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def ask(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            reply = connection.getresponse()
            return Reply(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, headers=headers)

    def infer(self, name: str, body: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """An infer call of `name`, which is escaped already."""
        sent = body if isinstance(body, bytes) else json.dumps(body)
        return self.ask("POST", f"/v2/models/{name}/infer", sent, headers)

    def raw(self, *parts: bytes, pause_s: float = 0.0, limit_s: float = 50.0) -> bytes:
        """Everything that comes back for these bytes, until the server closes the connection."""
        with self.connect(limit_s) as line:
            for part in parts:
                try:
                    line.sendall(part)
                except OSError:
                    break
                time.sleep(pause_s)
            return read_all(line)

    def connect(self, limit_s: float = 50.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=limit_s)

    def records(self, query: str) -> list[tuple[Any, ...]]:
        """What SQL reads from the ledger."""
        connection = sqlite3.connect(self.data / "ledger.db")
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def await_records(self, query: str, count: int) -> list[tuple[Any, ...]]:
        """The rows of a query once there are `count` of them: Records take a moment from the spool to the ledger."""
        deadline = time.monotonic() + 50
        while True:
            try:
                found = self.records(query)
            except sqlite3.OperationalError:  # the shipper makes the ledger with the first Records
                found = []
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, found
            time.sleep(_POLL_S)


def read_all(line: socket.socket) -> bytes:
    """All until the end of the connection; a reset counts as one where the server left something unread."""
    received = b""
    while True:
        try:
            part = line.recv(65536)
        except ConnectionResetError:
            part = b""
        if not part:
            return received
        received += part


def split_replies(received: bytes) -> list[Reply]:
    """The replies in what one connection gave; each must state its content-length."""
    replies: list[Reply] = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers["content-length"])
        replies.append(Reply(int(status.split()[1]), headers, rest[:size]))
        received = rest[size:]
    return replies


def tensor(name: str, datatype: str, shape: Iterable[int], data: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": data}


def with_binary(head: dict[str, Any], blocks: Mapping[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """A body of JSON and binary blocks by input name, and the header that parts them."""
    for sent in head["inputs"]:
        if sent["name"] in blocks:
            sent.pop("data", None)
            sent["parameters"] = {"binary_data_size": len(blocks[sent["name"]])}
    text = json.dumps(head).encode()
    body = text + b"".join(blocks[sent["name"]] for sent in head["inputs"] if sent["name"] in blocks)
    return body, {"inference-header-content-length": str(len(text))}


def pack_bytes(elements: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def unpack_bytes(block: bytes) -> list[bytes]:
    elements: list[bytes] = []
    at = 0
    while at < len(block):
        size = int.from_bytes(block[at : at + 4], "little")
        elements.append(block[at + 4 : at + 4 + size])
        at += 4 + size
    return elements


def post(path: str, body: bytes, *lines: str) -> bytes:
    """A POST as it goes over the wire, on a connection that stays open."""
    head = [f"POST {path} HTTP/1.1", "host: servery", f"content-length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
