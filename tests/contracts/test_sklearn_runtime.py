"""Estimators out of skops files: what is derived, what is refused, what they answer."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import estimators
from servery.control.resolve import read_version_artifact
from servery.runtimes.artifact import ArtifactError
from servery.runtimes.running import CannotRun
from servery.runtimes.sklearn import SklearnModel
from servery.terms.manifest import DeclaredTensor, Model
from servery.terms.reasons import Reason, Refusal
from servery.terms.tensors import TensorSpec

estimators.need_sklearn()

X = TensorSpec("input", "FP64", (-1, 4))
P = TensorSpec("probabilities", "FP64", (-1, 3))


def model(path: Path, **declared: Any) -> Model:
    return Model(runtime="sklearn", artifact=str(path), **declared)


def made(path: Path, **declared: Any) -> SklearnModel:
    one = model(path, **declared)
    return SklearnModel(path, one.trusted, read_version_artifact(one, path).signature, 1)


def test_a_classifier_has_labels_and_probabilities(tmp_path: Path) -> None:
    runtime = made(estimators.logistic(tmp_path / "m.skops"))
    assert runtime.signature.inputs == (X,)
    assert runtime.signature.outputs == (TensorSpec("label", "INT64", (-1,)), P)
    assert runtime.signature.platform == "sklearn"
    x, y = estimators.drawn()
    outputs = runtime.run(["label", "probabilities"], {"input": x})
    assert (outputs["label"] == y).mean() > 0.8
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1)
    assert list(runtime.run(["label"], {"input": x})) == ["label"]
    fixed, by_row = runtime.warm(time.perf_counter_ns)
    assert fixed + by_row > 0


def test_labels_that_are_texts_are_bytes(tmp_path: Path) -> None:
    runtime = made(estimators.logistic(tmp_path / "m.skops", names=True))
    assert runtime.signature.outputs == (TensorSpec("label", "BYTES", (-1,)), P)
    x, _ = estimators.drawn()
    assert set(runtime.run(["label"], {"input": x})["label"].tolist()) <= {b"a", b"b", b"c"}


@pytest.mark.parametrize(("outputs", "shape"), [(1, (-1,)), (2, (-1, 2))])
def test_a_regression_has_values(tmp_path: Path, outputs: int, shape: tuple[int, ...]) -> None:
    runtime = made(estimators.linear(tmp_path / "m.skops", outputs))
    assert runtime.signature.outputs == (TensorSpec("value", "FP64", shape),)
    x, _ = estimators.drawn()
    np.testing.assert_allclose(
        runtime.run(["value"], {"input": x})["value"], 2 * x[:, 0] if outputs == 1 else 2 * x[:, :2]
    )


def test_no_rows_give_no_rows_and_no_numbers_are_the_callers_to_mend(tmp_path: Path) -> None:
    runtime = made(estimators.logistic(tmp_path / "m.skops"))
    empty = runtime.run(["label", "probabilities"], {"input": np.empty((0, 4))})
    assert (empty["label"].shape, empty["label"].dtype, empty["probabilities"].shape) == ((0,), np.int64, (0, 3))
    with pytest.raises(Refusal, match="no NaN and no infinities") as raised:
        runtime.run(["label"], {"input": np.array([[np.nan, 1, 1, 1]])})
    assert raised.value.reason is Reason.INVALID_REQUEST
    assert runtime.run(["label"], {"input": np.ones((1, 4))})["label"].shape == (1,)


def test_what_is_declared_counts(tmp_path: Path) -> None:
    path = estimators.logistic(tmp_path / "m.skops")
    runtime = made(
        path,
        inputs=(DeclaredTensor("features", "FP32", (-1, 4)),),
        outputs=(DeclaredTensor("probabilities", "FP32", (-1, 3)),),
    )
    assert runtime.signature.inputs == (TensorSpec("features", "FP32", (-1, 4)),)
    found = runtime.run(["probabilities"], {"features": np.ones((2, 4), np.float32)})
    assert (list(found), found["probabilities"].dtype) == (["probabilities"], np.float32)


def test_a_pipeline_of_texts_takes_declared_bytes(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    fitted = make_pipeline(CountVectorizer(), MultinomialNB()).fit(["good fine", "bad awful"], ["yes", "no"])
    path = estimators.dump(fitted, tmp_path / "m.skops")
    with pytest.raises(ArtifactError, match="doesn't say what it takes") as raised:
        read_version_artifact(model(path), path)
    assert "datatype: BYTES" in raised.value.fix
    runtime = made(path, inputs=(DeclaredTensor("text", "BYTES", (-1,)),))
    given = np.array([b"fine", b"awful awful"], object)
    assert runtime.run(["label"], {"text": given})["label"].tolist() == [b"yes", b"no"]
    with pytest.raises(Refusal, match="takes UTF-8 text"):
        runtime.run(["label"], {"text": np.array([b"\xff"], object)})


def test_types_that_skops_does_not_trust_have_to_be_named(tmp_path: Path) -> None:
    path = estimators.forest(tmp_path / "m.skops")
    with pytest.raises(ArtifactError, match=r"doesn't trust: sklearn\.tree\._tree\.Tree") as raised:
        read_version_artifact(model(path), path)
    assert (raised.value.key, raised.value.fix) == (
        "trusted", f"if it comes from where you trust it, write `trusted: [{estimators.TREE}]`"
    )  # fmt: skip
    runtime = made(path, trusted=(estimators.TREE,))
    assert runtime.signature.outputs[1] == P
    with pytest.raises(CannotRun, match="Untrusted types"):
        SklearnModel(path, (), runtime.signature, 1)


class Evil:
    """Leaves a trace where it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["m.pkl", "m.joblib", "m.skops", "m"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_is_refused_under_every_name_and_never_opened(tmp_path: Path, name: str, protocol: int) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Evil(trace), protocol))
    with pytest.raises(ArtifactError, match="runs its maker's code") as raised:
        read_version_artifact(model(path), path)
    assert "skops.io.dump(joblib.load(" in raised.value.fix
    assert "`artifact: m.skops`" in raised.value.fix
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()  # it would have


