"""The only file that knows the concrete classes: one function per kind of process.

`python -m servery.wiring KIND SETTINGS LIFELINE LIFE` is how the supervisor starts the others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from servery.fleet.processes import ReplicaSettings, children, read_settings
from servery.host.clock import Clock, Dice
from servery.host.logs import start_logs
from servery.host.ports import address_of
from servery.host.service import Service, Services
from servery.host.settings import DataFolder
from servery.host.supervisor import NOW, Child, Lifeline, Supervisor, python
from servery.host.tuning import SWITCH_S, tune_worker
from servery.terms.change import Snapshot, Standing, Version
from servery.terms.manifest import Model
from servery.terms.placement import Placement
from servery.terms.record import Uptime
from servery.terms.server import Server
from servery.terms.tensors import Signature

if TYPE_CHECKING:
    from servery.gateway.budgets import Budgets
    from servery.gateway.minutes import Minutes
    from servery.gateway.pipeline import Pipeline
    from servery.gateway.repository import Repository
    from servery.gateway.serving import Owned, OwnedText
    from servery.gateway.trained import Reads
    from servery.gateway.worker import Face, Worker
    from servery.host.http import HttpServer
    from servery.host.rpc import GrpcServer
    from servery.targets.in_process import InProcess, Runtime
    from servery.targets.oip import OipTarget

# What stops in which order: the highest first.
_SHIPPER, _REPLICAS, _WORKERS = range(3)
_SHIPPER_STOP_S = 30.0
_CONTROLLER_STOP_S = 10.0
_FLEET_WORD = "fleet"  # the controller says it once it has written which Replicas are to run
_FOREVER_S = 1e9  # the callers of a Replica are our own workers: they keep connections, and end them
# The shipper yields to the workers where both want the same core: Records can wait, callers can't.
_SHIPPER_NICE = 10
# Where cores are short the workers go first: they take little, and what they bring meanwhile makes larger batches.
_REPLICA_NICE = 5
# What a process allocates and hardly touches: stacks, and the pools of its libraries.
_RESERVED_MB = 256
# A worker tells a Redis so often that it is there, and hears which time it is and who else is.
_LOOK_S = 10.0


class WorkerSettings(msgspec.Struct, frozen=True):
    data: str
    listener: int  # descriptor
    number: int
    grpc: str = ""  # the address of the gRPC face; none: it is off


class ControllerSettings(msgspec.Struct, frozen=True):
    data: str
    manifest: str


class ShipperSettings(msgspec.Struct, frozen=True):
    data: str


class Listeners(msgspec.Struct, frozen=True):
    """The sockets that callers reach. The worker binds gRPC's port itself; ours only keeps it."""

    http: socket.socket
    grpc: socket.socket | None


def supervise(
    folder: DataFolder,
    lock: int,
    manifest: Path,
    snapshot: Snapshot,
    listeners: Listeners,
    said: Callable[[str, str], None],
) -> Supervisor:
    """The supervisor of the workers, the controller, the shipper and the Replicas; OSError. The shipper starts first and stops last.

    It shares the folder's `lock`: were the supervisor killed, there would be two shippers otherwise for a moment.
    """
    drain = snapshot.manifest.server.drain
    http, grpc = listeners.http, listeners.grpc
    data = str(folder.path)
    shipper = Child(
        "shipper", _command("shipper", ShipperSettings(data)), (lock,), _SHIPPER_STOP_S, _SHIPPER, finishes=True
    )
    controller = Child(
        "controller",
        _command("controller", ControllerSettings(data, str(manifest.absolute()))),
        (),
        _CONTROLLER_STOP_S,
        _SHIPPER,
    )
    workers = [
        Child(
            f"worker-{number}",
            _command("worker", WorkerSettings(data, http.fileno(), number, "" if grpc is None else address_of(grpc))),
            (http.fileno(),),
            drain.grace_s + drain.limit_s + 15.0,
            _WORKERS,
        )
        for number in range(snapshot.workers)
    ]

    def everything(replicas: Iterable[Child]) -> list[Child]:
        return [shipper, controller, *replicas, *workers]

    def hear(name: str, word: str) -> None:
        if name == "controller" and word == _FLEET_WORD:
            supervisor.want(everything(msgspec.json.decode(folder.fleet.read_bytes(), type=tuple[Child, ...])))
        said(name, word)

    first = everything(children(snapshot, folder.run, _replica, _REPLICAS))
    supervisor = Supervisor(first, [http] if grpc is None else [http, grpc], hear)
    return supervisor


