"""What a process that serves asks of the interpreter and the system."""

from __future__ import annotations

import gc
import resource
import sys

_WANTED = 65_536  # the connections of as many callers as are let in, those of their models, and room
# Requests make no reference cycles, so the collector finds next to nothing: it need not look every 700 objects.
_COLLECT_EVERY = 50_000
# A thread that wants the interpreter gets it this soon; the default of 5 ms would be seen in every latency.
SWITCH_S = 0.0005


def tune_worker() -> None:
    """For a gateway worker: threads wait shortly, the collector comes rarely, and many connections may be open."""
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(_COLLECT_EVERY, 20, 50)
    open_many()


def open_many() -> None:
    """As many as the system lets this user have, up to what may be needed: the usual 1,024 are 500 streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
