"""From a file to the published Snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest

import artifacts
from servery.control.apply import Checked, check
from servery.control.published import SnapshotError, publish, read_snapshot
from servery.host.settings import DataFolder

MANIFEST = """\
servery: 1
models:
  one: {runtime: onnx, artifact: one.onnx}
  two: {runtime: onnx, artifact: two.onnx, region: local}
tenants:
  acme: {keys: [{id: k1, sha256: "%s"}]}
""" % ("a" * 64)


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    artifacts.classifier(tmp_path / "one.onnx")
    (tmp_path / "two.onnx").write_bytes(b"broken")
    (tmp_path / "servery.yaml").write_text(MANIFEST)
    return check(tmp_path / "servery.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    folder.create()
    return folder


def test_what_is_published_is_what_is_read(checked: Checked, folder: DataFolder) -> None:
    snapshot = publish(checked.snapshot(1, 1), folder)
    assert read_snapshot(folder.snapshot) == snapshot
    assert snapshot.manifest == checked.manifest
    assert snapshot.manifest_digest == checked.digest
    assert snapshot.models["one"].latest.signature is not None
    assert Path(snapshot.models["one"].latest.artifact).is_absolute()
    assert folder.snapshot.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in folder.path.iterdir()} == {"run", "snapshot.json", "spool"}


def test_a_broken_artifact_costs_its_own_model_only(checked: Checked) -> None:
    assert checked.servable
    assert [problem.where for problem in checked.problems] == ["models.two.artifact"]
    assert "not an ONNX model" in checked.models["two"].latest.problem
    assert checked.models["two"].latest.digest == ""
    assert checked.models["one"].latest.problem == ""


def test_a_manifest_with_an_error_is_not_servable(tmp_path: Path, checked: Checked) -> None:
    (tmp_path / "servery.yaml").write_text(MANIFEST + "region: 1\n")
    assert not check(tmp_path / "servery.yaml").servable
    assert not check(tmp_path / "none.yaml").servable


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b"[" * 100_000, b'{"epoch": "x"}'])
def test_a_snapshot_that_cannot_be_read_is_one_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "snapshot.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SnapshotError, match=r"snapshot\.json"):
        read_snapshot(path)


def test_a_new_file_that_was_left_behind_is_written_over_and_keeps_no_open_mode(
    checked: Checked, folder: DataFolder
) -> None:
    left = folder.path / "snapshot.new"
    left.write_text("x" * 100_000)
    left.chmod(0o644)
    snapshot = publish(checked.snapshot(1, 1), folder)
    assert read_snapshot(folder.snapshot) == snapshot
    assert folder.snapshot.stat().st_mode & 0o777 == 0o600


def test_a_snapshot_that_cannot_be_written_leaves_the_old_one(checked: Checked, folder: DataFolder) -> None:
    first = publish(checked.snapshot(1, 1), folder)
    (folder.path / "snapshot.new").mkdir()
    with pytest.raises(IsADirectoryError):
        publish(checked.snapshot(2, 1), folder)
    assert read_snapshot(folder.snapshot) == first


def test_the_version_changes_with_the_artifact_and_not_with_what_does_not_answer(
    tmp_path: Path, checked: Checked
) -> None:
    first = checked.models["one"].latest.digest
    (tmp_path / "servery.yaml").write_text(MANIFEST.replace("artifact: one.onnx", "artifact: one.onnx, threads: 2"))
    assert check(tmp_path / "servery.yaml").models["one"].latest.digest == first
    artifacts.classifier(tmp_path / "one.onnx", seed=9)
    assert check(tmp_path / "servery.yaml").models["one"].latest.digest != first