def _replica(settings: Path) -> tuple[str, ...]:
    return python("-m", "servery.wiring", "replica", str(settings))


def _command(kind: str, settings: msgspec.Struct) -> tuple[str, ...]:
    return python("-m", "servery.wiring", kind, msgspec.json.encode(settings).decode())


def run_worker(settings: WorkerSettings, lifeline: Lifeline) -> None:
    """A gateway worker: one event loop, one Table, one spool."""
    import uvloop

    from servery.control.apply import read_snapshot
    from servery.gateway.holdings import Holdings
    from servery.gateway.link import Link
    from servery.gateway.pipeline import Pipeline
    from servery.gateway.repository import Repository
    from servery.gateway.serving import Serving
    from servery.gateway.tallies import observed
    from servery.gateway.trials import Lease
    from servery.gateway.worker import Worker
    from servery.store.content_spool import spool_in
    from servery.store.spool import Spool
    from servery.targets.absent import Absent

    start_logs(f"worker-{settings.number}")
    tune_worker()
    clock, dice, folder = Clock(), Dice(), DataFolder(Path(settings.data))
    snapshot = read_snapshot(folder.snapshot)
    manifest = snapshot.manifest
    run = f"{clock.wall_ns() // 1_000_000:013d}-w{settings.number}-{os.getpid()}"

    def make(model: Model, version: Version, standing: Standing, placement: Placement) -> Owned | OwnedText:
        if standing is not Standing.LOADED:
            return Absent(version, standing, lambda: link.tell("wake", version.model))
        if placement is Placement.ELSEWHERE:
            return _text_target(model, version, clock, dice)
        return _target(model, version, placement, folder, clock)

    def uptimes(now_ns: int) -> list[Uptime]:
        return [line for target in serving.targets for line in target.uptimes(run, now_ns)]

    def last_uptime(target: Owned | OwnedText) -> None:
        for line in target.uptimes(run, clock.wall_ns()):
            spool.append(line)

    spool = Spool(folder.spool, run, manifest.records, clock, uptimes, manifest.region)
    counting = _counting(folder, snapshot, f"{run}-{dice.bits(4).hex()}", clock)
    tally = observed()
    holdings = Holdings(counting.minutes.make, counting.budgets.of, tally.count)
    serving = Serving(snapshot, folder.seal(), make, last_uptime, holdings, _reads(folder), Lease(clock.steady_ns))
    contents = spool_in(folder, run, manifest.records, clock, early=bool(serving.table.keepings))
    link = Link(folder, run, serving, lambda: asyncio.to_thread(read_snapshot, folder.snapshot), clock)

    async def serve() -> None:
        pipeline = Pipeline(serving.table, spool, contents, clock, dice)
        serving.when_swapped(pipeline.swap)
        repository = Repository(pipeline, link)
        services = [tally, contents, *counting.services, serving, link]
        worker = Worker(pipeline, spool, services, manifest.server.drain, lifeline.say)
        listener = socket.socket(fileno=settings.listener)
        faces: list[Face] = [_http_server(listener, pipeline, repository, worker, manifest.server)]
        if settings.grpc:
            faces.append(_grpc_server(settings.grpc, pipeline, repository, worker, manifest.server))
        lifeline.when_ended(worker.stop)
        # Where others serve meanwhile, callers are theirs until this one is ready too.
        await worker.run(faces, early=lifeline.life == 0 or snapshot.workers == 1)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
        # All is written. Python would wait for the threads, and a call whose caller is gone can't be interrupted.
        sys.stderr.flush()
        os._exit(0)


