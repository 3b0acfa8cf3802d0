"""One run of wrk, for gRPC of grpc_load.py, for streams of first_token.py, against one server, and what it saw."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import msgspec

from artifacts import KEY, Ask
from processes import Failed, Tree

SCRIPT = Path(__file__).with_name("post.lua")


class Run(msgspec.Struct, frozen=True):
    """What wrk saw, and the CPU seconds that the server's tree and wrk used meanwhile. Of streams the times are those until
    the first token.
    """

    requests: int
    seconds: float
    p50_us: int
    p99_us: int
    socket_errors: int
    bad_statuses: int
    timeouts: int
    wrong: int
    cpu_s: float
    wrk_cpu_s: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU microseconds of the server's tree per request."""
        return self.cpu_s * 1e6 / max(self.requests, 1)

    @property
    def fault(self) -> str:
        """Why the run doesn't count; "" when it does."""
        if not self.requests:
            return "no request was answered"
        if self.socket_errors or self.bad_statuses or self.timeouts or self.wrong:
            return (
                f"{self.bad_statuses} answers with a status of 400 or more, {self.wrong} wrong ones, "
                f"{self.socket_errors} socket errors, {self.timeouts} timeouts"
            )
        return ""


def run(tree: Tree, port: int, ask: Ask, in_flight: int, seconds: float) -> Run:
    """Keep `in_flight` requests going for `seconds`, from the core that the caller is on."""
    way = _grpc if ask.grpc else _first_token if ask.stream else _wrk
    command = way(port, ask, in_flight, seconds)
    before, wrk_before = tree.cpu_s(), _children_cpu_s()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cpu_s, wrk_cpu_s = tree.cpu_s() - before, _children_cpu_s() - wrk_before
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if done.returncode or line is None:
        raise Failed(f"{command[0]} against port {port}: {done.stderr or done.stdout}")
    requests, micros, p50, p99, sockets, statuses, timeouts, wrong = (int(number) for number in line.split()[1:9])
    return Run(requests, micros / 1e6, p50, p99, sockets, statuses, timeouts, wrong, cpu_s, wrk_cpu_s)


def _wrk(port: int, ask: Ask, in_flight: int, seconds: float) -> list[str]:
    url = f"http://127.0.0.1:{port}{ask.path or f'/v2/models/{ask.route}/infer'}"
    command = ["wrk", "-t1", f"-c{in_flight}", f"-d{max(1, round(seconds))}s", "-s", str(SCRIPT), url, "--"]
    return [*command, str(ask.body), KEY, str(ask.header_length), str(ask.answer or ""), *ask.headers]


def _grpc(port: int, ask: Ask, in_flight: int, seconds: float) -> list[str]:
    script = SCRIPT.with_name("grpc_load.py")
    return [sys.executable, str(script), str(port), str(ask.body), KEY, str(in_flight), str(seconds)]


def _first_token(port: int, ask: Ask, in_flight: int, seconds: float) -> list[str]:
    assert in_flight == 1, "first_token.py asks for one stream after the other"
    script = SCRIPT.with_name("first_token.py")
    return [sys.executable, str(script), str(port), ask.path, str(ask.body), KEY, str(seconds), *ask.headers]


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
