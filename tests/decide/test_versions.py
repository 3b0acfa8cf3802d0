"""Which artifacts a Model has, by number, and which of them are served."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.control.versions import find, pick
from servery.terms.change import Served, Version
from servery.terms.manifest import Model, Numbered, Versions


@pytest.mark.parametrize(
    ("versions", "served"),
    [
        (Versions(), (10,)),
        (Versions(latest=2), (3, 10)),
        (Versions(latest=9), (1, 2, 3, 10)),
        (Versions(only=(2, 1)), (1, 2)),
        (Versions(only=(2, 7)), (2,)),
        (Versions(all=True), (1, 2, 3, 10)),
    ],
)
def test_the_policy_picks_numbers(versions: Versions, served: tuple[int, ...]) -> None:
    assert pick((3, 10, 1, 2), versions) == served


@given(st.sets(st.integers(1, 50)), st.integers(1, 9))
def test_the_latest_are_the_highest(numbers: set[int], latest: int) -> None:
    picked = pick(numbers, Versions(latest=latest))
    assert len(picked) == min(latest, len(numbers))
    assert list(picked) == sorted(picked)
    assert all(one > other for one in picked for other in numbers - set(picked))


def test_a_file_is_number_1(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    assert find(Model("onnx", "m.onnx"), tmp_path).artifacts == {1: tmp_path / "m.onnx"}
    assert find(Model("onnx", "none.onnx"), tmp_path).artifacts == {1: tmp_path / "none.onnx"}


def test_numbered_folders_are_versions(tmp_path: Path) -> None:
    for name in ("1/model.onnx", "1/labels.txt", "3/other.onnx", "20/a.bin", "20/b.bin", "003/x", "v4/x", "5.onnx"):
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).touch()
    (tmp_path / "m" / ("9" * 30)).mkdir()
    found = find(Model("onnx", "m"), tmp_path)
    inside = tmp_path / "m"
    assert found.artifacts == {1: inside / "1/model.onnx", 3: inside / "3/other.onnx", 20: inside / "20"}
    assert list(found.artifacts) == [1, 3, 20]


def test_a_list_gives_each_its_number(tmp_path: Path) -> None:
    model = Model("onnx", artifacts=(Numbered(7, "b.onnx"), Numbered(2, "a.onnx")))
    assert list(find(model, tmp_path).artifacts.items()) == [(2, tmp_path / "a.onnx"), (7, tmp_path / "b.onnx")]


def test_a_number_or_a_label_names_a_version() -> None:
    first, second = (Version("m", number, "d", "") for number in ("1", "2"))
    served = Served((first, second), {"stable": "1"})
    assert served.named(None) is served.latest is second
    assert served.named("stable") is served.named("1") is first
    assert served.named("candidate") is None
