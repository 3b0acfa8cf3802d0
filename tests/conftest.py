"""What holds for every test."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A shell without job control starts what runs in its background with SIGINT ignored, and so would the children of
    this process be; a handler is not inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
