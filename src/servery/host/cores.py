"""How many cores this process may use: its affinity, and what its control group gives it."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """At least 1. A control group's quota of 2.5 cores counts as 2: a third worker would only wait for the others."""
    granted = [quota for quota in (_version_2(root), _version_1(root)) if quota is not None]
    return max(1, min([len(os.sched_getaffinity(0)), *(math.floor(quota) for quota in granted)]))


def _version_2(root: Path) -> float | None:
    """The least quota from this process's group up to the top (cgroup v2, cpu.max: "quota period" or "max period")."""
    line = next((one for one in _text(root / "proc/self/cgroup").splitlines() if one.startswith("0::")), "0::/")
    top = root / "sys/fs/cgroup"
    folder = top / line[3:].lstrip("/")
    quotas: list[float] = []
    while True:
        quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
        if folder == top or top not in folder.parents:
            return min(quotas, default=None)
        folder = folder.parent


def _version_1(root: Path) -> float | None:
    folder = root / "sys/fs/cgroup/cpu"
    quota, period = _text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
