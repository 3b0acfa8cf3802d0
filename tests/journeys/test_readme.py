"""The README's commands, run in its order in a new folder; what it shows is what they print.

Only the port differs, so that the test disturbs nobody. `make` targets are left to `.ci/run`, which is held to that.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from servery.cli.child import free_port
from servery.control.declare import declare
from servery.control.validate import validate

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PORT = "8123"  # what the README writes
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
_MARK = "@@@ the next block"


def commands() -> list[str]:
    """The shell blocks, without `make`."""
    return [text for kind, text in BLOCKS if kind == "sh" and not text.startswith("make ")]


def need(there: bool, what: str) -> None:
    """Skip by name where something is missing; on a build machine that is a failure."""
    if not there and os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing")
    if not there:
        pytest.skip(f"{what} is missing")


def run(folder: Path, port: int) -> list[str]:
    """What each shell block prints, all run by one shell in `folder`."""
    script = f"\nprintf '\\n{_MARK}\\n'\n".join(commands()).replace(PORT, str(port))
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "COLUMNS": "120"}
    with (folder / "printed.txt").open("w+") as printed:
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = shell.wait(150)
        finally:
            with contextlib.suppress(ProcessLookupError):  # whatever happened, the server that it started ends
                os.killpg(shell.pid, signal.SIGTERM)
        text = (folder / "printed.txt").read_text("utf-8")
        assert code == 0, text
        return text.split(_MARK)


def shape(documented: str) -> re.Pattern[str]:
    """A pattern for what the README shows: digits, digests and dates may differ, and `…` stands for anything."""
    pattern = re.escape(documented.strip())
    pattern = re.sub(r"[0-9a-f]{12,}", "[0-9a-f]+", pattern)
    pattern = re.sub(r"\w{3},\\ \d\d\\ \w{3}\\ \d{4}\\ [\d:]+\\ GMT", r".{29}", pattern)
    pattern = re.sub(r"(cheap|mid|premium)", "(?:cheap|mid|premium)", pattern)
    pattern = re.sub(r"(?<![\w\\.{])\d+(?![\w}])", r"\\d+", pattern)
    pattern = pattern.replace("\\\n", "\n").replace("…", "(?s:.*?)")
    return re.compile(re.sub(r"\n+", r"\\s+", pattern))


@pytest.mark.timeout(180)
def test_the_commands_run_and_print_what_the_readme_shows(tmp_path: Path) -> None:
    for program in ("bash", "curl"):
        need(shutil.which(program) is not None, program)
    need((Path(sys.prefix) / "bin" / "activate").exists(), "a virtual environment around these tests")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    printed = run(tmp_path, free_port())
    assert len(printed) == 4

    started, asked, reported, keyed = printed
    assert "my-models/servery.yaml: good" in started
    assert re.search(r"serving on http://127\.0\.0\.1:\d+: ready", started)
    assert '{"ready":true}' in started
    shown = next(text for kind, text in BLOCKS if kind == "text" and "HTTP/1.1 200" in text)
    assert shape(shown).search(asked.replace("\r", "")), asked
    assert re.search(r"digits: 540 images in", reported)
    assert "stopped" in reported
    assert re.search(r"total +100\.0 % +541 ", reported)
    assert re.search(r"digits +mean \$ per million +≤ 0\.006 +[\d.]+ +(yes|NO)", reported)
    assert re.search(r"^ +sv_[\w-]{43}$", keyed, re.MULTILINE)
    assert re.search(r'sha256: "[0-9a-f]{64}"', keyed)


def test_the_build_machine_runs_the_make_targets_that_the_readme_tells_to_type() -> None:
    typed = [line.split("#")[0].strip() for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
    targets = [line for line in typed if line.startswith("make ")]
    assert targets == ["make demo", "make demo-llm", "make test"]
    assert set(targets) <= set((ROOT / ".ci" / "run").read_text("utf-8").splitlines())
    told = set(re.findall(r"`make ([\w-]+)`", README))
    assert told <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def test_the_table_of_the_demo_has_the_form_of_the_real_one() -> None:
    """Its titles are those that the code prints; the figures are of one run."""
    source = "".join(
        (ROOT / "src/servery/cli" / name).read_text("utf-8") for name in ("demonstration.py", "digits.py", "tables.py")
    )
    shown = next(text for kind, text in BLOCKS if kind == "text" and "by tier" in text)
    assert "The same images, through one model only and through all three" in shown
    for title in ("share", "rows", "p50 ms", "p95 ms", "p99 ms", "$/million", "accuracy (95 %)"):
        assert title in shown, title
    for title in ("by tier (dollars by the tier that spent them", "The same images, through one model only"):
        assert title in shown
        assert title in source


def test_the_manifest_that_it_shows_is_good(tmp_path: Path) -> None:
    (example,) = [text for kind, text in BLOCKS if kind == "yaml"]
    (tmp_path / "servery.yaml").write_text(example)
    declared = declare(tmp_path / "servery.yaml")
    assert declared.problems == ()
    assert declared.manifest is not None
    assert validate(declared.manifest, {}, declared.places) == ()


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 140