def _reads(folder: DataFolder) -> Reads:
    """How the trained files that were published are read."""
    from servery.gateway.trained import Reads
    from servery.routing.router_file import decode_router
    from servery.routing.verifier_file import decode_verifier

    return Reads(
        lambda digest: decode_router(folder.router(digest).read_bytes()),
        lambda digest: decode_verifier(folder.verifier(digest).read_bytes()).verifier,
    )


class _Counting(NamedTuple):
    """How a worker counts requests and money, and the Services that this takes, in their order."""

    minutes: Minutes
    budgets: Budgets
    services: list[Service]


def _counting(folder: DataFolder, snapshot: Snapshot, worker: str, clock: Clock) -> _Counting:
    """In files that the workers of this machine share, or in a Redis. `worker` is what nobody else is called."""
    from servery.gateway.budgets import Budgets
    from servery.gateway.minutes import OwnMinutes, SharedMinutes
    from servery.gateway.reach import Reach
    from servery.quota.accounts import SqliteAccounts
    from servery.quota.counters import SqliteCounter

    counters, workers = snapshot.manifest.counters, snapshot.workers
    refuses, secret = counters.on_unavailable == "refuse", counters.credentials
    if counters.redis:
        from servery.quota.redis_counters import RedisAccounts, RedisCounter  # 7 MB
        from servery.quota.redis_server import RedisServer

        server = RedisServer(counters, os.environ.get(secret.env, "") if secret else "", worker, clock.steady_ns)
        reach = Reach(server, workers, refuses, clock, every_s=_LOOK_S)
        minutes = SharedMinutes(RedisCounter(server), reach, clock)
        budgets = Budgets(RedisAccounts(server), worker, reach, clock)
        return _Counting(minutes, budgets, [reach, minutes, budgets])
    accounts, counter = SqliteAccounts(folder.budgets), SqliteCounter(folder.limits)
    reach, reach_counter = (Reach(store, workers, refuses, clock) for store in (accounts, counter))
    minutes = OwnMinutes() if workers == 1 else SharedMinutes(counter, reach_counter, clock)
    budgets = Budgets(accounts, worker, reach, clock)
    return _Counting(minutes, budgets, [reach, reach_counter, minutes, budgets])


