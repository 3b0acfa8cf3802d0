"""What runs an artifact, by the runtime that its Model declares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from servery.terms.change import Version
from servery.terms.manifest import Model
from servery.terms.tensors import Signature

if TYPE_CHECKING:
    from servery.targets.in_process import Runtime


def runtime_of(model: Model, version: Version) -> Runtime:
    """The runtime of a Version, loaded in this process: for a command that serves nobody. CannotRun."""
    return loader(model, version)()


def loader(model: Model, version: Version) -> Callable[[], Runtime]:
    """What makes the runtime of a Version, off the event loop. What it loads is what was published, or nothing."""
    from servery.control.resolve import digest_now
    from servery.runtimes.running import CannotRun

    made: dict[str, Callable[[Model, Version, Signature], Runtime]] = {
        "onnx": _onnx,
        "python": _python,
        "sklearn": _sklearn,
    }

    def load() -> Runtime:
        if version.signature is None:
            raise CannotRun(version.problem)
        if digest_now(model, version) != version.digest:
            raise CannotRun(f"{version.artifact} is not what was published; start again to publish what it is now")
        runtime = made[model.runtime](model, version, version.signature)
        if model.runtime == "python" and digest_now(model, version) != version.digest:
            raise CannotRun(f"{version.artifact} changed while it was loaded")
        return runtime

    return load


def _onnx(model: Model, version: Version, signature: Signature) -> Runtime:
    from servery.runtimes.onnx import OnnxSession

    return OnnxSession(Path(version.artifact), signature, model.threads, model.device)


def _python(model: Model, version: Version, signature: Signature) -> Runtime:
    from servery.runtimes.python import PythonModel

    return PythonModel(Path(version.artifact), model.entry, signature)


def _sklearn(model: Model, version: Version, signature: Signature) -> Runtime:
    from servery.runtimes.sklearn import SklearnModel

    return SklearnModel(Path(version.artifact), model.trusted, signature, model.threads)
