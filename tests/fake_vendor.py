"""A `servery fake-vendor` of the tests' own."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

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
        deadline = time.monotonic() + _READY_S
        while not self.url:
            assert time.monotonic() < deadline, self._log.read_text()
            assert self.process.poll() is None, self._log.read_text()
            if found := re.search(r"on (http://\S+)", self._log.read_text()):
                try:
                    urllib.request.urlopen(found[1].removesuffix("/v1") + "/vendor/invoice", timeout=5).close()
                    self.url = found[1]
                except OSError:
                    time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)

    def invoice(self) -> list[dict[str, Any]]:
        """What it bills, call by call."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/vendor/invoice", timeout=10) as reply:
            return json.loads(reply.read())["lines"]
