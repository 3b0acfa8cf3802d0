"""The pages that are written from the types are current, and what they show is true."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lines import attempt, feedback, record
from servery.control.declare import declare
from servery.control.validate import validate
from servery.store.ledger import Cursor, Ledger
from servery.store.schema import records as records_table
from servery.terms.reasons import Reason
from servery.terms.record import Attempt, Outcome, Record, Role
from servery.wire.status import HTTP_STATUS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md")), ROOT / "benchmarks" / "README.md")


def test_the_generated_pages_are_current() -> None:
    result = subprocess.run(
        [sys.executable, DOCS / "generate.py", "--check"], check=False, capture_output=True, text=True, timeout=30
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_example_on_the_manifest_page_is_a_good_manifest(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "manifest.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "servery.yaml").write_text(example)
    declared = declare(tmp_path / "servery.yaml")
    assert declared.problems == ()
    assert declared.manifest is not None
    assert validate(declared.manifest, {}, declared.places) == ()


def test_every_key_of_the_manifest_has_a_meaning() -> None:
    rows = re.findall(r"^\| `.*\|$", (DOCS / "manifest.md").read_text("utf-8"), re.MULTILINE)
    assert len(rows) > 40
    assert [row for row in rows if not row.split(" | ")[-1].strip("| ")] == []


def test_every_reason_has_a_status_and_a_meaning() -> None:
    assert set(HTTP_STATUS) == set(Reason)
    assert len({reason.word for reason in Reason}) == len(Reason)
    assert all(reason.meaning.endswith(".") for reason in Reason)
    assert all(400 <= status < 600 for status in HTTP_STATUS.values())


def test_the_language_page_explains_every_noun_that_the_types_use() -> None:
    page = (DOCS / "language.md").read_text("utf-8")
    nouns = set(re.findall(r"^\| \*\*(\w+)\*\*", page, re.MULTILINE))
    used = {"Manifest", "Model", "Version", "Route", "Tier", "Caller", "Request", "Row", "Attempt", "Outcome", "Record"}
    assert used | {"Feedback", "Snapshot", "Table", "Target", "Reason"} <= nouns


def anchors(page: Path) -> set[str]:
    """The anchors of a page's titles, as GitHub writes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()


def test_files_that_the_pages_name_exist() -> None:
    """`gateway/admit.py` in a page on the flows is a file of src/servery; so is `tests/…` of the project."""
    for page in (DOCS / "a-request.md", DOCS / "a-change.md", *(DOCS / "adr").glob("*.md"), ROOT / "README.md"):
        for name in re.findall(r"`([\w/]+\.py)`", page.read_text("utf-8")):
            assert (ROOT / name).exists() or (ROOT / "src" / "servery" / name).exists() or name == "send.py", name


def test_the_page_on_conformance_names_every_case_and_tests_that_exist() -> None:
    page = (DOCS / "conformance.md").read_text("utf-8")
    cases = {letter: [int(n) for n in re.findall(rf"^\| {letter}(\d+) ", page, re.MULTILINE)] for letter in "CEL"}
    assert cases == {"C": [*range(1, 23)], "E": [*range(1, 17)], "L": [*range(1, 11)]}
    for line in re.findall(r"^\| [CEL]\d+ .*$", page, re.MULTILINE):
        tests = re.findall(r"\[`(\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", line)
        assert tests, line
        for name, path in tests:
            assert f"def test_{name}(" in (ROOT / path).read_text("utf-8"), (name, path)


def test_the_page_on_complaints_names_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (DOCS / "complaints.md").read_text("utf-8"))
    assert len(named) >= 20
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text("utf-8"), (path, name)


def test_the_page_on_requests_explains_every_field_of_a_record() -> None:
    page = (DOCS / "a-request.md").read_text("utf-8").partition("## The Record")[2]
    words = set(re.findall(r"`(\w+)`", page))
    fields = set(Record.__struct_fields__) | set(Attempt.__struct_fields__) | set(records_table.columns.keys())
    assert fields - words == set()


