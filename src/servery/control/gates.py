"""Gates: whether a candidate is ready for more than it has. All of its copies run, and its checks have passed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from servery.control.checks import Prepared, Unfit, fetched, prepared, problem
from servery.control.text_gates import TextGate
from servery.host.clock import Clock
from servery.terms.change import Candidate, Version
from servery.terms.manifest import Model
from servery.terms.placement import replicas_of, speaks
from servery.terms.rollouts import Check, Looked, Rollout, Verdict

if TYPE_CHECKING:
    from servery.terms.request import Call, Called

log = logging.getLogger("servery.controller")

_CALL_NS = 30 * 10**9
_LOOK_S = 0.1


class Job(Protocol):
    """A call under way."""

    @property
    def future(self) -> asyncio.Future[Called]: ...


class Copies(Protocol):
    """The Replicas of a Version, as far as gates need them. `ready` is how many of them are."""

    @property
    def ready(self) -> int: ...
    @property
    def unready(self) -> str: ...
    async def start(self) -> None: ...
    async def drain(self) -> None: ...
    def submit(self, call: Call) -> Any: ...
    def give_up(self, job: Any) -> Called: ...


class Gate:
    """One candidate's; `copies` is None where it runs elsewhere. It looks from its start until it is closed."""

    def __init__(self, candidate: Candidate, copies: Copies | None, clock: Clock) -> None:
        self._version = candidate.served.latest
        self._wanted = replicas_of(candidate.model, candidate.served, self._version.number)  # by now
        self._checks = candidate.model.rollout.checks
        self._copies = copies
        self._clock = clock
        self._found: dict[int, str] = {}  # by check: what is wrong with the answer
        self._task = None if copies is None else asyncio.get_running_loop().create_task(self._run(copies))

    def look(self, rollout: Rollout) -> tuple[Looked, ...]:
        """What is known now."""
        if self._copies is None:
            return ()
        self._wanted = rollout.running[1]
        ready, wanted = self._copies.ready, self._wanted
        said = f"{ready} of {wanted} copies are ready"
        if ready < wanted and self._copies.unready:
            said += f": {self._copies.unready}"
        verdict = Verdict.NO_DIFFERENCE if ready >= wanted else Verdict.NOT_YET
        capacity = Looked("capacity", verdict, ready, ready, wanted, 0, ready, said)
        return (capacity, *self._checked()) if rollout.gated else (capacity,)

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None and self._copies is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._copies.drain()

    def _checked(self) -> tuple[Looked, ...]:
        if not self._checks:
            return ()
        done, all_ = len(self._found), len(self._checks)
        wrong = [f"check {at}: {why}" for at, why in self._found.items() if why]
        if wrong:
            verdict, said = Verdict.WORSE, "; ".join(wrong[:3])
        elif done < all_:
            verdict, said = Verdict.NOT_YET, f"{done} of {all_} checks were answered"
        else:
            verdict, said = Verdict.NO_DIFFERENCE, f"all {all_} checks were answered as they say"
        return (Looked("checks", verdict, len(wrong), all_ - done + len(wrong), 0, 0, done, said),)

    async def _run(self, copies: Copies) -> None:
        try:
            await copies.start()
            while copies.ready < self._wanted:
                await asyncio.sleep(_LOOK_S)
            asked = {at: self._prepared(check) for at, check in enumerate(self._checks)}
            fit = {at: check for at, check in asked.items() if isinstance(check, Prepared)}
            fetch = fetched(fit) or tuple(spec.name for spec in self._outputs)
            for at, check in asked.items():
                self._found[at] = await self._ask(copies, check, fetch) if isinstance(check, Prepared) else check
        except Exception:
            log.exception("the checks of %s failed by an error of ours", self._version.model)

    @property
    def _outputs(self) -> tuple[Any, ...]:
        return self._version.signature.outputs if self._version.signature is not None else ()

    def _prepared(self, check: Check) -> Prepared | str:
        signature = self._version.signature
        if signature is None:
            return "what the version takes isn't known"
        try:
            return prepared(check, signature)
        except Unfit as unfit:
            return unfit.message

    async def _ask(self, copies: Copies, check: Prepared, fetch: tuple[str, ...]) -> str:
        job = copies.submit(check.call(fetch, self._clock.steady_ns() + _CALL_NS))
        if job is None:
            return "its queue is full"
        try:
            async with asyncio.timeout(_CALL_NS / 1e9):
                return problem(check, await job.future)
        except TimeoutError:
            copies.give_up(job)
            return f"no answer within {_CALL_NS / 1e9:g} s"


class Gates:
    """Makes them. `copies` calls the Replicas of a Version, `text` makes the gate of a language model."""

    def __init__(
        self, copies: Callable[[Model, Version], Copies], text: Callable[[Candidate], TextGate], clock: Clock
    ) -> None:
        self._copies = copies
        self._text = text
        self._clock = clock

    def of(self, candidate: Candidate) -> Gate | TextGate:
        """The Gate of a candidate."""
        model, served = candidate.model, candidate.served
        if speaks(model):
            return self._text(candidate)
        here = replicas_of(model, served, served.latest.number) > 0
        return Gate(candidate, self._copies(model, served.latest) if here else None, self._clock)
