"""What the ledger says of a span of time, read where it lies. Blocking: not for an event loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from servery.store.ledger import Ledger, WrongLedger
from servery.telemetry.report import Question, Report, make_report
from servery.terms.routes import Route


class Unreadable(Exception):
    """There is no ledger, or it can't be read; the message says why."""


def read_report(ledger: Path, question: Question, routes: Mapping[str, Route]) -> Report:
    """The Report on a ledger's Records; `routes` are those whose promises are looked at. Unreadable."""
    try:
        store = Ledger(ledger)
    except WrongLedger as error:
        raise Unreadable(str(error)) from None
    except DBAPIError as error:
        raise Unreadable(f"{ledger} can't be read: {error.orig}") from None
    try:
        since, until = question.since_ns, question.until_ns
        return make_report(
            question, store.read(since, until), store.summaries(since, until), store.uptimes(since, until), routes
        )
    except DBAPIError as error:
        raise Unreadable(f"{ledger} can't be read: {error.orig}") from None
    finally:
        store.close()
