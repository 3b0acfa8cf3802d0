"""What a newcomer types first: `servery init` and `servery demo`, as real processes with their real output."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from servery.cli.child import servery_command


def servery(*arguments: str | Path, timeout_s: float = 110) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*servery_command(), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={"PATH": str(Path(sys.executable).parent), "COLUMNS": "120", "LANG": "C.UTF-8"},
    )


def test_init_writes_the_example_once_and_says_what_to_type_next(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    first = servery("init", folder, "--no-train")
    assert first.returncode == 0, first.stderr
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(written) == {"servery.yaml", "train.py", "send.py", "README.md", ".gitignore"}
    assert f"servery up {folder / 'servery.yaml'}" in first.stdout
    assert f"python {folder / 'train.py'}" in first.stdout

    (folder / "train.py").unlink()
    second = servery("init", folder)
    assert second.returncode == 1
    assert "servery.yaml, send.py, README.md, .gitignore" in second.stderr
    assert not (folder / "train.py").exists()


def test_demo_refuses_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = servery("demo", tmp_path)
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.timeout(180)
def test_demo_trains_serves_and_reports_from_the_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    first = servery("demo", folder)
    assert first.returncode == 0, first.stdout + first.stderr
    check_report(first.stdout)
    assert "premium training" in first.stdout

    again = servery("demo", folder)
    assert again.returncode == 0, again.stdout + again.stderr
    check_report(again.stdout)  # the Records of the first run are not counted again
    assert "training" not in again.stdout

    check_interrupted(folder, tmp_path)


def test_init_writes_the_assistant_too(tmp_path: Path) -> None:
    done = servery("init", tmp_path / "mine", "--example", "assistant")
    assert done.returncode == 0, done.stderr
    assert "answers.csv: 360 questions" in done.stdout
    assert f"fake-vendor --port 9000 --answers {tmp_path / 'mine'}/answers.csv --answer small" in done.stdout


@pytest.mark.timeout(180)
def test_demo_of_language_models_compares_routes_and_books_by_the_records(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # whoever has it: it is taken
            taken.bind(("127.0.0.1", 9000))
            taken.listen()
        first = servery("demo", "--llm", folder)
    assert first.returncode == 0, first.stdout + first.stderr
    moved = re.search(r"Port 9000 is taken: the endpoint in \S+ is 127\.0\.0\.1:(\d+)", first.stdout)
    assert moved
    check_comparison(first.stdout)
    check_books(first.stdout)
    again = servery("demo", "--llm", folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Using what an earlier demo made" in again.stdout
    check_comparison(again.stdout)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the demo may still be closing
        taken.bind(("127.0.0.1", int(moved[1])))
        taken.listen()
        refused = servery("demo", "--llm", folder)
    assert refused.returncode == 1
    assert f"something listens on port {moved[1]} already" in refused.stderr


def check_comparison(text: str) -> None:
    """The route is nearly as right as the dear model and costs a part of it; the cheap one isn't."""
    lines = re.findall(
        r"^(assistant|always-premium|always-cheap) +360 +([\d,.]+) +[\d.]+ % +[\d.]+ +[\d.]+ +([\d.]+) % \(",
        text,
        re.MULTILINE,
    )
    found = {name: (float(usd.replace(",", "")), float(right)) for name, usd, right in lines}
    assert set(found) == {"assistant", "always-premium", "always-cheap"}, text
    route, premium, cheap = found["assistant"], found["always-premium"], found["always-cheap"]
    assert cheap[0] < route[0] < premium[0] / 3
    assert cheap[1] + 20 < route[1]
    assert premium[1] - 6 < route[1]
    assert re.search(r"mean \$ per million +≤ 500 +[\d.]+ +yes", text)


def check_books(text: str) -> None:
    """By the Records the same was bought as by the vendor's invoice, but for calls that were given up for a faster one."""
    lines = re.findall(
        r"^(small|medium|large) +([\d,]+) +([\d,]+) +([\d,]+) +([\d,]+) +([\d,]+) +([\d,]+)$", text, re.MULTILINE
    )
    assert len(lines) == 3, text
    for _, *cells in lines:
        _, read, written, estimated, billed_read, billed_written = (int(cell.replace(",", "")) for cell in cells)
        assert read == pytest.approx(billed_read, rel=0.02)
        assert written == pytest.approx(billed_written, rel=0.02)
        if not estimated:
            assert (read, written) == (billed_read, billed_written)


def check_interrupted(folder: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle: the server that the demo started is gone when the demo is."""
    with (tmp_path / "output").open("w+") as output:
        process = subprocess.Popen(
            [*servery_command(), "demo", folder], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 60
        while not (served := re.search(r"http://127\.0\.0\.1:(\d+)", (tmp_path / "output").read_text())):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(served[1])), timeout=5)
    assert "Traceback" not in (tmp_path / "output").read_text()


def check_report(text: str) -> None:
    rows = {match[1]: float(match[2]) for match in re.finditer(r"(cheap|mid|premium)\s+([\d.]+) %", text)}
    assert set(rows) == {"cheap", "mid", "premium"}
    assert sum(rows.values()) == pytest.approx(100, abs=0.2)
    assert 60 <= rows["cheap"] <= 80
    assert re.search(r"digits: 540 images in", text)
    assert re.search(r"always-premium .* 100.0 %", text)
    premium_by_cheap = re.search(r"busy for (\d+) × the time", text)
    assert premium_by_cheap
    assert int(premium_by_cheap[1]) >= 10
    assert re.search(r"mean \$ per million +≤ 0\.006", text)
    assert "servery up" in text
