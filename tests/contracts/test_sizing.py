"""How many units an experiment needs: what can't be forecast is told with what to do instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer

from servery.cli.sizing import Normal, size_of
from servery.host.settings import DataFolder

NORMAL = Normal(0.2, 0.3, 1000.0)


def manifest(folder: Path, primary: Mapping[str, object]) -> Path:
    shape = {"datatype": "FP32", "shape": [-1, 1]}
    model = {
        "runtime": "python",
        "artifact": "code",
        "class": "Model",
        "inputs": [{"name": "x", **shape}],
        "outputs": [{"name": "y", **shape}],
    }
    arms = [{"name": "control", "share": 0.5}, {"name": "other", "share": 0.5, "models": {"only": "two"}}]
    declared = {
        "servery": 1, "models": {"one": model, "two": model}, "routes": {"r": {"tiers": [{"name": "only", "model": "one"}]}},
        "experiments": {"try": {"route": "r", "unit": {"header": "x-user"}, "arms": arms, "primary": primary}},
    }  # fmt: skip
    path = folder / "servery.yaml"
    path.write_text(json.dumps(declared))
    return path


def test_the_mean_is_sized_and_a_quantile_says_to_ask_for_the_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataFolder(tmp_path / "data")
    mean = {"metric": "latency", "margin": 0.1}
    size_of("try", manifest(tmp_path, mean), data, 7, 0.8, NORMAL)
    assert "a difference of 0.02 in latency" in capsys.readouterr().out
    with pytest.raises(typer.Exit):
        size_of("try", manifest(tmp_path, {**mean, "quantile": 0.95}), data, 7, 0.8, NORMAL)
    said = capsys.readouterr()
    assert "remove `quantile` from the primary metric" in said.out + said.err
