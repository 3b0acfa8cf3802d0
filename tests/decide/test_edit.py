"""Numbers in a manifest are changed where they stand, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.control.declare import declare
from servery.control.edit import CannotEdit, diff, replace_file, spelled, with_numbers

TEXT = """\
# Größe: 0.95 here is no threshold
servery: 1
models:
  "a": {runtime: onnx,   artifact: 'a.onnx', confidence: {output: p}}   # spaces   stay
  b:
      runtime: "onnx"
      artifact: b.onnx
routes:
  "r.1":
    tiers:
      - name: cheap   # 0.95
        model: a
        accept:
          confidence: 0.950   # the number
          range: [ 0.5,1 ]
      - {name: mid, model: a, accept: {range: [0.1, 0.9], confidence: .8}, share: [0.95, 0.95]}
      - {model: b, name: "premium"}
    policy: {kind: cascade}

# the end
"""
CHEAP, MID = 'routes["r.1"].tiers[0].accept.confidence', 'routes["r.1"].tiers[1].accept.confidence'


def edited(tmp_path: Path, text: str, numbers: dict[str, float]) -> str:
    path = tmp_path / "servery.yaml"
    path.write_bytes(text.encode())
    declared = declare(path)
    assert declared.problems == ()
    return with_numbers(path.read_bytes().decode(), declared.places, numbers)


def test_only_the_numbers_change(tmp_path: Path) -> None:
    after = edited(tmp_path, TEXT, {CHEAP: 0.8571, MID: 0.75})
    expected = TEXT.replace("0.950   #", "0.8571   #").replace("confidence: .8}", "confidence: 0.75}")
    assert after == expected
    assert diff(tmp_path / "servery.yaml", TEXT, after).count("\n-") == 2


def test_a_number_that_stays_keeps_its_spelling(tmp_path: Path) -> None:
    assert edited(tmp_path, TEXT, {CHEAP: 0.95, MID: 0.8}) == TEXT
    assert diff(tmp_path / "servery.yaml", TEXT, TEXT) == ""


@pytest.mark.parametrize("ends", ["\r\n", "\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_ends_of_lines_and_the_mark_at_the_beginning_stay(tmp_path: Path, ends: str, mark: str) -> None:
    text = mark + TEXT.replace("\n", ends)
    assert edited(tmp_path, text, {CHEAP: 0.5}) == text.replace("0.950   #", "0.5   #")


def test_json_on_one_line_with_a_mark(tmp_path: Path) -> None:
    text = '\ufeff{"servery": 1, "routes": {"r": {"tiers": [{"name": "t", "model": "m", "accept": {"confidence": 9e-1}}]}}}'
    found = edited(tmp_path, text, {"routes.r.tiers[0].accept.confidence": 0.25})
    assert found == text.replace("9e-1", "0.25")


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 1).map(lambda number: round(number, 4)), st.floats(0, 1).map(lambda number: round(number, 4)))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, cheap: float, mid: float) -> None:
    folder = tmp_path_factory.mktemp("edit")
    after = edited(folder, TEXT, {CHEAP: cheap, MID: mid})
    (folder / "servery.yaml").write_text(after)
    manifest = declare(folder / "servery.yaml").manifest
    assert manifest is not None
    assert [tier.accept.confidence for tier in manifest.routes["r.1"].tiers if tier.accept] == [cheap, mid]
    number = r"(?<=confidence: )[0-9.e-]+"
    assert re.sub(number, "", after) == re.sub(number, "", TEXT)


def test_numbers_that_aliases_repeat_are_not_touched(tmp_path: Path) -> None:
    shared = TEXT.replace("{range: [0.1, 0.9], confidence: .8}", "*a").replace("accept:\n", "accept: &a\n")
    with pytest.raises(CannotEdit, match="repeated by an alias"):
        edited(tmp_path, shared, {CHEAP: 0.5})
    with pytest.raises(CannotEdit, match="are one number"):
        edited(tmp_path, shared, {CHEAP: 0.5, MID: 0.5})
    anchored = TEXT.replace("confidence: 0.950", "confidence: &c 0.950")
    with pytest.raises(CannotEdit, match="not written as a plain number"):
        edited(tmp_path, anchored, {CHEAP: 0.5})
    with pytest.raises(CannotEdit, match="is not written there"):
        edited(tmp_path, TEXT, {'routes["r.1"].tiers[2].accept.confidence': 0.5})


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path, link = tmp_path / "servery.yaml", tmp_path / "link.yaml"
    good = "servery: 1\nrecords: {keep_days: 7}\n"
    path.write_text(good)
    path.chmod(0o640)
    link.symlink_to(path)
    with pytest.raises(CannotEdit, match=r"servery\.yaml:2:"):
        replace_file(link, good, good.replace("7", "x"))
    with pytest.raises(CannotEdit, match="changed by somebody else"):
        replace_file(link, good + "# more\n", good.replace("7", "8"))
    assert path.read_text() == good
    replace_file(link, good, good.replace("7", "8"))
    assert path.read_text() == good.replace("7", "8")
    assert path.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.yaml", "servery.yaml"]


@pytest.mark.parametrize(("number", "text"), [(0.1 + 0.2, "0.3"), (0.8571, "0.8571"), (0, "0"), (1.0, "1")])
def test_numbers_are_spelled_as_people_do(number: float, text: str) -> None:
    assert spelled(number) == text
