"""The Experiments that run: each is started by hand, observed and compared again and again, and concluded once it is decided.

What an Experiment has come to is written down before what is served follows, so that a controller that starts again goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from servery.control.compare import Split, arrived_of, by_segment, compare, conclusion, flaws
from servery.control.frozen import models_of
from servery.host.clock import Clock, Dice
from servery.stats.asymptotic import UnitSums
from servery.stats.windows import Bounds
from servery.terms.change import Change, Snapshot
from servery.terms.experiments import Conclusion, Design, Experiment, Look, Looked, Metric, Stage, experiment_id
from servery.terms.history import Intent
from servery.terms.reasons import Reason, Refusal
from servery.terms.rollouts import Verdict

log = logging.getLogger("servery.controller")

_LOOK_S = 1.0
_LOOKS = 300  # one that has run for long is looked at so often in the time that it has run
_COSTS = 10  # times what a look took: so long is waited for the next one
NS = 10**9
VERBS = ("start", "stop")
replace = msgspec.structs.replace


class Serves(Protocol):
    """The controller, as far as Experiments need it."""

    @property
    def settled(self) -> Snapshot: ...
    async def amend(self, amended: Callable[[Snapshot], Snapshot], intent: Callable[[], Intent]) -> Change: ...


class Book(Protocol):
    """Where Experiments are remembered. It is used off the event loop, by one thread at a time. What the state raises."""

    def running(self) -> list[Experiment]: ...
    def concluded(self, most: int) -> list[Experiment]: ...
    def keep(self, experiment: Experiment, at_ns: int, looks: Sequence[Looked]) -> None: ...
    def judged(self, experiment: str) -> bytes | None: ...
    def look(self, experiment: str, look: Look, judged: bytes) -> None: ...
    def looks(self, experiment: str) -> list[Look]: ...


class Evidence(msgspec.Struct, frozen=True):
    """What an Experiment has brought so far: units and requests by arm, and for each metric the unit sums by arm; of all, and of
    each Segment.
    """

    counts: Mapping[str, tuple[int, int]]
    sums: Sequence[Mapping[str, UnitSums]]
    segments: Mapping[str, Sequence[Mapping[str, UnitSums]]] = {}


Observe = Callable[[Experiment, int], Evidence | None]  # at a wall time (ns); None: it can't be read now


class Kept(msgspec.Struct, frozen=True):
    """What is kept between looks. `exact`: where each request is a unit, sequences that need no limit, as `control.exact` has them."""

    split: Split = Split()
    exact: bytes = b""


class Followed(msgspec.Struct):
    """An Experiment that runs. `took_ns`: what the last look took."""

    experiment: Experiment
    kept: Kept = Kept()
    look: Look = Look(0, ())
    looked_ns: int = 0
    took_ns: int = 0

    def pause_ns(self, now_ns: int) -> int:
        """Until the next look: one that has run for long can wait, and looks are to cost little."""
        return max((now_ns - self.experiment.began_ns) // _LOOKS, _COSTS * self.took_ns)


class Experiments:
    """A Service."""

    name = "experiments"
    unready = ""

    def __init__(self, serves: Serves, book: Book, observe: Observe, clock: Clock, dice: Dice) -> None:
        self._serves = serves
        self._book = book
        self._observe = observe
        self._clock = clock
        self._dice = dice
        self._followed: dict[str, Followed] = {}  # by name
        self._over: set[str] = set()  # ids, until what is served says so too
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        for experiment in await asyncio.to_thread(self._book.running):
            await self._follow(experiment)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="experiments")

    async def drain(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def all(self, most: int) -> list[tuple[Experiment, Look]]:
        """Drafts, those that run, and the last that were concluded; each with its last look."""
        drafts = [
            (Experiment("", name, design, 0, Stage.DRAFT), Look(0, ()))
            for name, design in self._serves.settled.manifest.experiments.items()
            if name not in self._followed
        ]
        running = [(one.experiment, one.look) for one in self._followed.values()]
        over = [(one, Look(0, ())) for one in await asyncio.to_thread(self._book.concluded, most)]
        return [*running, *drafts, *over]

    async def report(self, name: str) -> tuple[Experiment, list[Look]]:
        """The one of this name that runs, or was concluded last, with all looks at it. Refusal."""
        followed = self._followed.get(name)
        found = followed.experiment if followed is not None else None
        if found is None:
            past = await asyncio.to_thread(self._book.concluded, 500)
            found = next((one for one in past if one.name == name), None)
        if found is None:
            drafted = name in self._serves.settled.manifest.experiments
            said = f"'{name[:128]}' is a draft: start it with `servery experiment start {name[:128]}`"
            raise Refusal(Reason.NOT_FOUND, said if drafted else _unknown(name, self._serves.settled))
        return found, await asyncio.to_thread(self._book.looks, found.id)

    async def act(self, name: str, verb: str, who: str, why: str) -> Experiment:
        """Start or stop one by hand. Refusal."""
        async with self._turn:
            if verb == "start":
                return await self._begin(name, who, why)
            followed = self._followed.get(name)
            if followed is None:
                raise Refusal(
                    Reason.NOT_FOUND, f"no experiment '{name[:128]}' runs: `servery experiment list` shows all"
                )
            await self._look(followed, self._clock.wall_ns())
            if followed.experiment.stage is not Stage.CONCLUDED:  # that look may have ended it
                said = f"stopped by {who}: {why}" if why else f"stopped by {who}"
                await self._keep(followed, self._ended(followed, who, said))
            await self._serve(who)
            return followed.experiment

    async def turn(self) -> None:
        """One look at everything, and what follows from it."""
        async with self._turn:
            now_ns = self._clock.wall_ns()
            for experiment in self._serves.settled.experiments.values():
                if experiment.name not in self._followed and experiment.id not in self._over:
                    await asyncio.to_thread(self._book.keep, experiment, now_ns, ())
                    await self._follow(experiment)
            for followed in list(self._followed.values()):
                served = self._serves.settled.experiments.get(followed.experiment.name)
                if served is None or served.id != followed.experiment.id:
                    why = "Servery was started with something else than what it compares"
                    await self._keep(
                        followed, _over(followed.experiment, Conclusion.INVALID, "", "servery", why, now_ns)
                    )
                elif _is_over(followed.experiment, now_ns):
                    begins = replace(
                        followed.experiment, stage=Stage.RUNNING, since_ns=now_ns, who="servery", why="it compares now"
                    )
                    await asyncio.to_thread(self._book.keep, begins, now_ns, ())
                    followed.experiment = begins
                elif now_ns >= followed.looked_ns + followed.pause_ns(now_ns):
                    await self._look(followed, now_ns)
            await self._serve("servery")

    async def _run(self) -> None:
        while True:
            try:
                await self.turn()
            except Exception:
                log.exception("the experiments could not be looked after; they are tried again")
            await asyncio.sleep(_LOOK_S)

    async def _follow(self, experiment: Experiment) -> None:
        judged = await asyncio.to_thread(self._book.judged, experiment.id)
        kept = msgspec.msgpack.decode(judged, type=Kept) if judged else Kept()
        self._followed[experiment.name] = Followed(experiment, kept)

    async def _begin(self, name: str, who: str, why: str) -> Experiment:
        serving = self._serves.settled
        refuse_start(name, serving)
        now_ns = self._clock.wall_ns()
        design = serving.manifest.experiments[name]
        stage = Stage.BEFORE if design.before_s else Stage.RUNNING
        begun = Experiment(
            experiment_id(self._dice.bits(6).hex()), name, design, now_ns, stage, now_ns, who=who, why=why
        )
        intent = Intent(self._dice.bits(16).hex(), "experiment", who, why or "it starts", name)
        change = await self._serves.amend(lambda now: _with(now, begun), lambda: intent)
        if change.message:
            raise Refusal(Reason.CHANGE_REFUSED, f"'{name}' can't be served: {change.message}")
        await asyncio.to_thread(self._book.keep, begun, now_ns, ())
        await self._follow(begun)
        log.info("the experiment %s (%s) runs on %s", name, begun.id, design.route)
        return begun

    async def _look(self, followed: Followed, now_ns: int) -> None:
        experiment = followed.experiment
        design = experiment.design
        until_ns, began_ns = now_ns - round(design.age_s * NS), self._clock.steady_ns()
        evidence = await asyncio.to_thread(self._observe, experiment, until_ns)
        if evidence is None:
            return
        kept, looks, flaw = await asyncio.to_thread(compared, design, evidence, followed.kept)
        followed.kept, followed.looked_ns = kept, now_ns
        followed.took_ns = self._clock.steady_ns() - began_ns
        if flaw:
            looks = tuple(replace(one, verdict=Verdict.INVALID, said=flaw) for one in looks)
        if looks != followed.look.looks:
            judged = msgspec.msgpack.encode(kept)
            followed.look = Look(now_ns, looks)
            await asyncio.to_thread(self._book.look, experiment.id, followed.look, judged)
        if experiment.stage is Stage.RUNNING and now_ns - experiment.since_ns > design.max_duration_s * NS:
            await self._keep(followed, self._ended(followed, "servery", "its time is over"))
            return
        found, arm, said = conclusion(design, looks, flaw)
        if found is Conclusion.KEEP:  # whatever harms is not shown to anybody any longer
            await self._keep(followed, _over(experiment, found, arm, "servery", said, now_ns))

    def _ended(self, followed: Followed, who: str, why: str) -> Experiment:
        """Over now, with what the last look says."""
        experiment, looks = followed.experiment, followed.look.looks
        flaw = next((one.said for one in looks if one.verdict is Verdict.INVALID), "")
        found, arm, said = conclusion(experiment.design, looks, flaw)
        told = said or "nothing was decided"
        return _over(experiment, found or Conclusion.KEEP, arm, who, f"{why}; {told}", self._clock.wall_ns())

    async def _keep(self, followed: Followed, changed: Experiment) -> None:
        await asyncio.to_thread(self._book.keep, changed, self._clock.wall_ns(), followed.look.looks)
        assert changed.conclusion is not None
        log.info("the experiment %s is concluded: %s; %s", changed.name, changed.conclusion.value, changed.why)
        followed.experiment = changed
        self._over.add(changed.id)
        del self._followed[changed.name]

    async def _serve(self, who: str) -> None:
        """Have served what the Experiments have come to: everybody gets the control again where one is over."""
        if self._agreeing(self._serves.settled) == self._serves.settled:
            self._over.clear()
            return
        told = "; ".join(f"{one.experiment.name} {one.experiment.stage.value}" for one in self._followed.values())
        intent = Intent(self._dice.bits(16).hex(), "experiment", who, told or "it is concluded")
        change = await self._serves.amend(self._agreeing, lambda: intent)
        if change.message:
            log.error("what experiments have come to can't be served: %s", change.message)
        else:
            self._over &= {one.id for one in self._serves.settled.experiments.values()}

    def _agreeing(self, now: Snapshot) -> Snapshot:
        known = {one.experiment.id: one.experiment for one in self._followed.values()}
        left = {name: known.get(one.id, one) for name, one in now.experiments.items() if one.id not in self._over}
        return now if left == now.experiments else replace(now, experiments=left)


def compared(design: Design, evidence: Evidence, kept: Kept) -> tuple[Kept, tuple[Looked, ...], str]:
    """One look: what is kept of it, what it says of each metric and arm, and why that doesn't hold ("": it does)."""
    arrived = arrived_of(design, evidence.counts)
    split = kept.split.after(design, arrived.units)
    flaw = flaws(design, arrived, split)
    apart = by_segment(design, evidence.segments)
    if design.unit is not None:
        return replace(kept, split=split), (*compare(design, evidence.sums), *apart), flaw
    from servery.control.exact import Exact, bounds_of, followed  # noqa: PLC0415 numpy, where it is needed

    exact = msgspec.msgpack.decode(kept.exact, type=Exact) if kept.exact else Exact()
    exact = followed(design, exact, evidence.sums)

    def exactly(metric: Metric, arm: str, risks: tuple[float, float]) -> Bounds | None:
        return bounds_of(exact, metric, arm, risks)

    looks = compare(design, evidence.sums, exactly)
    return Kept(split, msgspec.msgpack.encode(exact)), (*looks, *apart), flaw