def _http_server(
    listener: socket.socket, pipeline: Pipeline, repository: Repository, worker: Worker, server: Server
) -> HttpServer:
    """The HTTP face, for tensors and for text."""
    from servery.gateway.body import Inflow
    from servery.gateway.http import HttpFace
    from servery.gateway.text_face import TextFace
    from servery.host.http import HttpServer

    inflow = Inflow(server)
    text = TextFace(pipeline, inflow, pipeline.clock.wall_ns() // 10**9)
    face = HttpFace(pipeline, repository, inflow, worker.unready, text)
    return HttpServer(face, listener, server.receive_limit_s, server.drain.limit_s)


def _grpc_server(
    address: str, pipeline: Pipeline, repository: Repository, worker: Worker, server: Server
) -> GrpcServer:
    """The gRPC face, which takes 11 MB: imported where it is wanted."""
    from servery.gateway.grpc import GrpcFace
    from servery.host.rpc import GrpcServer

    face = GrpcFace(pipeline, repository, worker.unready)
    return GrpcServer(face, address, min(server.max_body_mb << 20, 2**31 - 1), server.drain.limit_s)


def _target(
    model: Model, version: Version, placement: Placement, folder: DataFolder, clock: Clock
) -> InProcess | OipTarget:
    """How a worker calls a Version."""
    from servery.fleet.processes import sockets
    from servery.targets.in_process import InProcess
    from servery.targets.oip import OipTarget

    if placement is Placement.REPLICAS:
        return OipTarget(model, version, sockets(folder.run, model, version, model.replicas or 1), clock)
    return InProcess(model, version, _loader(model, version), clock)


def _text_target(model: Model, version: Version, clock: Clock, dice: Dice) -> OwnedText:
    """How a worker asks a language model."""
    from servery.targets.endpoints import Endpoint
    from servery.targets.heuristic import HeuristicTarget
    from servery.targets.language import LanguageTarget
    from servery.terms.placement import asked_at

    if model.runtime == "heuristic":
        return HeuristicTarget(model, version, clock, dice)
    endpoints = [Endpoint(url, os.environ.get(name, "") if name else "") for url, name in asked_at(model)]
    return LanguageTarget(model, version, endpoints, clock, dice)


def runtime_of(model: Model, version: Version) -> Runtime:
    """The runtime of a Version, loaded in this process: for a command that serves nobody. CannotRun."""
    return _loader(model, version)()


def _loader(model: Model, version: Version) -> Callable[[], Runtime]:
    """What makes the runtime of a Version, off the event loop. What it loads is what was published, or nothing."""
    from servery.control.resolve import digest_now
    from servery.runtimes.running import CannotRun

    made: dict[str, Callable[[Model, Version, Signature], Runtime]] = {
        "onnx": _onnx,
        "python": _python,
        "sklearn": _sklearn,
    }

    def load() -> Runtime:
        if version.signature is None:
            raise CannotRun(version.problem)
        if digest_now(model, version) != version.digest:
            raise CannotRun(f"{version.artifact} is not what was published; start again to publish what it is now")
        runtime = made[model.runtime](model, version, version.signature)
        if model.runtime == "python" and digest_now(model, version) != version.digest:
            raise CannotRun(f"{version.artifact} changed while it was loaded")
        return runtime

    return load


def _onnx(model: Model, version: Version, signature: Signature) -> Runtime:
    from servery.runtimes.onnx import OnnxSession

    return OnnxSession(Path(version.artifact), signature, model.threads, model.device)


def _python(model: Model, version: Version, signature: Signature) -> Runtime:
    from servery.runtimes.python import PythonModel

    return PythonModel(Path(version.artifact), model.entry, signature)


def _sklearn(model: Model, version: Version, signature: Signature) -> Runtime:
    from servery.runtimes.sklearn import SklearnModel

    return SklearnModel(Path(version.artifact), model.trusted, signature, model.threads)


def run_controller(settings: ControllerSettings, lifeline: Lifeline) -> None:
    """The controller: the admin API, and the one who publishes."""
    from servery.control.apply import read_snapshot, write_whole
    from servery.control.journal import Journal
    from servery.control.loop import Again, Controller
    from servery.control.observe import Watch
    from servery.control.rollouts import Rollouts
    from servery.host.channel import listen_at
    from servery.host.http import HttpServer
    from servery.store.rollouts import RolloutBook
    from servery.web.admin import AdminFace, by_socket
    from servery.web.operations import operations

    start_logs("controller")
    folder = DataFolder(Path(settings.data))

    def fleet(snapshots: Sequence[Snapshot]) -> None:
        """Have the supervisor run what these need, and nothing else."""
        needed = {child: None for one in snapshots for child in children(one, folder.run, _replica, _REPLICAS)}
        write_whole(folder.fleet, msgspec.json.encode(list(needed)))
        lifeline.say(_FLEET_WORD)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # the supervisor says when: after the workers
            loop.add_signal_handler(number, lambda: None)
        loop.add_signal_handler(NOW, stop.set)
        lifeline.when_ended(stop.set)
        snapshot = read_snapshot(folder.snapshot)
        controller = Controller(folder, Path(settings.manifest), snapshot, fleet, Journal(folder, Clock()))
        rollouts = Rollouts(controller, RolloutBook(folder.state, folder.heads), Watch(folder.ledger), Clock(), Dice())
        face = AdminFace(operations(controller, rollouts), by_socket, here=True)
        admin = HttpServer(face, listen_at(folder.admin), 20.0, 1.0)
        services = Services([controller, rollouts, admin])
        await services.start()
        again = Again(controller)
        loop.add_signal_handler(signal.SIGHUP, again.ask)
        lifeline.say("ready")
        await stop.wait()
        await again.drain()
        await services.drain()

    asyncio.run(serve())


def run_replica(settings: ReplicaSettings, lifeline: Lifeline) -> None:
    """A Replica: one Version on a socket of its own, for all workers of this machine."""
    import uvloop

    from servery.host.channel import listen_at
    from servery.host.http import HttpServer
    from servery.host.memory import limit_data, resident_bytes
    from servery.replica.app import ReplicaApp
    from servery.replica.life import Life
    from servery.replica.memory import Bound
    from servery.replica.running import Running
    from servery.targets.in_process import InProcess

    os.nice(_REPLICA_NICE)
    start_logs(settings.name)
    sys.setswitchinterval(SWITCH_S)
    # A service manager may send these to every process. The supervisor says when: after the workers' last call.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    for name in settings.secrets:  # before a line of the user's runs
        os.environ.pop(name, None)
    clock, version = Clock(), settings.version
    run = f"{clock.wall_ns() // 1_000_000:013d}-r{os.getpid()}"
    loaded = InProcess(settings.model, version, _loader(settings.model, version), clock)

    async def serve() -> None:
        life = Life(loaded, settings.drain_limit_s, lifeline.say)
        running = Running(loaded, run, settings.model.call_limit_s, life, clock)
        if (most_mb := settings.model.memory_mb) is not None:
            if settings.model.device == "cpu":  # CUDA reserves far more than it takes
                limit_data((2 * most_mb + _RESERVED_MB) << 20)
            await Bound(most_mb, resident_bytes, running.retire).start()
        app = ReplicaApp(running, version.signature or Signature((), ()))
        server = HttpServer(app, listen_at(Path(settings.socket)), _FOREVER_S, settings.drain_limit_s, _FOREVER_S)
        lifeline.when_ended(life.stop)
        await life.run(server, running)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
        sys.stderr.flush()
        os._exit(0)


def run_shipper(settings: ShipperSettings, lifeline: Lifeline) -> None:
    """The shipper of this machine: from all spools to the ledger, and to the database of Content."""
    from servery.control.apply import read_snapshot
    from servery.store.carrier import Carrier
    from servery.store.shipper import Shipper

    start_logs("shipper")
    os.nice(_SHIPPER_NICE)
    folder = DataFolder(Path(settings.data))
    stop = threading.Event()
    # A service manager may send these to every process. The supervisor says when: after the worker's last Record.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        lifeline.wait_ended()
        stop.set()

    threading.Thread(target=watch, daemon=True, name="lifeline").start()
    records = read_snapshot(folder.snapshot).manifest.records
    carrier = Carrier(folder.content_spool, folder.contents, Clock())
    shipper = Shipper(folder.spool, folder.ledger, records, Clock(), carrier.turn)
    lifeline.say("ready")
    shipper.run(stop)
    carrier.close()


def main() -> None:
    """Run one process: KIND SETTINGS LIFELINE LIFE."""
    from servery.control.apply import SnapshotError

    kind, settings, descriptor, life = sys.argv[1:5]
    lifeline = Lifeline(int(descriptor), int(life))
    try:
        if kind == "worker":
            run_worker(msgspec.json.decode(settings, type=WorkerSettings), lifeline)
        elif kind == "controller":
            run_controller(msgspec.json.decode(settings, type=ControllerSettings), lifeline)
        elif kind == "replica":
            run_replica(read_settings(Path(settings)), lifeline)
        else:
            run_shipper(msgspec.json.decode(settings, type=ShipperSettings), lifeline)
    except SnapshotError as error:
        logging.getLogger("servery").error("there is nothing to work by: %s; start again to publish it", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
