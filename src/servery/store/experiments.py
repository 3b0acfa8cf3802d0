"""What the state remembers of Experiments: where each stands, and every look at it, which is never rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from sqlalchemy import func, select
from sqlalchemy.dialects import sqlite

from servery.store import state_schema as schema
from servery.store.state import State
from servery.terms.audit import Draft
from servery.terms.experiments import Experiment, Look, Looked, Stage

_LOOKS = 100_000


class ExperimentBook:
    """The controller's own, used by one thread at a time. WrongState."""

    def __init__(self, path: Path, heads: Path) -> None:
        self._path = path
        self._heads = heads
        self._state: State | None = None

    def running(self) -> list[Experiment]:
        """Those that aren't over."""
        return self._found(running=True, most=10_000)

    def concluded(self, most: int) -> list[Experiment]:
        """The last that were concluded, the newest first."""
        return self._found(running=False, most=most)

    def judged(self, experiment: str) -> bytes | None:
        """What was kept between looks."""
        table = schema.experiments
        with self._opened().transaction() as connection:
            found = connection.execute(select(table.c.judged).where(table.c.id == experiment)).scalar_one_or_none()
        return found or None

    def keep(self, experiment: Experiment, at_ns: int, looks: Sequence[Looked]) -> None:
        """Where it stands from now on, and the looks that it was decided by."""
        state, table = self._opened(), schema.experiments
        insert = sqlite.insert(table).values(
            id=experiment.id,
            name=experiment.name,
            began_ns=experiment.began_ns,
            stage=experiment.stage.value,
            experiment=_text(experiment),
            judged=b"",
        )
        put = insert.on_conflict_do_update(
            index_elements=["id"], set_={"stage": insert.excluded.stage, "experiment": insert.excluded.experiment}
        )
        concluded = experiment.conclusion
        outcome = experiment.stage.value if concluded is None else f"{experiment.stage.value}: {concluded.value}"
        evidence = f'{{"experiment":"{experiment.id}","looks":{_text(looks)}}}'
        after = _text({"arm": experiment.arm, "design": experiment.design})
        draft = Draft(
            at_ns, experiment.who, experiment.why, "experiment", experiment.name, outcome, evidence, after=after
        )
        with state.transaction() as connection:
            connection.execute(put)
            entry = state.append(connection, draft)
        state.write_head(entry)

    def look(self, experiment: str, look: Look, judged: bytes) -> None:
        """A look that said something new, and what is kept between looks."""
        table, all_ = schema.experiment_looks, schema.experiments
        with self._opened().transaction() as connection:
            of = table.c.experiment == experiment
            last = connection.execute(select(func.max(table.c.number)).where(of)).scalar_one()
            number = (last or 0) + 1
            if number <= _LOOKS:
                values = {"experiment": experiment, "number": number, "at_ns": look.at_ns, "looks": _text(look.looks)}
                connection.execute(table.insert().values(values))
            connection.execute(all_.update().where(all_.c.id == experiment).values(judged=judged))

    def looks(self, experiment: str) -> list[Look]:
        """All of them, the oldest first."""
        table = schema.experiment_looks
        query = select(table.c.at_ns, table.c.looks).where(table.c.experiment == experiment).order_by(table.c.number)
        with self._opened().transaction() as connection:
            rows = connection.execute(query).all()
        return [Look(row.at_ns, msgspec.json.decode(row.looks, type=tuple[Looked, ...])) for row in rows]

    def _found(self, running: bool, most: int) -> list[Experiment]:
        table = schema.experiments
        over = Stage.CONCLUDED.value
        stage = table.c.stage != over if running else table.c.stage == over
        query = select(table.c.experiment).where(stage).order_by(table.c.began_ns.desc()).limit(most)
        with self._opened().transaction() as connection:
            rows = connection.execute(query).scalars().all()
        return [msgspec.json.decode(row, type=Experiment) for row in rows]

    def _opened(self) -> State:
        if self._state is None or not self._state.path.exists():
            self._state = State(self._path, self._heads, create=True)
        return self._state


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
