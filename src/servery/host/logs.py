"""Logs: one line an event on stderr, with the process and the time; nothing that callers sent."""

from __future__ import annotations

import logging
import sys


def start_logs(process: str, level: int = logging.INFO) -> None:
    """Log from here on, as `process`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s {process} %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("uvicorn", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
