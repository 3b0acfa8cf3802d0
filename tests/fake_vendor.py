"""A `servery fake-vendor` of the tests' own."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any, Self

from living import until
from servery.cli.child import servery_command

_READY_S = 30.0


class FakeVendor:
    """The process, as a context manager. It answers once it is entered."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._log = folder / "vendor.txt"
        self._options = options
        self.url = ""

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*servery_command(), "fake-vendor", *self._options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.url = until(self._answers, _READY_S, self._log.read_text)
        return self

    def _answers(self) -> str:
        assert self.process.poll() is None, self._log.read_text()
        found = re.search(r"on (http://\S+)", self._log.read_text())
        if found is None:
            return ""
        try:
            urllib.request.urlopen(found[1].removesuffix("/v1") + "/vendor/invoice", timeout=5).close()
        except OSError:
            return ""
        return found[1]

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        """What it answers when it is asked directly."""
        asked = urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(asked, timeout=10) as reply:
            return reply.read()

    def invoice(self) -> list[dict[str, Any]]:
        """What it bills, call by call."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/vendor/invoice", timeout=10) as reply:
            return json.loads(reply.read())["lines"]
