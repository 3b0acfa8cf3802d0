"""What is done with what callers have said leaves an entry in the audit, or isn't done."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import msgspec

from servery.cli.reach import fail
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.host.users import own_user
from servery.store.state import State, WrongState
from servery.terms.audit import Draft


@contextlib.contextmanager
def audited(folder: DataFolder, act: str, subject: str = "", why: str = "") -> Generator[dict[str, object]]:
    """Do something, and write at its end how it went, also where it fails. What is added to the dict is the entry's evidence.

    Where the audit can't be written, the command ends: before anything is done, if that is known then.
    """
    evidence: dict[str, object] = {}
    outcome = "failed"
    try:
        state = State(folder.state, folder.heads, create=True)
        try:
            yield evidence
            outcome = "done"
        finally:
            told = msgspec.json.encode(evidence).decode()
            state.record(Draft(Clock().wall_ns(), own_user(), why, act, subject, outcome, told))
    except WrongState as error:
        fail(f"the audit can't be written: {error}")
