"""Runs ONNX artifacts with onnxruntime on the CPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from servery.terms.request import Array
from servery.terms.tensors import Signature, TensorSpec
from servery.wire.tensors import DTYPES, bad

_WARM_RUNS = 12
_PROBE_ROWS = 32


class CannotRun(Exception):
    """The artifact can't be loaded or doesn't run; the message says why."""


class OnnxSession:
    """A session per Version. `run` may be called from any thread, but only by one caller at a time."""

    def __init__(self, artifact: Path, signature: Signature, threads: int) -> None:
        for spec in (*signature.inputs, *signature.outputs):
            if spec.datatype == "BF16":
                raise CannotRun(
                    f"onnxruntime can't pass '{spec.name}' as BF16: export the model with FP32 or FP16 there"
                )
        # Imported here: 40 MB that a worker without ONNX models doesn't need. Its types are unknown to us.
        ort: Any = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors reach us as exceptions; its own log lines would repeat them
        # Spinning threads burn the cores that other models and the event loop need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = ort.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own classes, all straight under Exception
            raise CannotRun(f"onnxruntime can't load {artifact.name}: {_first_line(error)}") from None
        self.signature = signature
        self._text = [spec.name for spec in signature.inputs if spec.datatype == "BYTES"]
        self._run: Callable[[list[str], dict[str, Array], None], list[Any]] = self._session._sess.run

    def run(self, fetch: Sequence[str], feeds: dict[str, Array]) -> dict[str, Array]:
        """The outputs named in `fetch`, by name. CannotRun has onnxruntime's reason; a Refusal is the caller's to mend."""
        names = cast("list[str]", fetch if type(fetch) is list else list(fetch))
        if self._text:
            feeds = feeds | {name: _as_text(name, feeds[name]) for name in self._text}
        try:
            return dict(zip(names, self._run(names, feeds, None)))  # noqa: B905 a check that can't fail costs its time
        except Exception as error:
            raise CannotRun(_first_line(error)) from None

    def warm(self, clock_ns: Callable[[], int]) -> tuple[float, float]:
        """Run a few times on zeros, or ones; the time of a call as (ns fixed, ns per row), by two points.

        A model with free dimensions beside the rows may refuse size 1 there: then its time is unknown (0, inf).
        """
        fill = 0
        try:
            one = self._probe(1, fill, clock_ns)
        except CannotRun:  # for instance a division
            fill = 1
            one = self._probe(1, fill, clock_ns)
        if one is None:
            return 0.0, float("inf")
        if not all(spec.shape and spec.shape[0] == -1 for spec in self.signature.inputs):
            return one, 0.0
        many = self._probe(_PROBE_ROWS, fill, clock_ns)
        per_row = one if many is None else max(many - one, 0.0) / (_PROBE_ROWS - 1)
        return max(one - per_row, 0.0), per_row

    def _probe(self, rows: int, fill: int, clock_ns: Callable[[], int]) -> float | None:
        feeds = {spec.name: _filled(spec, rows, fill) for spec in self.signature.inputs}
        fetch = [spec.name for spec in self.signature.outputs]
        took: list[int] = []
        for _ in range(_WARM_RUNS):
            start = clock_ns()
            try:
                self.run(fetch, feeds)
            except CannotRun:
                if any(-1 in spec.shape[1:] for spec in self.signature.inputs):
                    return None
                raise
            took.append(clock_ns() - start)
        return float(np.median(took[_WARM_RUNS // 2 :]))


def _filled(spec: TensorSpec, rows: int, fill: int) -> Array:
    shape = [1 if size == -1 else size for size in spec.shape]
    if spec.shape and spec.shape[0] == -1:
        shape[0] = rows
    if spec.datatype == "BYTES":
        return np.full(shape, b"1" * fill, dtype=object)
    return np.full(shape, fill, DTYPES[spec.datatype])


def _as_text(name: str, array: Array) -> Array:
    try:
        return np.array([element.decode() for element in array.ravel().tolist()], dtype=object).reshape(array.shape)
    except UnicodeDecodeError:
        raise bad(f"input '{name}': this model takes UTF-8 text, and an element isn't") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
