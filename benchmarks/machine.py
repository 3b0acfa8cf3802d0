"""Where the figures come from: without it they mean nothing."""

from __future__ import annotations

import os
import platform
import subprocess
import sysconfig
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("uvicorn", "uvloop", "httptools", "msgspec", "numpy", "onnxruntime")


def facts(folder: Path) -> list[str]:
    """Lines that describe the machine, the Python and the commit of the checkout in `folder`."""
    load = " ".join(f"{average:.2f}" for average in os.getloadavg())
    return [
        f"processor  {_processor()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB; core 0 shares with: {_siblings()}",
        f"kernel     {platform.release()}, load average before the runs {load}",
        f"python     {platform.python_version()} ({_build()})",
        f"packages   {', '.join(f'{name} {version(name)}' for name in PACKAGES)}",
        f"wrk        {_first_line(['wrk', '-v'], folder).removeprefix('wrk ')}",
        f"commit     {_commit(folder)}",
    ]


def _build() -> str:
    """When and by which compiler, and whether its configuration says that it is profile-optimised (distributions may do
    it in other ways)."""
    optimised = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    words = (
        *platform.python_build(),
        platform.python_compiler(),
        "built with --enable-optimizations" if optimised else "built without --enable-optimizations",
    )
    return ", ".join(words)


def _memory_gb() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemTotal")) * 1024 / 1e9


def _siblings() -> str:
    """Hardware threads on the server's core, beside itself."""
    path = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    if not path.exists():
        return "unknown"
    return path.read_text().strip().removeprefix("0").lstrip(",-") or "none"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _commit(folder: Path) -> str:
    commit = _first_line(["git", "rev-parse", "HEAD"], folder)
    changed = _first_line(["git", "status", "--porcelain", "--untracked-files=no"], folder)
    return f"{commit}{', with uncommitted changes' if changed else ''}"


def _first_line(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return ((done.stdout or done.stderr).splitlines() or [""])[0].strip()
