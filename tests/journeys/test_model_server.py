"""A real server of language models behind a route: Transformers' own, with a Llama whose weights are random.

What differs from a vendor that was written for tests: tokens come as they are made, streams end without `[DONE]`, and the
usage comes unasked, in the last chunk that says something.
"""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import openai
import psutil
import pytest

from living import until
from server import Server
from servery.cli.child import free_port

pytestmark = [pytest.mark.proof, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv" / "model-server" / "bin"
TEXT = "ba di basu govo"  # four tokens
LONG = 8_000  # tokens, which take it about 20 s


class ModelServer(msgspec.Struct, frozen=True):
    url: str
    model: str
    process: psutil.Process

    @property
    def callers(self) -> int:
        """The connections that are open to it."""
        connections = self.process.net_connections("tcp")
        return sum(one.status == psutil.CONN_ESTABLISHED for one in connections)

    def is_idle(self) -> bool:
        """Whether it computed for less than a tenth of half a second."""
        before, began = sum(self.process.cpu_times()[:2]), time.monotonic()
        until(lambda: time.monotonic() > began + 0.5)
        return sum(self.process.cpu_times()[:2]) - before < 0.05


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    if not (ENVIRONMENT / "transformers").exists():
        pytest.skip("a model server is missing: `make model-server` installs one (1.2 GB)")
    folder, port = tmp_path_factory.mktemp("llama"), free_port()
    quiet = {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    given: Any = {"stdin": subprocess.DEVNULL, "env": os.environ | quiet | {"OMP_NUM_THREADS": "1"}}
    script = ROOT / "tests" / "model_server" / "tiny_llama.py"
    subprocess.run([ENVIRONMENT / "python", script, folder / "model"], check=True, timeout=120, **given)
    command = [ENVIRONMENT / "transformers", "serve", folder / "model", "--port", str(port), "--device", "cpu"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=log, stderr=log, **given)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (folder / "log.txt").read_text()
        try:
            return urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
        except OSError:
            return False

    try:
        until(answers, 120, (folder / "log.txt").read_text)
        yield ModelServer(f"{url}/v1", str(folder / "model"), psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def server(upstream: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    price = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}
    model = {"runtime": "openai", "endpoint": upstream.url, "serves": upstream.model, "price": price}
    tiers = [{"name": "own", "model": "llama"}]
    routes = {"chat": {"tiers": tiers}, "hurried": {"tiers": tiers, "deadline_ms": 1_500}}
    with Server(tmp_path_factory.mktemp("servery"), {"models": {"llama": model}, "routes": routes}) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)


def attempt(server: Server, record_id: str) -> tuple[str, int, dict[str, Any]]:
    """Outcome, pico-dollars and the only Attempt of a Record."""
    query = f"select outcome, pico_usd, attempts from records where id = x'{record_id}'"
    ((outcome, pico, attempts),) = server.await_records(query, 1)
    (only,) = msgspec.json.decode(attempts)
    return outcome, pico, only


def booked(server: Server, record_id: str, output: int) -> dict[str, Any]:
    outcome, pico, only = attempt(server, record_id)
    assert (outcome, only["outcome"], only.get("estimated", False)) == ("served", "served", False)
    assert (only["tokens"]["input"], only["tokens"]["output"]) == (4, output)
    assert pico == only["pico_usd"] == (4 * 1 + output * 2) * 10**6
    return only


def said() -> list[Any]:
    return [{"role": "user", "content": TEXT}]


def test_a_whole_answer_is_billed_as_the_server_counts(
    server: Server, client: openai.OpenAI, upstream: ModelServer
) -> None:
    reply = client.chat.completions.with_raw_response.create(model="chat", messages=said(), max_tokens=40)
    answer = reply.parse()
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 40)
    assert booked(server, reply.headers["servery-record-id"], 40)["answered_as"] == upstream.model


@pytest.mark.parametrize("wanted", [True, False])
def test_a_stream_comes_as_it_is_made_and_is_billed_the_same(
    server: Server, client: openai.OpenAI, wanted: bool
) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if wanted else {}
    began = time.monotonic()
    told: list[float] = []
    usage: list[int] = []
    with client.chat.completions.with_streaming_response.create(
        model="chat", messages=said(), max_tokens=1_000, stream=True, **options
    ) as reply:
        record_id = reply.headers["servery-record-id"]
        for chunk in reply.parse():
            told += [time.monotonic() - began] if chunk.choices and chunk.choices[0].delta.content else []
            usage += [chunk.usage.completion_tokens] if chunk.usage else []
    assert len(told) > 900
    assert told[0] < told[-1] / 4
    assert usage == ([1_000] if wanted else [])
    only = booked(server, record_id, 1_000)
    assert only["first_ns"] < only["busy_ns"] / 4


def test_a_caller_who_leaves_ends_the_work(server: Server, client: openai.OpenAI, upstream: ModelServer) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="chat", messages=said(), max_tokens=LONG, stream=True
    ) as reply:
        record_id = reply.headers["servery-record-id"]
        heard = iter(reply.parse())
        for _ in range(50):
            next(heard)
        assert not upstream.is_idle()
    left = time.monotonic()
    until(upstream.is_idle, 10)
    assert time.monotonic() - left < 5
    until(lambda: upstream.callers == 0, 10)
    outcome, pico, only = attempt(server, record_id)
    assert (outcome, only["outcome"], only["estimated"]) == ("abandoned", "abandoned", True)
    assert 0 < only["tokens"]["output"] < LONG / 2
    assert pico > 0


def test_the_deadline_ends_the_work(server: Server, client: openai.OpenAI, upstream: ModelServer) -> None:
    with pytest.raises(openai.APIError, match="1500 ms"):
        for _ in client.chat.completions.create(model="hurried", messages=said(), max_tokens=LONG, stream=True):
            pass
    until(upstream.is_idle, 5)
