"""What a newcomer types first: `servery init` and `servery demo`, as real processes with their real output."""

from __future__ import annotations

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
