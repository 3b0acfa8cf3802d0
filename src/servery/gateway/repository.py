"""What callers may see and change of the models themselves: the index, load and unload, the statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from servery.batching.queue import limits_of
from servery.gateway.pipeline import Pipeline, find_entry
from servery.gateway.table import Target
from servery.gateway.texts import TextTarget
from servery.terms.messages import Replied
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Caller
from servery.terms.statistics import State, VersionStatistics
from servery.wire.config import Config
from servery.wire.repository import decode_change, decode_index, encode_index


class Controls(Protocol):
    """The worker's line to the controller. Both raise a Refusal when there is none now."""

    async def ask(self, verb: str, model: str, by: str, why: str = "") -> Replied: ...
    async def statistics(self) -> tuple[VersionStatistics, ...]: ...


class Repository:
    """Triton's repository and statistics extensions; a face only translates."""

    def __init__(self, pipeline: Pipeline, controls: Controls) -> None:
        self._pipeline = pipeline
        self._controls = controls

    def index(self, caller: Caller, ready: bool) -> list[State]:
        """Every Version that the caller may know of; only those that answer with `ready`."""
        states = [_state_of(target) for target in self._known(caller)]
        return [state for state in states if state.state == "READY" or not ready]

    def config(self, called: str, version: str) -> Config:
        """How a Route, or a Version of a Model, is called. Refusal."""
        table = self._pipeline.table
        entry = find_entry(table, called, version)
        if entry.unready and not entry.signature.inputs:
            raise Refusal(entry.refusal, f"'{called}' can't answer: {entry.unready}")
        signature, versions = entry.signature, (entry.version,) if version else entry.versions
        if not entry.versions:
            return Config(called, signature.platform, "", (), 0, 0, signature.inputs, signature.outputs, 1, "cpu")
        model = table.manifest.models[called]
        limits = limits_of(model, signature)
        return Config(
            called,
            signature.platform,
            model.runtime,
            versions,
            limits.max_rows if limits.max_rows > 1 else 0,
            limits.max_wait_ns // 1000,
            signature.inputs,
            signature.outputs,
            model.replicas or 1,
            model.device,
        )

    async def load(self, caller: Caller, model: str, parameters: Collection[str]) -> None:
        """Have the model's artifacts read again, and served once all workers have them. Refusal."""
        self._check(caller, model, "load")
        if given := [name for name in parameters if name == "config" or name.startswith("file:")]:
            raise Refusal(
                Reason.INVALID_REQUEST,
                f"'{given[0][:64]}' is not taken over the API: put the artifact where the manifest says, then load it",
            )
        await self._controls.ask("load", model, _who(caller))

    async def unload(self, caller: Caller, model: str) -> None:
        """Have the model answer no more until it is loaded again. Refusal."""
        self._check(caller, model, "unload")
        await self._controls.ask("unload", model, _who(caller))

    async def apply(self, caller: Caller, why: str) -> Replied:
        """Have the manifest that is served read again, and put into effect. Refusal."""
        self._check_role(caller, "apply the manifest")
        if caller.key and not why:
            raise Refusal(Reason.INVALID_REQUEST, 'say why, for instance {"reason": "the model of May"}')
        return await self._controls.ask("apply", "", _who(caller), why)

    async def statistics(self, caller: Caller, called: str, version: str) -> list[VersionStatistics]:
        """Of what is called, of all that the caller may know where that is "". A Route's are its models'. Refusal."""
        if called:
            entry = find_entry(self._pipeline.table, called, version)
            several = () if version else entry.by_version.values()
            targets = [tier.target for one in (entry, *several) for tier in one.tiers]
        else:
            targets = self._known(caller)
        keys = {(target.version.model, target.version.number) for target in targets}
        found = {(one.model, one.number): one for one in await self._controls.statistics()}
        return [found.get(key) or VersionStatistics(*key) for key in sorted(keys)]

    def _known(self, caller: Caller) -> Iterable[Target | TextTarget]:
        table = self._pipeline.table
        return [
            target
            for target in table.targets
            if caller.operator or target.version.model in table.entries or target.version.model in table.texts
        ]

    def _check(self, caller: Caller, model: str, verb: str) -> None:
        self._check_role(caller, f"{verb} models")
        if model not in self._pipeline.table.manifest.models:
            raise Refusal(Reason.NOT_FOUND, f"no model is called '{model[:128]}'")

    @staticmethod
    def _check_role(caller: Caller, what: str) -> None:
        if not caller.operator:
            raise Refusal(Reason.NOT_PERMITTED, f"this key may not {what}; that takes a key with `role: operator`")


async def over_http(repository: Repository, caller: Caller, rest: list[str], body: bytes) -> bytes:
    """The reply's body to a POST of /v2/repository/…. Refusal."""
    match rest:
        case ["index"]:
            return encode_index(repository.index(caller, decode_index(body).ready))
        case ["models", *name, "load"] if name:
            await repository.load(caller, "/".join(name), decode_change(body).parameters)
        case ["models", *name, "unload"] if name:
            decode_change(body)
            await repository.unload(caller, "/".join(name))
        case _:
            raise Refusal(
                Reason.NOT_FOUND,
                "a repository has /v2/repository/index, and /v2/repository/models/NAME/load and /unload",
            )
    return b"{}"


def _state_of(target: Target | TextTarget) -> State:
    version, refusal = target.version, target.refusal
    state = "READY" if refusal is None else "LOADING" if refusal is Reason.WARMING else "UNAVAILABLE"
    return State(version.model, version.number, state, target.unready)


def _who(caller: Caller) -> str:
    return f"{caller.tenant}/{caller.key}" if caller.key else caller.tenant
