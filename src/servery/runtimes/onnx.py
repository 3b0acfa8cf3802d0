"""Runs ONNX artifacts with onnxruntime, on the CPU or a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from servery.runtimes.running import CannotRun, first_line, warm_up
from servery.terms.request import Array, Parameters
from servery.terms.tensors import Signature
from servery.wire.tensors import bad

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"


class OnnxSession:
    """A session per Version. `run` may be called from any thread, but only by one caller at a time."""

    def __init__(self, artifact: Path, signature: Signature, threads: int, device: str = "cpu") -> None:
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
        wanted, providers = _providers(ort, device)
        try:
            self._session: Any = ort.InferenceSession(str(artifact), options, providers=providers)
        except Exception as error:  # onnxruntime raises its own classes, all straight under Exception
            raise CannotRun(f"onnxruntime can't load {artifact.name}: {first_line(error)}") from None
        if wanted not in self._session.get_providers():  # it goes on without one that fails to start
            raise CannotRun(
                f"onnxruntime can't use {device!r}: its {wanted} did not start; look at its driver and libraries"
            )
        self.signature = signature
        self._text = [spec.name for spec in signature.inputs if spec.datatype == "BYTES"]
        self._run: Callable[[list[str], dict[str, Array], None], list[Any]] = self._session._sess.run

    def run(self, fetch: Sequence[str], feeds: dict[str, Array], _parameters: Parameters = ()) -> dict[str, Array]:
        """The outputs named in `fetch`, by name. CannotRun has onnxruntime's reason; a Refusal is the caller's to mend."""
        names = cast("list[str]", fetch if type(fetch) is list else list(fetch))
        if self._text:
            feeds = feeds | {name: _as_text(name, feeds[name]) for name in self._text}
        try:
            return dict(zip(names, self._run(names, feeds, None)))  # noqa: B905 a check that can't fail costs its time
        except Exception as error:
            empty = [name for name, array in feeds.items() if not array.size]
            if empty:  # some operators can't: the largest of nothing
                raise bad(f"this model can't run on an input without elements, as '{empty[0]}' is") from None
            raise CannotRun(first_line(error)) from None

    def warm(self, clock_ns: Callable[[], int]) -> tuple[float, float]:
        """As of `warm_up`, on zeros or ones."""
        return warm_up(self.run, self.signature, clock_ns)


def _providers(ort: Any, device: str) -> tuple[str, list[Any]]:
    """The execution provider of `device`, and what onnxruntime is asked for. CannotRun where it isn't built in."""
    if device == "cpu":
        return _CPU, [_CPU]
    available: list[str] = ort.get_available_providers()
    if _CUDA not in available:
        raise CannotRun(
            f"onnxruntime here has only {', '.join(available)}; install onnxruntime-gpu for `device: {device}`"
        )
    if hasattr(ort, "preload_dlls"):  # finds NVIDIA's libraries where they came as packages
        ort.preload_dlls()
    number = device.partition(":")[2] or "0"
    return _CUDA, [(_CUDA, {"device_id": number}), _CPU]  # the CPU is for the few operators that CUDA lacks


def _as_text(name: str, array: Array) -> Array:
    try:
        return np.array([element.decode() for element in array.ravel().tolist()], dtype=object).reshape(array.shape)
    except UnicodeDecodeError:
        raise bad(f"input '{name}': this model takes UTF-8 text, and an element isn't") from None
