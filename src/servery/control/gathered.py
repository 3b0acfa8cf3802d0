"""What the units of an Experiment have brought so far, read from the sums of the ledger."""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from servery.control.experiments import NS, Evidence
from servery.store.ledger import Ledger, NoLedger, WrongLedger
from servery.terms.experiments import Experiment

log = logging.getLogger("servery.controller")


class Gathered:
    """The ledger, as far as Experiments need it. Used off the event loop, by one thread at a time."""

    def __init__(self, ledger: Path) -> None:
        self._path = ledger
        self._ledger: Ledger | None = None

    def __call__(self, experiment: Experiment, until_ns: int) -> Evidence | None:
        """Of the units that had come by then; None while there is no ledger, or it can't be read."""
        design = experiment.design
        within_ns = round(design.age_s * NS) if design.unit is None and design.age_s else None
        try:
            if self._ledger is None:
                self._ledger = Ledger(self._path)
            counts = self._ledger.units(experiment.id)
            metrics = (design.primary, *design.guardrails)
            sums = self._ledger.unit_sums(experiment.id, metrics, until_ns, within_ns=within_ns)
            names = () if design.segments is None else design.segments.all
            segments = {
                name: self._ledger.unit_sums(experiment.id, metrics, until_ns, name, within_ns) for name in names
            }
        except NoLedger:
            return None
        except (WrongLedger, SQLAlchemyError) as error:
            log.warning("the units of the experiment %s can't be read now: %s", experiment.name, error)
            if self._ledger is not None:
                self._ledger.close()
                self._ledger = None
            return None
        return Evidence({arm: (one.units, one.requests) for arm, one in counts.items()}, sums, segments)
