"""Whatever becomes of a Request in text, its objects go with it: none waits for the garbage collector, which comes rarely."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
from collections import Counter
from collections.abc import AsyncGenerator, Container, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fake_vendor import FakeVendor
from servery.control.apply import check
from servery.gateway.body import Inflow
from servery.gateway.holdings import Holdings
from servery.gateway.minutes import OwnMinutes
from servery.gateway.pipeline import Pipeline
from servery.gateway.table import Base, compile_table
from servery.gateway.text_face import TextFace
from servery.gateway.trained import Trained
from servery.gateway.trials import Lease
from servery.host.asgi import Headers, Response, Way
from servery.host.clock import Clock, Dice
from servery.host.http import HttpServer
from servery.host.supervisor import listen
from servery.store.inflight import InFlight
from servery.targets.endpoints import Endpoint
from servery.targets.language import LanguageTarget
from servery.terms.content import Kept
from servery.terms.manifest import Server
from servery.terms.record import AnyLine
from servery.terms.text import Form

PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}
APIS = {"openai": "chat/completions", "anthropic": "messages"}
ORDERS = {
    "well": "tokens=5",
    "slow": "tokens=50&gap_ms=5&latency_ms=30",
    "refused": "fault=429",
    "cut early": "fault=cut:30",
    "cut late": "tokens=30&fault=cut:1500",
    "bad": "tokens=30&fault=bad:5",
    "stalled": "tokens=30&fault=stall:5",
    "unfinished": "fault=unfinished",
    "hangup": "fault=hangup",
    "silent": "usage=none",
    "unsure": "tokens=5&sure=0.1",
}
POLICIES: dict[str, dict[str, Any]] = {
    "hedged": {"retries": 0, "hedge": {"after_ms": 5, "share": 1}},
    "retried": {"retries": 2},
}
LINES = b"host: x\r\ncontent-length: %d\r\n%b\r\n"


def declared(vendor: FakeVendor) -> dict[str, Any]:
    models = {
        f"{api} {name}": {"runtime": api, "endpoint": vendor.url, "serves": f"x?{order}", "price": PRICE}
        for api in APIS
        for name, order in ORDERS.items()
    }
    over = [{"name": name, "model": name} for name in ("openai cut early", "anthropic bad", "openai well")]
    unsure = {"name": "a", "model": "openai unsure", "accept": {"check": "logprob", "confidence": 0.5}}
    routes: dict[str, Any] = {
        "over": {"tiers": over},
        "cascade": {"policy": {"kind": "cascade"}, "tiers": [unsure, {"name": "b", "model": "anthropic well"}]},
    }
    for policy, order in ((policy, order) for policy in POLICIES for order in ("slow", "cut early", "hangup")):
        tiers = [{"name": "only", "model": f"openai {order}"}]
        routes[f"{policy} {order}"] = {"policy": POLICIES[policy], "tiers": tiers}
    return {"servery": 1, "models": models, "routes": routes}


class Face:
    """An App that has the text face alone; `quickly`, or over ASGI."""

    def __init__(self, text: TextFace, quickly: bool) -> None:
        self._text = text
        self._urls = {f"/v1/{form.value}".encode(): form for form in Form} if quickly else {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._text(scope, receive, send)

    def quick_urls(self) -> Container[bytes]:
        return self._urls

    async def quick(self, url: bytes, headers: Headers, body: bytes, way: Way) -> Response | None:
        return await self._text.quick(self._urls[url], dict(headers), body, way)

    def error(self, message: str) -> bytes:
        return message.encode()


class Lines:
    """Records that nobody keeps."""

    full = False
    room = True

    def __init__(self) -> None:
        self.slots = InFlight()
        self.count = 0

    def append(self, line: AnyLine, slot: int = 0) -> None:
        self.count += 1


class Contents:
    """As no tenant keeps any, it's never asked."""

    def keep(self, kept: Kept) -> None:
        raise AssertionError(kept)


@contextlib.asynccontextmanager
async def served(manifest: Path, quickly: bool) -> AsyncGenerator[int]:
    """The port of a text face of these models."""
    clock, dice = Clock(), Dice(os.urandom)
    snapshot = check(manifest).snapshot(1, 1)
    targets: dict[tuple[str, str], Any] = {}
    for name, model in snapshot.manifest.models.items():
        (version,) = snapshot.models[name].versions
        target = LanguageTarget(model, version, [Endpoint(model.endpoint, "")], clock, dice)
        await target.start()
        targets[name, "1"] = target
    holdings = Holdings(OwnMinutes().make, lambda holder, limits: None, lambda what: None)
    table = compile_table(snapshot, targets, {}, Base(b"secret", holdings, Lease(clock.steady_ns), Trained()))
    text = TextFace(Pipeline(table, Lines(), Contents(), clock, dice), Inflow(Server()), 0)
    listener = listen("127.0.0.1", 0)
    server = HttpServer(Face(text, quickly), listener, receive_limit_s=20, drain_limit_s=1)
    await server.start()
    try:
        yield listener.getsockname()[1]
    finally:
        await server.drain()
        for target in targets.values():
            await target.drain()


async def ask(port: int, path: str, body: bytes, leaves: bool) -> None:
    """One request on a connection of its own; who `leaves` does so after the first bytes, or a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = LINES % (len(body), b"" if leaves else b"connection: close\r\nservery-timeout-ms: 400\r\n")
    writer.write(b"POST /v1/%b HTTP/1.1\r\n%b%b" % (path.encode(), head, body))
    if leaves:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                await reader.read(1)
    else:
        assert (await reader.read()).startswith(b"HTTP/1.1 ")
    writer.close()


async def ask_everything(port: int, names: list[str]) -> None:
    for name in names:
        for path in APIS.values():
            said = [{"role": "user", "content": f"ask {name}"}]
            bodies = [{"model": name, "max_tokens": 99, "messages": said, "stream": stream} for stream in (False, True)]
            asked = [(json.dumps(body).encode(), leaves) for body in bodies for leaves in (False, True)]
            await asyncio.gather(*[ask(port, path, body, leaves) for body, leaves in asked])


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with FakeVendor(tmp_path_factory.mktemp("vendor")) as vendor:
        yield vendor


def left_behind() -> Counter[str]:
    """What the garbage collector finds, by kind."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    found = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
    gc.set_debug(0)
    gc.garbage.clear()
    gc.collect()
    return found


@pytest.mark.parametrize("quickly", [True, False])
def test_no_request_in_text_leaves_anything_to_the_garbage_collector(
    vendor: FakeVendor, tmp_path: Path, quickly: bool
) -> None:
    told = declared(vendor)
    manifest = tmp_path / "servery.yaml"
    manifest.write_text(json.dumps(told))

    async def scene() -> dict[str, Counter[str]]:
        found: dict[str, Counter[str]] = {}
        async with served(manifest, quickly) as port:
            names = [*told["models"], *told["routes"]]
            await ask_everything(port, names[:1])
            left_behind()
            gc.freeze()  # what is there for good needs no look at each name
            gc.disable()
            try:
                for name in names:
                    await ask_everything(port, [name])
                    await asyncio.sleep(0.05)  # calls that nobody waits for end
                    found[name] = Counter({kind: n for kind, n in left_behind().items() if "servery" in kind})
            finally:
                gc.enable()
                gc.unfreeze()
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(scene())
    assert {name: kinds for name, kinds in found.items() if kinds} == {}
