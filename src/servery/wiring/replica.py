"""A Replica: one Version on a socket of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from servery.fleet.processes import ReplicaSettings
from servery.host.clock import Clock
from servery.host.logs import start_logs
from servery.host.supervisor import Lifeline
from servery.host.tuning import SWITCH_S
from servery.terms.tensors import Signature
from servery.wiring.loading import loader

_FOREVER_S = 1e9  # the callers of a Replica are our own workers: they keep connections, and end them
# Where cores are short the workers go first: they take little, and what they bring meanwhile makes larger batches.
_REPLICA_NICE = 5
# What a process allocates and hardly touches: stacks, and the pools of its libraries.
_RESERVED_MB = 256


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
    loaded = InProcess(settings.model, version, loader(settings.model, version), clock)

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
