"""What the workers and the controller tell each other, as values."""

from __future__ import annotations

import msgspec

from servery.terms.bulletin import Bulletin, Sight
from servery.terms.statistics import VersionStatistics


class Message(msgspec.Struct, frozen=True, tag=True):
    """One message of the channel between a worker and the controller."""


class Hello(Message, frozen=True):
    """A worker's first word: who it is, and the epochs of its Table and of the Bulletin that it goes by."""

    worker: str
    epoch: int
    took_ns: dict[str, float] = {}  # a call of one row, of what it has loaded itself, by placement.timed
    bulletin: int = 0


class Published(Message, frozen=True):
    """The controller to all: there is a Snapshot of this epoch to be read."""

    epoch: int


class Alive(Message, frozen=True):
    """The controller to all, every few seconds while candidates are exposed: somebody still watches them."""

    epoch: int


class Acknowledged(Message, frozen=True):
    """A worker answers by this epoch now; with `problems` (by "model number") it doesn't, and keeps its old Table."""

    epoch: int
    problems: dict[str, str] = {}
    took_ns: dict[str, float] = {}


class Asked(Message, frozen=True):
    """A worker asks for something that only the controller may do. `verb` is load, unload, wake or, of no model, apply.

    `by` is who asked the worker, `why` the reason that they gave.
    """

    number: int
    verb: str
    model: str
    by: str
    why: str = ""


class Replied(Message, frozen=True):
    """What became of what a worker asked; `problem` says why nothing did ("" when it is in effect, since `epoch`)."""

    number: int
    problem: str = ""
    reason: str = ""  # a Reason's word, with a problem
    epoch: int = 0
    workers: int = 0


class Count(Message, frozen=True):
    """Asks for statistics: a worker for the machine's, the controller for the worker's own."""

    number: int


class Counted(Message, frozen=True):
    """The statistics that were asked for; number 0: without being asked, before a worker ends."""

    number: int
    statistics: tuple[VersionStatistics, ...]


class Posted(Message, frozen=True):
    """The controller to all: the live facts. Said again every few seconds, so that workers know that they are still so."""

    bulletin: Bulletin


class Seen(Message, frozen=True):
    """A worker tells what it saw of the Routes whose thresholds follow their traffic."""

    sights: tuple[Sight, ...]


class Withdraw(Message, frozen=True):
    """The controller to all: nobody is given the candidates of these Rollouts any more, whatever a Snapshot says; of all others they
    may be. A worker answers with Withdrew once it is so.
    """

    number: int
    rollouts: frozenset[str]


class Withdrew(Message, frozen=True):
    """A worker gives nobody what was withdrawn."""

    number: int


AnyMessage = (
    Hello | Published | Alive | Acknowledged | Asked | Replied | Count | Counted | Posted | Seen | Withdraw | Withdrew
)
