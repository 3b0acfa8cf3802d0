"""Small estimators of scikit-learn in skops files, fitted in milliseconds; skips without the extra, but never in CI."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROWS, FEATURES = 60, 4
TREE = "sklearn.tree._tree.Tree"


def need_sklearn() -> None:
    """Skip the tests of this module without skops; fail where everything has to be there."""
    if importlib.util.find_spec("skops") is None:
        reason = "skops is not installed: pip install -e '.[sklearn]'"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason, allow_module_level=True)


def drawn() -> tuple[Any, Any]:
    """Features, and a class that the first of them decides."""
    x = np.random.default_rng(3).random((ROWS, FEATURES))
    return x, (x[:, 0] * 3).astype(int)


def dump(estimator: Any, path: Path) -> Path:
    import skops.io

    path.parent.mkdir(parents=True, exist_ok=True)
    skops.io.dump(estimator, path)
    return path


def logistic(path: Path, names: bool = False) -> Path:
    """A pipeline with three classes, 0 to 2 or "a" to "c"."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = drawn()
    return dump(
        make_pipeline(StandardScaler(), LogisticRegression()).fit(x, np.array(["a", "b", "c"])[y] if names else y), path
    )


def linear(path: Path, outputs: int = 1, features: int = FEATURES) -> Path:
    """A regression that doubles: the first feature, or so many of them."""
    from sklearn.linear_model import LinearRegression

    x = drawn()[0][:, :features]
    return dump(LinearRegression().fit(x, 2 * (x[:, 0] if outputs == 1 else x[:, :outputs])), path)


def forest(path: Path) -> Path:
    """Three classes, by trees: a type that skops wants to be named."""
    from sklearn.ensemble import RandomForestClassifier

    return dump(RandomForestClassifier(3, random_state=0).fit(*drawn()), path)
