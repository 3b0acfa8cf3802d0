"""How an alarm is told to the world outside: an address that it is posted to, and a program of the manifest's owner."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIMIT_S = 30.0
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")  # of the environment: keys of vendors are none of it


class Untold(Exception):
    """It wasn't heard; the message says why."""


class _NowhereElse(urllib.request.HTTPRedirectHandler):
    """What is posted goes to the declared address, or nowhere."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:  # noqa: ARG002
        return None


async def post(url: str, content: bytes) -> None:
    """Post JSON. Untold, where no 2xx comes back."""
    await asyncio.to_thread(_post, url, content)


def _post(url: str, content: bytes) -> None:
    opener = urllib.request.build_opener(_NowhereElse())
    asked = urllib.request.Request(url, content, {"content-type": "application/json"})  # noqa: S310 the manifest allows http(s) alone
    try:
        with opener.open(asked, timeout=LIMIT_S):
            return
    except urllib.error.HTTPError as error:
        raise Untold(f"it answered {error.code}") from None
    except (OSError, ValueError) as error:
        raise Untold(str(getattr(error, "reason", error)) or type(error).__name__) from None


async def run(command: Sequence[str], content: bytes, folder: Path) -> None:
    """Run a program without a shell, with `content` as its input. Untold, where it fails or takes longer than LIMIT_S."""
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise Untold(f"{command[0]}: {error.strerror or error}") from None
    try:
        await asyncio.wait_for(process.communicate(content), LIMIT_S)
    except TimeoutError:
        raise Untold(f"it took longer than {LIMIT_S:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode:
        raise Untold(f"it ended with {process.returncode}")
