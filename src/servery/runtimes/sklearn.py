"""Runs scikit-learn estimators out of skops files. Only ever inside a Replica, or in a check's own process.

Both libraries are imported where they are used: they take a second, and are an extra.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from servery.runtimes.outputs import conform
from servery.runtimes.running import CannotRun, filled, first_line, warm_up
from servery.runtimes.skops_file import INSTALL, MISSING, PLATFORM, Asked, Found
from servery.terms.request import Array, Parameters
from servery.terms.tensors import Signature, TensorSpec
from servery.wire.tensors import bad

INPUT, LABEL, VALUE, PROBABILITIES = "input", "label", "value", "probabilities"

_BY_KIND = {"b": "BOOL", "i": "INT64", "u": "UINT64", "f": "FP64", "U": "BYTES", "S": "BYTES", "O": "BYTES"}


class SklearnModel:
    """One estimator. `run` is called by one caller at a time."""

    def __init__(self, artifact: Path, trusted: Sequence[str], signature: Signature, threads: int) -> None:
        self.signature = signature
        try:
            self._estimator: Any = importlib.import_module("skops.io").load(artifact, trusted=list(trusted))
            importlib.import_module("threadpoolctl").threadpool_limits(threads)
        except ModuleNotFoundError as error:
            missing = error.name in ("skops", "sklearn")
            raise CannotRun(f"{MISSING}: {INSTALL}" if missing else first_line(error)) from None
        except Exception as error:  # untrusted types, and whatever a damaged file provokes
            raise CannotRun(f"skops can't load {artifact.name}: {first_line(error)}") from None

    def run(self, fetch: Sequence[str], feeds: dict[str, Array], _parameters: Parameters = ()) -> dict[str, Array]:
        """The outputs named in `fetch`. CannotRun where it fails, a Refusal where the input is to be mended."""
        (name, given), *_ = feeds.items()
        rows = given.shape[0]
        specs = [spec for spec in self.signature.outputs if spec.name in fetch]
        if not given.size:
            return {spec.name: _nothing(spec, name, rows) for spec in specs}
        table = _table(name, given)
        try:
            found = {spec.name: self._ask(spec.name, table) for spec in specs}
        except Exception as error:
            if table.dtype.kind == "f" and not np.isfinite(table).all():
                raise bad(f"this model takes no NaN and no infinities, and input '{name}' has one") from None
            raise CannotRun(f"the estimator failed: {type(error).__name__}") from None
        return {spec.name: conform(spec, found, rows) for spec in specs}

    def _ask(self, output: str, table: Array) -> Array:
        return self._estimator.predict_proba(table) if output == PROBABILITIES else self._estimator.predict(table)

    def warm(self, clock_ns: Callable[[], int]) -> tuple[float, float]:
        """As of `warm_up`, on zeros or ones."""
        return warm_up(self.run, self.signature, clock_ns)


def _table(name: str, given: Array) -> Array:
    if given.dtype != object:
        return given
    try:
        return np.array([element.decode() for element in given.ravel().tolist()], object).reshape(given.shape)
    except UnicodeDecodeError:
        raise bad(f"input '{name}': this model takes UTF-8 text, and an element isn't") from None


def _nothing(spec: TensorSpec, given: str, rows: int) -> Array:
    """What an estimator gives for no rows: it can't be asked."""
    if rows or -1 in spec.shape[1:]:
        raise bad(f"this model can't run on an input without elements, as '{given}' is")
    return conform(spec, {spec.name: np.empty((0, *spec.shape[1:]), object if spec.datatype == "BYTES" else bool)}, 0)


def describe() -> None:
    """Answer on stdout what is asked on stdin: what a skops file holds, as a Served estimator."""
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Asked)
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(_found(asked)))


def _found(asked: Asked) -> Found:
    skops: Any = importlib.import_module("skops.io")
    name = Path(asked.path).name
    try:
        untrusted = sorted(set(skops.get_untrusted_types(file=asked.path)) - set(asked.trusted))
        if untrusted:
            listed = ", ".join(untrusted)
            write = ", ".join([*asked.trusted, *untrusted])
            fix = f"if it comes from where you trust it, write `trusted: [{write}]`"
            return Found(problem=f"{name} holds types that skops doesn't trust: {listed}", fix=fix, key="trusted")
        estimator: Any = skops.load(asked.path, trusted=list(asked.trusted))
    except Exception as error:
        return Found(problem=f"{name} is not a skops file that can be opened: {first_line(error)}")
    if not callable(getattr(estimator, "predict", None)):
        return Found(problem=f"{name} holds a {type(estimator).__name__}, which has no `predict`")
    return _signed(estimator, asked.declared)


def _signed(estimator: Any, declared: Signature) -> Found:
    """The signature: declared where it is, else as the estimator answers a row of zeros."""
    features = getattr(estimator, "n_features_in_", None)
    if declared.inputs:
        inputs = declared.inputs
    elif features is None:
        fix = "add for instance `inputs: [{name: input, datatype: BYTES, shape: [-1]}]`"
        return Found(problem=f"this {type(estimator).__name__} doesn't say what it takes", fix=fix)
    else:
        inputs = (TensorSpec(INPUT, "FP64", (-1, int(features))),)
    if len(inputs) != 1 or not inputs[0].by_row:
        return Found(problem="an estimator takes one input with rows", fix="declare one", key="inputs")
    shape = inputs[0].shape
    if features is not None and len(shape) == 2 and shape[1] not in (-1, features):
        return Found(
            problem=f"the estimator was fitted on {features} features, not on {shape[1]}",
            fix=f"write `shape: [-1, {features}]`",
            key="inputs",
        )
    try:
        outputs = _outputs(estimator, _table(INPUT, _row(inputs[0], features)))
    except Exception as error:
        if not declared.outputs:
            problem = f"what it gives can't be derived: a row of zeros made it fail ({first_line(error)})"
            return Found(problem=problem, fix="declare `outputs`")
        outputs = declared.outputs
    known = {spec.name for spec in outputs}
    for spec in declared.outputs:
        if spec.name not in known:
            fix = f"name {' or '.join(sorted(known))}"
            return Found(problem=f"the estimator gives no output {spec.name!r}", fix=fix, key="outputs")
    return Found(Signature(inputs, declared.outputs or outputs, PLATFORM))


def _row(spec: TensorSpec, features: int | None) -> Array:
    sizes = [features or 1 if size == -1 else size for size in spec.shape[1:]]
    one = TensorSpec(spec.name, spec.datatype, (1, *sizes))
    return filled(Signature((one,), ()), 1, 0)[spec.name]


def _outputs(estimator: Any, row: Array) -> tuple[TensorSpec, ...]:
    base: Any = importlib.import_module("sklearn.base")
    answers = np.asarray(estimator.predict(row))
    datatype = _BY_KIND[answers.dtype.kind]
    name = VALUE if base.is_regressor(estimator) else LABEL
    found = [TensorSpec(name, "FP64" if name == VALUE else datatype, (-1, *answers.shape[1:]))]
    if hasattr(estimator, "predict_proba"):
        scores: Any = estimator.predict_proba(row)
        if isinstance(scores, list):
            raise ValueError("it has several outputs with classes of their own: serve it with `runtime: python`")
        found.append(TensorSpec(PROBABILITIES, "FP64", (-1, int(scores.shape[1]))))
    return tuple(found)
