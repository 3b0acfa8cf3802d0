"""What is done with what callers have said leaves an entry in the audit, or isn't done."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from servery.cli.reach import fail
from servery.control.auditing import recorded
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.host.users import own_user
from servery.store.state import State, WrongState


@contextlib.contextmanager
def audited(folder: DataFolder, act: str, subject: str = "", why: str = "") -> Generator[dict[str, object]]:
    """Do something, and write at its end how it went, also where it fails. What is added to the dict is the entry's evidence.

    Where the audit can't be written, the command ends: before anything is done, if that is known then.
    """
    try:
        state = State(folder.state, folder.heads, create=True)
        with recorded(state, own_user(), why, act, subject, Clock()) as evidence:
            yield evidence
    except WrongState as error:
        fail(f"the audit can't be written: {error}")
