"""An ONNX model runs on the device that is declared, or not at all."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import artifacts
from servery.control.resolve import answers_depend_on, read_version_artifact
from servery.runtimes.onnx import OnnxSession
from servery.runtimes.running import CannotRun
from servery.terms.manifest import Model

CUDA = "CUDAExecutionProvider" in ort.get_available_providers()


def session(folder: Path, device: str) -> OnnxSession:
    path = artifacts.classifier(folder / "m.onnx")
    signature = read_version_artifact(Model(runtime="onnx", artifact=str(path)), path).signature
    return OnnxSession(path, signature, 1, device)


@pytest.mark.skipif(CUDA, reason="onnxruntime here has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_without_its_provider_a_model_is_not_run_on_another(tmp_path: Path, device: str) -> None:
    with pytest.raises(CannotRun) as raised:
        session(tmp_path, device)
    assert str(raised.value).startswith("onnxruntime here has only ")
    assert "CPUExecutionProvider" in str(raised.value)
    assert f"install onnxruntime-gpu for `device: {device}`" in str(raised.value)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="no NVIDIA GPU with onnxruntime-gpu here (CI has none either)")
def test_a_gpu_answers_as_the_cpu(tmp_path: Path) -> None:
    gpu, cpu = session(tmp_path, "cuda:0"), session(tmp_path, "cpu")
    feeds = {"x": np.random.default_rng(5).standard_normal((64, 30)).astype(np.float32)}
    names = ["label", "probabilities"]
    found, expected = gpu.run(names, feeds), cpu.run(names, feeds)
    assert found["label"].tolist() == expected["label"].tolist()
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=1e-4, atol=1e-6)
    assert gpu.warm(time.perf_counter_ns) > (0, 0)


def test_a_version_on_another_kind_of_device_is_another_version() -> None:
    digests = [
        answers_depend_on(Model(runtime="onnx", device=device)) for device in ("cpu", "cuda", "cuda:0", "cuda:1")
    ]
    assert len(set(digests)) == 2
    assert answers_depend_on(Model(runtime="onnx")) == b'{"runtime":"onnx"}'
