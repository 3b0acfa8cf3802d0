"""A batch of a real model gives each of its calls what it would have got alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import artifacts
from servery.batching.batch import join, split
from servery.runtimes.onnx import OnnxSession
from servery.terms.request import Call
from servery.terms.tensors import Signature, TensorSpec

FEATURES = 30
SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, FEATURES)),),
    (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 3))),
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> OnnxSession:
    path = artifacts.classifier(tmp_path_factory.mktemp("batched") / "m.onnx", FEATURES)
    return OnnxSession(Path(path), SIGNATURE, 1)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 9), min_size=2, max_size=12))
def test_batched_equals_unbatched(session: OnnxSession, seed: int, sizes: list[int]) -> None:
    draw = np.random.default_rng(seed)
    names = [spec.name for spec in SIGNATURE.outputs]
    feeds = [{"x": draw.normal(0, 3, (rows, FEATURES)).astype(np.float32)} for rows in sizes]
    calls = [Call(names, fed, rows, 10**15) for fed, rows in zip(feeds, sizes, strict=True)]
    for call, together in zip(calls, split(calls, session.run(names, join(calls))), strict=True):
        alone = session.run(names, call.feeds)
        np.testing.assert_allclose(together["probabilities"], alone["probabilities"], rtol=1e-5)
        np.testing.assert_array_equal(together["label"], alone["label"])