def _is_over(experiment: Experiment, now_ns: int) -> bool:
    """Whether the time before the comparison is."""
    return experiment.stage is Stage.BEFORE and now_ns - experiment.began_ns >= experiment.design.before_s * NS


def refuse_start(name: str, serving: Snapshot) -> None:
    """Refusal of what can't be started as things are."""
    manifest = serving.manifest
    if name not in manifest.experiments:
        raise Refusal(Reason.NOT_FOUND, _unknown(name, serving))
    route = manifest.experiments[name].route
    for other in serving.experiments.values():
        if other.name == name:
            raise Refusal(Reason.CONFLICT, f"the experiment '{name}' runs already")
        if other.design.route == route:
            raise Refusal(Reason.CONFLICT, f"'{other.name}' runs on '{route}' already: stop it first, or wait for it")
    rolled_out = [model for model in models_of(manifest.experiments[name], manifest) if model in serving.candidates]
    if rolled_out:
        said = f"the model '{rolled_out[0]}' is being rolled out, and arms must stay what they are"
        raise Refusal(Reason.CONFLICT, f"{said}: promote or abort that first")


def _unknown(name: str, serving: Snapshot) -> str:
    known = ", ".join(f"'{one}'" for one in serving.manifest.experiments) or "none"
    return f"no experiment is called '{name[:128]}'; the manifest that is served declares {known}"


def _with(now: Snapshot, begun: Experiment) -> Snapshot:
    return replace(now, experiments={**now.experiments, begun.name: begun})


def _over(experiment: Experiment, found: Conclusion, arm: str, who: str, why: str, now_ns: int) -> Experiment:
    return replace(experiment, stage=Stage.CONCLUDED, since_ns=now_ns, conclusion=found, arm=arm, who=who, why=why)
