"""What is read from an artifact without running it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import artifacts
from servery.runtimes.artifact import ArtifactError, read_artifact
from servery.terms.tensors import Signature, TensorSpec


def test_a_signature_has_the_artifacts_names_types_and_free_dimensions(tmp_path: Path) -> None:
    assert read_artifact(artifacts.classifier(tmp_path / "m.onnx", features=30, classes=3)).signature == Signature(
        inputs=(TensorSpec("x", "FP32", (-1, 30)),),
        outputs=(TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 3))),
        platform="onnxruntime_onnx",
    )


@pytest.mark.parametrize(
    ("datatype", "name"),
    [
        (TensorProto.STRING, "BYTES"),
        (TensorProto.BOOL, "BOOL"),
        (TensorProto.FLOAT16, "FP16"),
        (TensorProto.BFLOAT16, "BF16"),
        (TensorProto.DOUBLE, "FP64"),
        (TensorProto.UINT64, "UINT64"),
        (TensorProto.INT8, "INT8"),
    ],
)
def test_datatypes_are_the_protocols(tmp_path: Path, datatype: int, name: str) -> None:
    signature = read_artifact(artifacts.identity(tmp_path / "m.onnx", datatype=datatype)).signature
    assert signature.inputs[0].datatype == name


def test_an_output_without_a_shape_gets_the_one_that_follows_from_the_graph(tmp_path: Path) -> None:
    path = artifacts.save(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [artifacts.tensor("x", ["rows", 4])],
        [artifacts.tensor("y", None)],
    )
    assert read_artifact(path).signature.outputs[0].shape == (-1, 4)


def _cut(path: Path) -> Path:
    artifacts.classifier(path)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def _written(content: bytes, path: Path) -> Path:
    path.write_bytes(content)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _complex(path: Path) -> Path:
    return artifacts.identity(path, datatype=TensorProto.COMPLEX64)


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda path: path, "does not exist"),
    "folder": (_folder, "is not a file"),
    "empty": (lambda path: _written(b"", path), "is not an ONNX model"),
    "text": (lambda path: _written(b"servery: 1\n", path), "is not an ONNX model"),
    "zeros": (lambda path: _written(bytes(1000), path), "is not an ONNX model"),
    "cut": (_cut, "only a part of one"),
    "zipmap": (artifacts.zipmap, "export it with zipmap=False"),
    "complex": (_complex, "element type"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_served_is_one_clear_error(tmp_path: Path, case: str) -> None:
    make, message = BROKEN[case]
    with pytest.raises(ArtifactError, match=message):
        read_artifact(make(tmp_path / "m.onnx"))


def test_a_digest_covers_the_artifact_its_weights_elsewhere_and_the_extra(tmp_path: Path) -> None:
    path = artifacts.external(tmp_path / "m.onnx")
    first = read_artifact(path, b"onnx").digest
    assert read_artifact(path, b"onnx").digest == first
    assert read_artifact(path, b"other").digest != first
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    assert read_artifact(path, b"onnx").digest != first
    assert len(first) == 64


def test_two_files_that_share_their_bytes_differently_have_other_digests(tmp_path: Path) -> None:
    one = artifacts.external(tmp_path / "one" / "m.onnx")
    two = artifacts.external(tmp_path / "two" / "m.onnx")
    with (tmp_path / "two" / "weights.bin").open("ab") as file:
        file.write(b"x")
    assert read_artifact(one, b"x").digest != read_artifact(two, b"").digest


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", ".", "missing.bin"])
def test_weights_outside_of_the_folder_are_an_error(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    path = artifacts.external(tmp_path / "folder" / "m.onnx", location, write=False)
    with pytest.raises(ArtifactError, match="beside it"):
        read_artifact(path)


def test_a_link_out_of_the_folder_is_an_error_too(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    path = artifacts.external(tmp_path / "folder" / "m.onnx", "link.bin", write=False)
    (tmp_path / "folder" / "link.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ArtifactError, match="outside of its own folder"):
        read_artifact(path)


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "loop", "zero\0"])
def test_a_path_that_cannot_be_looked_at_is_an_error_as_well(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ArtifactError):
        read_artifact(tmp_path / name)


@pytest.mark.parametrize("location", ["x" * 5000, "loop", "zero\0"])
def test_weights_at_such_a_path_are_an_error_as_well(tmp_path: Path, location: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ArtifactError, match="keeps weights in"):
        read_artifact(artifacts.external(tmp_path / "m.onnx", location, write=False))


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 400), at=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_model_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, byte: int
) -> None:
    path = artifacts.classifier(tmp_path_factory.getbasetemp() / "m.onnx", features=2)
    content = bytearray(path.read_bytes())
    content[min(at, len(content) - 1)] = byte
    path.write_bytes(content[: len(content) - cut])
    with contextlib.suppress(ArtifactError):
        assert read_artifact(path).signature.outputs
