"""What the state remembers of Rollouts: where each stands, what its Judge has come to, and every look, which is never rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from sqlalchemy import func, select
from sqlalchemy.dialects import sqlite

from servery.store import state_schema as schema
from servery.store.state import State
from servery.terms.audit import Draft
from servery.terms.history import Held
from servery.terms.rollouts import Looked, Phase, Rollout

# The rest is between two looks that differ: a Rollout of weeks needn't leave a line for each second.
_LOOKS = 100_000
_OPEN = [phase.value for phase in Phase if not phase.over]


class RolloutBook:
    """The controller's own, used by one thread at a time. WrongState."""

    def __init__(self, path: Path, heads: Path) -> None:
        self._path = path
        self._heads = heads
        self._state: State | None = None

    def rollouts(self) -> list[Rollout]:
        """Those that aren't over."""
        table = schema.rollouts
        query = select(table.c.rollout).where(table.c.phase.in_(_OPEN)).order_by(table.c.began_ns)
        with self._opened().transaction() as connection:
            rows = connection.execute(query).scalars().all()
        return [msgspec.json.decode(row, type=Rollout) for row in rows]

    def over(self, most: int) -> list[Rollout]:
        """The last that are over, the newest first."""
        table = schema.rollouts
        query = select(table.c.rollout).where(table.c.phase.not_in(_OPEN)).order_by(table.c.began_ns.desc()).limit(most)
        with self._opened().transaction() as connection:
            rows = connection.execute(query).scalars().all()
        return [msgspec.json.decode(row, type=Rollout) for row in rows]

    def find(self, rollout: str) -> Rollout | None:
        """One by its id, whether or not it is over."""
        table = schema.rollouts
        with self._opened().transaction() as connection:
            row = connection.execute(select(table.c.rollout).where(table.c.id == rollout)).scalar_one_or_none()
        return None if row is None else msgspec.json.decode(row, type=Rollout)

    def judged(self, rollout: str) -> bytes | None:
        """What its Judge had come to."""
        table = schema.rollouts
        with self._opened().transaction() as connection:
            found = connection.execute(select(table.c.judged).where(table.c.id == rollout)).scalar_one_or_none()
        return found or None

    def keep(self, rollout: Rollout, who: str, at_ns: int, looks: Sequence[Looked]) -> None:
        """Where it stands from now on, by whom (""; by its own guards), and the looks that it was decided by.

        A Version that was rolled back, or stopped by hand, is held from then on.
        """
        state, table = self._opened(), schema.rollouts
        evidence = msgspec.json.encode(looks).decode()
        said_by = who or "servery"
        insert = sqlite.insert(table).values(
            id=rollout.id,
            model=rollout.model,
            began_ns=rollout.began_ns,
            phase=rollout.phase.value,
            rollout=msgspec.json.encode(rollout).decode(),
            judged=b"",
        )
        put = insert.on_conflict_do_update(
            index_elements=["id"], set_={"phase": insert.excluded.phase, "rollout": insert.excluded.rollout}
        )
        after = {"step": rollout.step, "share": rollout.share, "candidate": rollout.digest}
        draft = Draft(
            at_ns, said_by, rollout.why, "rollout", rollout.model, rollout.phase.value,
            f'{{"rollout":"{rollout.id}","looks":{evidence}}}', after=msgspec.json.encode(after).decode(),
        )  # fmt: skip
        stopped = rollout.phase is Phase.ROLLED_BACK or (rollout.phase is Phase.ABORTED and who)
        with state.transaction() as connection:
            connection.execute(put)
            if stopped:
                held = Held(rollout.model, rollout.digest, at_ns, said_by, rollout.why, evidence)
                state.held_from_now(connection, held)
            entry = state.append(connection, draft)
        state.write_head(entry)

    def look(self, rollout: str, at_ns: int, looks: Sequence[Looked], judged: bytes) -> None:
        """A look that said something new, and what the Judge has come to."""
        table, all_ = schema.looks, schema.rollouts
        with self._opened().transaction() as connection:
            last = connection.execute(select(func.max(table.c.number)).where(table.c.rollout == rollout)).scalar_one()
            number = (last or 0) + 1
            if number <= _LOOKS:
                text = msgspec.json.encode(looks).decode()
                connection.execute(table.insert().values(rollout=rollout, number=number, at_ns=at_ns, looks=text))
            connection.execute(all_.update().where(all_.c.id == rollout).values(judged=judged))

    def _opened(self) -> State:
        if self._state is None or not self._state.path.exists():
            self._state = State(self._path, self._heads, create=True)
        return self._state