def test_what_is_no_skops_file_is_told(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "m.skops"
    with pytest.raises(ArtifactError, match="does not exist"):
        read_version_artifact(model(path), path)
    path.write_text("servery: 1\n")
    with pytest.raises(ArtifactError, match="is not a skops file"):
        read_version_artifact(model(path), path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("schema.json", "{}")
    with pytest.raises(ArtifactError, match="can be opened"):
        read_version_artifact(model(path), path)


def test_what_cannot_be_asked_is_told(tmp_path: Path) -> None:
    from sklearn.preprocessing import StandardScaler

    path = estimators.dump(StandardScaler().fit(estimators.drawn()[0]), tmp_path / "scaler.skops")
    with pytest.raises(ArtifactError, match="a StandardScaler, which has no `predict`"):
        read_version_artifact(model(path), path)
    path = estimators.logistic(tmp_path / "m.skops")
    with pytest.raises(ArtifactError, match="fitted on 4 features, not on 5") as raised:
        read_version_artifact(model(path, inputs=(DeclaredTensor("x", "FP64", (-1, 5)),)), path)
    assert (raised.value.key, raised.value.fix) == ("inputs", "write `shape: [-1, 4]`")
    with pytest.raises(ArtifactError, match="gives no output 'scores'") as raised:
        read_version_artifact(model(path, outputs=(DeclaredTensor("scores", "FP64", (-1, 3)),)), path)
    assert (raised.value.key, raised.value.fix) == ("outputs", "name label or probabilities")


def test_reading_one_leaves_the_libraries_out_of_this_process(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = estimators.linear(tmp_path / "m.skops")
    code = (
        "import sys; from pathlib import Path; from servery.control.resolve import read_version_artifact as read;"
        "from servery.terms.manifest import Model; path = Path(sys.argv[1]);"
        "print(read(Model(runtime='sklearn', artifact=''), path).signature.outputs[0].name, 'sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == "value False\n"
