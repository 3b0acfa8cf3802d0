"""What a worker counts for drift: a row of a Request by its features, never a Request that failed, and never too much."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import numpy as np
import pytest

from servery.gateway.sketches import Sketches
from servery.gateway.table import TierEntry
from servery.gateway.trail import Made, Trail
from servery.host.clock import Clock, Dice
from servery.routing.next import Rows
from servery.stats.bins import MISSING, bin_of, bucket_of
from servery.terms.manifest import Confidence, Manifest
from servery.terms.record import Role, Sketched
from servery.terms.request import Array, Called, Caller
from servery.terms.text import Tokens

FEATURES = ["age", "pixels", "pixels.2", "kind", "gone", "pixels.9"]


class Kept:
    """The lines, and the Sketches that write them."""

    def __init__(self, features: list[str] = FEATURES) -> None:
        self.lines: list[Sketched] = []
        self.sketches = Sketches(self.lines.append, Clock(), Dice())
        model = {"runtime": "onnx", "artifact": "m.onnx", "drift": {"features": features}}
        other = {"runtime": "onnx", "artifact": "m.onnx"}
        self.sketches.follow(msgspec.convert({"servery": 1, "models": {"m": model, "other": other}}, Manifest))

    def written(self) -> dict[str, dict[int, int]]:
        """By feature what the only line holds."""
        self.sketches.turn()
        self.sketches.write()
        (line,) = self.lines
        return {one.feature: dict(zip(one.bins, one.counts, strict=True)) for one in line.features}


def trail(*made: Made, tenant: str = "acme") -> Trail:
    one = Trail(b"", Caller(tenant, "k", "", frozenset(), b""), "r", 0, 0, cast(Any, None))
    one.made = list(made)
    return one


def made(
    outputs: dict[str, Array] | None = None, model: str = "m", rows: int = 1, sent: Rows | None = None, **called: Any
) -> Made:
    confidence = Confidence("sure") if outputs and "sure" in outputs else None
    tier = TierEntry("t", cast(Any, None), confidence, "label", (), model, "v1")
    return Made(Role.SERVE, tier, rows, Called(outputs or {}, 1, **called), sent)


FEEDS: dict[str, Array] = {
    "age": np.array([41.0, 7.0], np.float32),
    "pixels": np.array([[1, 2, 6], [10, 20, 30]], np.int64),
    "kind": np.array([b"a", b"b"], object),
}


def test_a_row_is_counted_by_its_features() -> None:
    kept = Kept()
    outputs = {"label": np.array([3, 1]), "sure": np.array([[0.25, 0.75], [0.5, 0.5]])}
    kept.sketches.note(trail(made(outputs, rows=2)), FEEDS)
    assert kept.written() == {
        "age": {bin_of(41.0): 1},
        "pixels": {bin_of(3.0): 1},
        "pixels.2": {bin_of(6.0): 1},
        "kind": {bucket_of(b"a"): 1},
        "prediction": {bucket_of(b"3"): 1},
        "confidence": {bin_of(0.75): 1},
    }
    assert (kept.lines[0].model, kept.lines[0].version, kept.lines[0].tenant) == ("m", "v1", "acme")
    assert kept.lines[0].since_ns <= kept.lines[0].until_ns


def test_the_row_that_a_version_was_sent_is_counted_for_it() -> None:
    kept = Kept(["age"])
    kept.sketches.note(trail(made(model="other"), made({"label": np.array([1.5])}, sent=(1,))), FEEDS)
    assert kept.written() == {"age": {bin_of(7.0): 1}, "prediction": {bin_of(1.5): 1}}


def test_no_number_is_counted_as_missing_and_large_inputs_at_once() -> None:
    kept = Kept(["x.1"])
    kept.sketches.note(trail(made()), {"x": np.array([[0, np.nan] + [0] * 100_000], np.float32)})
    assert kept.written() == {"x.1": {MISSING: 1}}


def test_of_text_tokens_are_counted() -> None:
    kept = Kept()
    kept.sketches.note(trail(made(tokens=Tokens(100, 20))), None)
    assert kept.written() == {"prompt tokens": {bin_of(100.0): 1}, "answer tokens": {bin_of(20.0): 1}}


def test_failures_and_other_models_are_not_counted() -> None:
    kept = Kept()
    left = msgspec.structs.replace(made(), left=True)
    kept.sketches.note(trail(made(failure="model_failed"), made(model="other"), left), FEEDS)
    kept.sketches.turn()
    kept.sketches.write()
    assert kept.lines == []


@pytest.mark.parametrize(("tenants", "turns"), [(1, 1_000), (100, 40)])
def test_what_is_counted_is_bounded(tenants: int, turns: int) -> None:
    kept = Kept(["age"])
    for turn in range(turns):
        for at in range(50):
            kept.sketches.note(trail(made(), tenant=f"t{(turn * 6 + at) % tenants}"), FEEDS)
        kept.sketches.turn()
    kept.sketches.write()
    assert len(kept.lines) == min(tenants, 64)
    assert max(line.features[0].counts[0] for line in kept.lines) <= 5_000
    assert sum(line.features[0].counts[0] for line in kept.lines) <= 6 * turns


def test_without_drift_nothing_is_watched() -> None:
    kept = Kept()
    kept.sketches.follow(msgspec.convert({"servery": 1, "models": {}}, Manifest))
    assert not kept.sketches.watched
