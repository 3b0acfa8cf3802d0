"""A gateway worker: its Table, its faces and how it calls Versions."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from servery.host.clock import Clock, Dice
from servery.host.logs import start_logs
from servery.host.settings import DataFolder
from servery.host.supervisor import Lifeline
from servery.host.tuning import tune_worker
from servery.terms.change import Standing, Version
from servery.terms.manifest import Model
from servery.terms.placement import Placement
from servery.terms.record import Uptime
from servery.terms.server import Server
from servery.wiring.commands import WorkerSettings
from servery.wiring.counting import counting
from servery.wiring.loading import loader
from servery.wiring.speaking import text_target

if TYPE_CHECKING:
    from servery.gateway.overheard import Contents
    from servery.gateway.pipeline import Pipeline
    from servery.gateway.repository import Repository
    from servery.gateway.serving import Owned, OwnedText
    from servery.gateway.sketches import Sketches
    from servery.gateway.table import Table
    from servery.gateway.trained import Reads
    from servery.gateway.worker import Face, Worker
    from servery.host.http import HttpServer
    from servery.host.rpc import GrpcServer
    from servery.store.spool import Spool
    from servery.targets.in_process import InProcess
    from servery.targets.oip import OipTarget


def run_worker(settings: WorkerSettings, lifeline: Lifeline) -> None:
    """A gateway worker: one event loop, one Table, one spool."""
    import uvloop

    from servery.control.published import read_snapshot
    from servery.gateway.holdings import Holdings
    from servery.gateway.link import Link
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
            return text_target(model, version, clock, dice)
        return _target(model, version, placement, folder, clock)

    def uptimes(now_ns: int) -> list[Uptime]:
        return [line for target in serving.targets for line in target.uptimes(run, now_ns)]

    def last_uptime(target: Owned | OwnedText) -> None:
        for line in target.uptimes(run, clock.wall_ns()):
            spool.append(line)

    spool = Spool(folder.spool, run, manifest.records, clock, uptimes, manifest.region)
    counted = counting(folder, snapshot, f"{run}-{dice.bits(4).hex()}", clock)
    tally = observed()
    holdings = Holdings(counted.minutes.make, counted.budgets.of, tally.count)
    serving = Serving(snapshot, folder.seal(), make, last_uptime, holdings, _reads(folder), Lease(clock.steady_ns))
    contents = spool_in(folder, run, manifest.records, clock, early=bool(serving.table.keepings))
    link = Link(folder, run, serving, lambda: asyncio.to_thread(read_snapshot, folder.snapshot), clock)

    async def serve() -> None:
        pipeline, sketches = _pipeline(serving.table, spool, contents, clock, dice)
        serving.when_swapped(pipeline.swap)
        repository = Repository(pipeline, link)
        services = [tally, contents, sketches, *counted.services, serving, link]
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


def _pipeline(table: Table, spool: Spool, contents: Contents, clock: Clock, dice: Dice) -> tuple[Pipeline, Sketches]:
    """The path of a request, and what counts for drift what passes."""
    from servery.gateway.pipeline import Pipeline
    from servery.gateway.sketches import Sketches

    sketches = Sketches(spool.append, clock, dice)
    return Pipeline(table, spool, contents, clock, dice, sketches), sketches


def _reads(folder: DataFolder) -> Reads:
    """How the trained files that were published are read."""
    from servery.gateway.trained import Reads
    from servery.routing.router_file import decode_router
    from servery.routing.verifier_file import decode_verifier

    return Reads(
        lambda digest: decode_router(folder.router(digest).read_bytes()),
        lambda digest: decode_verifier(folder.verifier(digest).read_bytes()).verifier,
    )


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
    return InProcess(model, version, loader(model, version), clock)
