"""The controller: the admin API, and the one who publishes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from servery.host.clock import Clock, Dice
from servery.host.logs import start_logs
from servery.host.service import Services
from servery.host.settings import DataFolder
from servery.host.supervisor import NOW, Lifeline
from servery.terms.change import Candidate, Snapshot, Version
from servery.terms.manifest import Model
from servery.wiring.commands import ADMIN_WORD, FLEET_WORD, ControllerSettings, needed_replicas

if TYPE_CHECKING:
    from servery.control.alarms import Alarms
    from servery.control.experiments import Experiments
    from servery.control.loop import Again, Controller
    from servery.control.rollouts import Rollouts
    from servery.control.text_gates import TextGate
    from servery.targets.oip import OipTarget


def run_controller(settings: ControllerSettings, lifeline: Lifeline) -> None:
    """The controller: the admin API, and the one who publishes."""
    from servery.control.journal import Journal
    from servery.control.loop import Again, Controller
    from servery.control.published import read_snapshot, write_whole
    from servery.gateway.tallies import Tally
    from servery.host.channel import listen_at
    from servery.host.http import HttpServer
    from servery.host.tuning import open_many
    from servery.web.admin import AdminFace
    from servery.web.door import Door, Opening, opening_of
    from servery.web.gate import ByKey, by_socket
    from servery.web.operations import Acts

    start_logs("controller")
    open_many()
    folder = DataFolder(Path(settings.data))

    def fleet(snapshots: Sequence[Snapshot]) -> None:
        """Have the supervisor run what these need, and nothing else."""
        needed = {child: None for one in snapshots for child in needed_replicas(one, folder)}
        write_whole(folder.fleet, msgspec.json.encode(list(needed)))
        lifeline.say(FLEET_WORD)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # the supervisor says when: after the workers
            loop.add_signal_handler(number, lambda: None)
        loop.add_signal_handler(NOW, stop.set)
        lifeline.when_ended(stop.set)
        snapshot = read_snapshot(folder.snapshot)
        controller = Controller(folder, Path(settings.manifest), snapshot, fleet, Journal(folder, Clock()))
        rollouts, experiments = _rollouts(controller, folder), _experiments(controller, folder)
        acts = Acts(controller, rollouts, experiments, folder, Clock())
        admin = HttpServer(AdminFace(acts, by_socket, here=True), listen_at(folder.admin), 20.0, 1.0)
        strangers = Tally("strangers", "asked of the admin API and refused")
        by_key = ByKey(lambda: controller.snapshot.manifest.admin, Clock(), strangers)

        def declared() -> Opening | None:
            return opening_of(controller.settled.manifest.admin, controller.manifest.parent)

        door = Door(declared, AdminFace(acts, by_key, here=False), lambda url: lifeline.say(ADMIN_WORD + url))
        services = Services(
            [controller, rollouts, experiments, _alarms(controller, rollouts, folder), admin, strangers, door]
        )
        await _live(services, Again(controller), stop, lifeline)

    with asyncio.Runner() as runner:
        runner.run(serve())
        # Python would wait for the threads, and what one reads may never come. A change that is cut short is in the journal.
        sys.stderr.flush()
        os._exit(0)


async def _live(services: Services, again: Again, stop: asyncio.Event, lifeline: Lifeline) -> None:
    """Start, go on until `stop`, drain. A stop ends the start too."""
    loop = asyncio.get_running_loop()
    starting, stopping = loop.create_task(services.start()), loop.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # what has started drains
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    starting.result()
    loop.add_signal_handler(signal.SIGHUP, again.ask)
    lifeline.say("ready")
    await stopping
    await again.drain()
    await services.drain()


def _alarms(controller: Controller, rollouts: Rollouts, folder: DataFolder) -> Alarms:
    """What watches for drift."""
    from servery.control.alarms import Alarms
    from servery.store.state import State

    return Alarms(
        lambda: (controller.settled, controller.manifest),
        rollouts,
        (folder.ledger, folder.drift),
        lambda draft: State(folder.state, folder.heads, create=True).record(draft),
        Clock(),
    )


def _experiments(controller: Controller, folder: DataFolder) -> Experiments:
    """What runs on routes to learn something."""
    from servery.control.experiments import Experiments
    from servery.control.gathered import Gathered
    from servery.store.experiments import ExperimentBook

    book = ExperimentBook(folder.state, folder.heads)
    return Experiments(controller, book, Gathered(folder.ledger), Clock(), Dice())


def _rollouts(controller: Controller, folder: DataFolder) -> Rollouts:
    """What follows the rollouts that are under way."""
    from servery.control.gates import Gates
    from servery.control.observe import Watch
    from servery.control.rollouts import Rollouts
    from servery.fleet.processes import sockets
    from servery.store.rollouts import RolloutBook

    def copies(model: Model, version: Version) -> OipTarget:
        """How the Replicas of a candidate are reached."""
        from servery.targets.oip import OipTarget

        return OipTarget(model, version, sockets(folder.run, model, version, model.replicas or 1), Clock())

    book = RolloutBook(folder.state, folder.heads)
    gates = Gates(copies, lambda candidate: _text_gate(candidate, controller, folder), Clock())
    return Rollouts(controller, book, Watch(folder.ledger, Clock()), gates, Clock(), Dice())


def _text_gate(candidate: Candidate, controller: Controller, folder: DataFolder) -> TextGate:
    """What asks the checks of a language model. Each call leaves a Record, of the tenant `servery`."""
    from servery.control.text_gates import TextGate
    from servery.identity.keys import OWN_TENANT, seal
    from servery.store.booking import book
    from servery.terms.record import Attempt, Record, new_record_id
    from servery.wiring.speaking import secrets_of, text_target

    model, version, clock, dice = candidate.model, candidate.served.latest, Clock(), Dice()

    async def booked(attempt: Attempt, began_ns: int) -> None:
        manifest = controller.snapshot.manifest
        record = Record(
            new_record_id(seal(folder.seal(), OWN_TENANT), began_ns, dice.bits(16)), began_ns, OWN_TENANT, "", version.model,
            attempt.outcome, attempt.reason, 1, attempt.took_ns, attempt.pico_usd, (attempt,), region=manifest.region,
        )  # fmt: skip
        run = f"{began_ns // 1_000_000:013d}-checks-{dice.bits(4).hex()}"
        await asyncio.to_thread(book, folder.spool, run, [record], manifest.records, manifest.region)

    return TextGate(candidate, text_target(model, version, clock, dice), booked, secrets_of(model))
