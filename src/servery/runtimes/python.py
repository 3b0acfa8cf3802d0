"""Runs a class of the user's own: `load(self)` once, then `predict(self, inputs)`. Only ever inside a Replica."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from servery.runtimes.code import find_entry
from servery.runtimes.importing import import_code
from servery.runtimes.outputs import conform, wrong
from servery.runtimes.running import CannotRun, first_line, probe, warm_up
from servery.terms.reasons import Refusal
from servery.terms.request import Array, Parameters
from servery.terms.tensors import Signature

log = logging.getLogger("servery.model")

_LONGEST_LINE = 2_000


class Printed(io.TextIOBase):
    """What the user's code prints, as lines of the log."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str, /) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            log.info("printed: %s", line[:_LONGEST_LINE])
        if len(self._line) > _LONGEST_LINE:
            self.flush()
        return len(text)

    def flush(self) -> None:
        if self._line:
            log.info("printed: %s", self._line[:_LONGEST_LINE])
        self._line = ""


class PythonModel:
    """One object of the user's class. `run` is called by one caller at a time."""

    def __init__(self, artifact: Path, called: str, signature: Signature) -> None:
        self.signature = signature
        self._folder = artifact if artifact.is_dir() else artifact.parent
        self._printed = Printed()
        self._rows = next((spec.name for spec in signature.inputs if spec.by_row), "")
        entry = find_entry(artifact, called)
        with self._watched("it can't be imported"):
            made: Any = getattr(import_code(artifact, entry), entry.name)
        with self._watched("it can't be made"):
            self._model: Any = made()
            self._predict: Callable[..., object] = self._model.predict
            self._with_parameters = _takes_parameters(self._predict)
        if (load := getattr(self._model, "load", None)) is not None:
            with self._watched("`load` failed"):
                load()

    def run(self, fetch: Sequence[str], feeds: dict[str, Array], parameters: Parameters = ()) -> dict[str, Array]:
        """The outputs named in `fetch`. CannotRun where the code fails, a Refusal where its answer isn't what was declared."""
        rows = feeds[self._rows].shape[0] if self._rows else 1
        with self._watched("`predict` failed"):
            also = (dict(parameters),) if self._with_parameters else ()
            given = self._predict(dict(feeds), *also)
        if not isinstance(given, Mapping):
            raise wrong(f"`predict` gave a {type(given).__name__}, not a dict of arrays by output")
        named = cast("Mapping[str, object]", given)
        return {spec.name: conform(spec, named, rows) for spec in self.signature.outputs if spec.name in fetch}

    def warm(self, clock_ns: Callable[[], int]) -> tuple[float, float]:
        """As of `warm_up`: on what the class gives as its `example`, else on zeros or ones."""
        if (example := getattr(self._model, "example", None)) is not None:
            with self._watched("`example` failed"):
                feeds: dict[str, Array] = dict(example())
            missing = {spec.name for spec in self.signature.inputs} ^ set(feeds)
            if missing:
                raise CannotRun(f"`example` and `inputs` disagree about {', '.join(sorted(missing))}")
            return probe(self._run_strictly, self.signature, feeds, clock_ns) or 0.0, 0.0
        try:
            return warm_up(self._run_strictly, self.signature, clock_ns)
        except CannotRun as error:
            advice = (
                "if it can't take zeros and ones, give the class `def example(self)` that returns inputs it can take"
            )
            raise CannotRun(f"{error}; {advice}") from None

    def _run_strictly(self, fetch: Sequence[str], feeds: dict[str, Array]) -> dict[str, Array]:
        """As `run`; a wrong answer means that it can't be served."""
        try:
            return self.run(fetch, feeds)
        except Refusal as refusal:
            raise CannotRun(refusal.message) from None

    @contextlib.contextmanager
    def _watched(self, what: str) -> Generator[None]:
        """Run the user's code: what it prints and where it fails goes to the log, its kind to whoever asks."""
        try:
            with contextlib.redirect_stdout(self._printed):
                yield
        except CannotRun:
            raise
        except (Exception, SystemExit) as error:
            log.error("%s", what, exc_info=error)
            said = first_line(error) if isinstance(error, ImportError) else type(error).__name__
            raise CannotRun(f"{what}: {said}{self._place(error)}; the log has the traceback") from None
        finally:
            self._printed.flush()

    def _place(self, error: BaseException) -> str:
        """The last line of the user's own that the error passed through."""
        place, step = "", error.__traceback__
        while step is not None:
            file = Path(step.tb_frame.f_code.co_filename)
            if file.is_relative_to(self._folder):
                place = f" ({file.relative_to(self._folder)}:{step.tb_lineno})"
            step = step.tb_next
        return place


def _takes_parameters(predict: Callable[..., object]) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(predict).parameters.values()]
    positional = sum(
        kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds
    )
    return positional > 1 or inspect.Parameter.VAR_POSITIONAL in kinds
