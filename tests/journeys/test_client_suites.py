"""The vendors' own test suites of their Python clients, from their source distributions, against a Servery that asks the fake vendor."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fake_vendor import FakeVendor
from server import Server

ROOT = Path(__file__).parents[2]
PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}


class Suite(msgspec.Struct, frozen=True):
    """A client's tests. `key` is what they present, `names` the models that they call, and what `more_names` finds in the client's
    resources; `offers` says which one of them takes what only passes through, of which some prompts name no model; `stateful` matches the tests of what is answered by 501.
    """

    client: str
    path: str
    key: str
    names: tuple[str, ...]
    more_names: str
    files: tuple[str, ...]
    stateful: str
    offers: dict[str, str] = {}


SUITES = (
    Suite(
        "openai",
        "/v1",
        "My API Key",
        ("gpt-6-astra", "omni-moderation-2024-09-26", "gpt-3.5-turbo-instruct", "text-embedding-3-small"),
        r"(?!)",
        (
            "test_models",
            "chat/test_completions",
            "test_completions",
            "test_embeddings",
            "test_responses",
            "test_moderations",
        ),
        r"test_models\.\w+\.test_\w+_delete\[|"
        r"chat\.test_completions\.\w+\.test_\w+_(retrieve|update|list\w*|delete)\[|"
        r"test_responses\.\w+\.test_\w+_(retrieve_overload_\d|retrieve_with_all_params_overload_\d|delete|cancel|compact\w*)\[",
        {"gpt-6-astra": "responses", "omni-moderation-2024-09-26": "moderations"},
    ),
    Suite(
        "anthropic",
        "",
        "my-anthropic-api-key",
        ("claude-opus-5-5", "model", "model_id"),
        r'^    "(claude-[\w.-]+)": ".* \d{4}",$',  # those that it warns of
        ("test_messages", "test_models"),
        r"(?!)",
    ),
)


def pinned(name: str) -> str:
    """What constraints.txt says of a package."""
    found = re.search(rf"^{name}==\S+", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[0]


def unpacked(folder: Path, client: str) -> Path:
    """The source distribution of the client that the other tests use."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", "download"]
    subprocess.run([*pip, "--no-deps", "--no-binary", ":all:", "-d", folder, pinned(client)], check=True, timeout=300)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder)
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def environment(folder: Path, source: Path, client: str) -> Path:
    """The Python of a new environment with what the client's tests need."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    needed = re.findall(r'^\s+"((?:(?:pytest|pytest-\w+|respx|inline-snapshot|http-snapshot|httpx2|dirty-equals|time-machine|rich)(?=[ >=\[,"]))[^"]*)"',
                        (source / "pyproject.toml").read_text(), re.MULTILINE)  # fmt: skip
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "-qq", "install"]
    subprocess.run([*pip, f"{source}[aiohttp]", *needed], check=True, timeout=600)
    return python


def manifest(vendor: FakeVendor, suite: Suite, source: Path) -> dict[str, Any]:
    """Each name that the suite calls."""
    resources = "".join(file.read_text() for file in (source / "src" / suite.client / "resources").rglob("messages.py"))
    names = dict.fromkeys((*suite.names, *re.findall(suite.more_names, resources, re.MULTILINE)))
    told = {"runtime": suite.client, "endpoint": vendor.url, "price": PRICE}
    models: dict[str, Any] = {f"of {name}": told | {"serves": name} for name in names}
    for name, form in suite.offers.items():
        models[f"of {name}"]["offers"] = [form]
    routes = {name: {"tiers": [{"name": "only", "model": f"of {name}"}]} for name in names}
    key = {"id": "suite", "sha256": hashlib.sha256(suite.key.encode()).hexdigest()}
    return {"models": models, "routes": routes, "tenants": {"suite": {"keys": [key]}}}


@pytest.mark.proof
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.client)
def test_a_vendors_own_client_suite_passes(tmp_path: Path, suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    source = unpacked(tmp_path, suite.client)
    python = environment(tmp_path / "env", source, suite.client)
    report = tmp_path / "report.xml"
    files = [f"tests/api_resources/{file}.py" for file in suite.files]
    with FakeVendor(tmp_path) as vendor, Server(tmp_path / "servery", manifest(vendor, suite, source)) as server:
        url = f"http://127.0.0.1:{server.port}{suite.path}"
        subprocess.run(
            [
                python,
                "-m",
                "pytest",
                "-q",
                "-o",
                "log_level=WARNING",
                "-p",
                "no:cacheprovider",
                f"--junitxml={report}",
                *files,
            ],
            cwd=source,
            env=os.environ | {"TEST_API_BASE_URL": url},
            timeout=1500,
            check=False,
            capture_output=True,
        )
    cases = {f"{case.get('classname')}.{case.get('name')}".removeprefix("tests.api_resources."): case
             for case in ET.parse(report).getroot().iter("testcase")}  # fmt: skip
    failed = {name: text for name, case in cases.items() if (text := _failure(case))}
    skipped = {name for name, case in cases.items() if case.find("skipped") is not None}
    stateful = {name for name in cases if re.search(suite.stateful, name)} - skipped
    passed = cases.keys() - failed.keys() - skipped
    with capsys.disabled():
        print(
            f"\n{pinned(suite.client)}: {len(passed)} passed, {len(skipped)} skipped by the suite itself, {len(stateful & failed.keys())} answered by 501"
        )
        print("\n".join(f"  501: {name}" for name in sorted(stateful & failed.keys())))
    assert {name: text[:2_000] for name, text in failed.items() if name not in stateful} == {}
    assert {name: text[:2_000] for name, text in failed.items() if "501" not in text} == {}
    assert passed


def _failure(case: ET.Element) -> str:
    found = case.find("failure") if case.find("failure") is not None else case.find("error")
    return "" if found is None else f"{found.get('message')}\n{found.text}"
