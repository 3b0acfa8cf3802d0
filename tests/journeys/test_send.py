"""The example's caller, as its own process, against a server that answers as we tell it to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

import pytest

RECORD_ID = "0" * 52


class Scripted(ThreadingHTTPServer):
    """Answers infer with `refusals` first, each (status, Retry-After), then always with the label 3."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.refusals: list[tuple[int, str | None]] = []
        self.seen: list[tuple[str, str | None, dict[str, object]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((self.path, self.headers["authorization"], body))
        if self.path.endswith("/infer") and self.server.refusals:
            status, retry_after = self.server.refusals.pop(0)
            self._reply(status, {"error": "as the test wants it"}, {"retry-after": retry_after} if retry_after else {})
        elif self.path.endswith("/infer"):
            output = {"name": "label", "datatype": "INT64", "shape": [1], "data": [3]}
            self._reply(200, {"outputs": [output]}, {"servery-record-id": RECORD_ID, "servery-tier": "cheap"})
        else:
            self._reply(202, {}, {})

    def _reply(self, status: int, body: object, headers: dict[str, str]) -> None:
        encoded = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(encoded))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Nothing: the test reads `seen`."""


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(str(files("servery") / "scaffold" / "digits" / "send.py"), tmp_path)
    lines = ["label," + ",".join(f"p{n}" for n in range(64)), *(f"{label}" + ",0" * 64 for label in (3, 3, 8))]
    (tmp_path / "held-out.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def send(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", folder / "send.py", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_sends_each_image_then_each_label(server: Scripted, folder: Path) -> None:
    done = send(folder, "--url", server.url, "--key", "secret")
    assert done.returncode == 0, done.stderr
    assert "3 images" in done.stdout
    assert "2 right (answered by cheap 3)" in done.stdout
    assert "images 3/3 (100 %)" in done.stderr
    assert [path for path, _, _ in server.seen] == ["/v2/models/digits/infer"] * 3 + ["/servery/v1/feedback"] * 3
    assert {key for _, key, _ in server.seen} == {"Bearer secret"}
    assert server.seen[-1][2] == {"record_id": RECORD_ID, "name": "label", "value": "8"}


def test_comes_back_when_it_is_asked_to(server: Scripted, folder: Path) -> None:
    server.refusals = [(429, "0.01"), (503, "0")]
    done = send(folder, "--url", server.url, "--limit", "1")
    assert done.returncode == 0, done.stderr
    assert len(server.seen) == 4


@pytest.mark.parametrize("refusal", [(404, None), (500, None), (429, "3600")])
def test_stops_and_says_why_where_waiting_does_not_help(
    server: Scripted, folder: Path, refusal: tuple[int, str | None]
) -> None:
    server.refusals = [refusal]
    done = send(folder, "--url", server.url)
    assert done.returncode == 1
    assert f"answered with {refusal[0]}" in done.stderr
    assert "as the test wants it" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(server.seen) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense"])
def test_says_where_it_looked_when_nobody_is_there(folder: Path, url: str) -> None:
    done = send(folder, "--url", url)
    assert done.returncode == 1
    assert url in done.stderr
    assert "Traceback" not in done.stderr


def test_says_what_writes_the_images(folder: Path) -> None:
    done = send(folder, "--file", str(folder / "other.csv"))
    assert done.returncode == 1
    assert "train.py" in done.stderr