def test_the_page_on_requests_gives_every_failure_its_status() -> None:
    table = (DOCS / "a-request.md").read_text("utf-8").partition("## When there is no answer")[2].partition("\n## ")[0]
    by_word = {reason.word: reason for reason in Reason}
    cells = [line.split("|")[2:4] for line in table.splitlines() if line.startswith("| ")]
    told = {word: sees for sees, recorded in cells for word in re.findall(r"`(\w+)`", recorded) if word in by_word}
    assert len(told) >= 12
    told.pop(Reason.DRAINING.word)  # also what a cut connection is recorded as, and that has no status
    assert {word: sees for word, sees in told.items() if str(HTTP_STATUS[by_word[word]]) not in sees} == {}


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger with two Requests: one that a second tier answered after the first failed, one of two rows."""
    path = tmp_path / ".servery" / "ledger.db"
    path.parent.mkdir()
    failed = Attempt(
        Role.SERVE, "cheap", "digits-cheap", "v1", 1, 0, 2_000_000, 300, Outcome.FAILED, Reason.MODEL_FAILED.word
    )
    alone = record(failed, attempt("mid", 1, 700), predictions=("3",))
    both = record(attempt("cheap", 2, 500, rows=2), rows=2, predictions=("4", "7"), tenant="trial")
    told = [
        feedback(alone, 8, at_ns=alone.at_ns + 1),
        feedback(alone, 3, at_ns=alone.at_ns + 2),
        feedback(both, "7", row=0, tenant="trial"),
        feedback(both, "7", row=1, tenant="trial"),
    ]
    store = Ledger(path, create=True)
    store.write([alone, both, *told], "run", Cursor(1), time.time_ns())
    store.close()
    return path


def test_the_queries_that_operators_are_told_give_what_is_said(ledger: Path) -> None:
    spent, predicted, failing = re.findall(
        r"^```sql\n(.*?)^```$", (DOCS / "operate.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    connection = sqlite3.connect(ledger)
    try:
        rows = connection.execute(spent).fetchall()
        assert {row[1:] for row in rows} == {
            ("acme", "digits-mid", 1, 700 / 1e12),
            ("acme", "digits-cheap", 0, 300 / 1e12),
            ("trial", "digits-cheap", 2, 500 / 1e12),
        }
        assert set(connection.execute(predicted)) == {
            ("digits", "3", 3, 1),
            ("digits", "4", "7", 1),
            ("digits", "7", "7", 1),
        }
        ((model, reason, attempts, busy_ms, last),) = connection.execute(failing).fetchall()
        assert (model, reason, attempts, busy_ms) == ("digits-cheap", "model_failed", 1, 2.0)
        assert re.fullmatch("[0-9a-f]{52}", last)
    finally:
        connection.close()


def shell_of_operate(which: int, folder: Path) -> None:
    """Run one of the shell blocks of operate.md in `folder`."""
    if shutil.which("sqlite3") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("sqlite3 is not installed")
        pytest.skip("sqlite3 is not installed")
    page = (DOCS / "operate.md").read_text("utf-8")
    salvage, backup = re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    command = (salvage, backup)[which]
    subprocess.run(["sh", "-c", command], cwd=folder, check=True, timeout=30, capture_output=True)


def test_what_can_be_read_of_a_damaged_ledger_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    store = Ledger(path, create=True)
    store.write([record(attempt()) for _ in range(200)], "run", Cursor(1), time.time_ns())
    store.close()
    page, last = 4096, path.stat().st_size - 4096
    content = bytearray(path.read_bytes())
    content[last:] = b"x" * page
    path.write_bytes(content)
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.DatabaseError):
        connection.execute("SELECT count(*), sum(length(attempts)) FROM records").fetchall()
    connection.close()
    shell_of_operate(0, tmp_path)
    saved = Ledger(tmp_path / "saved.db")
    try:
        found = sum(len(chunk.records) for chunk in saved.read(0, time.time_ns() + 10**9))
        assert 0 < found < 200
    finally:
        saved.close()


def test_the_backup_that_operators_are_told_is_whole(ledger: Path) -> None:
    folder = ledger.parents[1]
    shell_of_operate(1, folder)
    copy = Ledger(folder / "copy.db")
    try:
        found = [line for chunk in copy.read(0, time.time_ns() + 10**9) for line in chunk.records]
        assert len(found) == 2
    finally:
        copy.close()
