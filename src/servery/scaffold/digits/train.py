"""Train three models on scikit-learn's handwritten digits and export them to ONNX.

All three take `pixels` (FP32 [rows, 64], values 0 to 16) and give `label` (INT64 [rows]) and `probabilities`
(FP32 [rows, 10]): tiers of one route must fit each other. Run it again whenever you change something here:

    pip install scikit-learn skl2onnx onnxruntime
    python train.py
"""

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.ensemble import BaggingClassifier, ExtraTreesClassifier, VotingClassifier
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDER = Path(__file__).resolve().parent
SEED = 7


def cheap():
    """A logistic regression on the 24 pixels that a small forest finds most telling; the rest is dropped in the graph."""
    pick = SelectFromModel(ExtraTreesClassifier(100, random_state=SEED), max_features=24, threshold=-np.inf)
    return make_pipeline(pick, StandardScaler(), LogisticRegression(max_iter=1000))


def mid():
    """A small neural net: one layer of 64 units."""
    return make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=1000, random_state=SEED))


def premium():
    """A large ensemble: 300 extra trees, and 30 nearest-neighbour models that each see six tenths of the pixels."""
    trees = ExtraTreesClassifier(300, random_state=SEED)
    neighbour = KNeighborsClassifier(3, weights="distance", algorithm="brute")
    neighbours = BaggingClassifier(neighbour, 30, max_features=0.6, bootstrap=False, random_state=SEED)
    return VotingClassifier([("trees", trees), ("neighbours", neighbours)], voting="soft", flatten_transform=False)


# What may be accepted in servery.yaml: the confidence from which a tier's own answer counts.
MODELS = {"cheap": (cheap, 0.95), "mid": (mid, 0.80), "premium": (premium, 0.0)}


def export(model, path):
    """Write the trained model as ONNX, with the names that servery.yaml uses, and return how it runs there."""
    options = {id(model): {"zipmap": False}, KNeighborsClassifier: {"optim": "cdist", "zipmap": False}}
    inputs: Any = [("pixels", FloatTensorType([None, 64]))]
    written: Any = to_onnx(
        model,
        initial_types=inputs,
        options=options,
        target_opset={"": 18, "ai.onnx.ml": 3, "com.microsoft": 1},
    )
    graph = written.graph
    used = {name for node in graph.node for name in node.input}
    for leftover in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(leftover)  # onnxruntime would warn of it at each start
    path.write_bytes(written.SerializeToString())
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def write_images(path, images, labels):
    """One line for each image: its true label, then its 64 pixels."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["label", *(f"p{number}" for number in range(images.shape[1]))])
        lines.writerows([label, *map(int, image)] for label, image in zip(labels, images, strict=True))


def main():
    images, labels = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    train, rest, train_labels, rest_labels = train_test_split(
        images, labels, train_size=0.5, stratify=labels, random_state=SEED
    )
    tune, held_out, tune_labels, held_out_labels = train_test_split(
        rest, rest_labels, train_size=0.4, stratify=rest_labels, random_state=SEED
    )
    print(f"{len(images):,} images: {len(train)} to train, {len(tune)} for thresholds, {len(held_out)} held out")
    write_images(FOLDER / "thresholds.csv", tune, tune_labels)
    write_images(FOLDER / "held-out.csv", held_out, held_out_labels)

    (FOLDER / "models").mkdir(exist_ok=True)
    for name, (build, threshold) in MODELS.items():
        print(f"{name:<8}training … ", end="", flush=True)
        began = time.monotonic()
        model = build().fit(train, train_labels)
        session: Any = export(model, FOLDER / "models" / f"{name}.onnx")
        answers, probabilities = session.run(["label", "probabilities"], {"pixels": tune})
        if not np.array_equal(answers, model.predict(tune)):
            raise SystemExit(f"{name}: the exported model answers differently from the trained one")
        right, sure = answers == tune_labels, probabilities.max(axis=1) >= threshold
        line = f"{time.monotonic() - began:.1f} s; right on {right.mean():.1%} of the images for thresholds"
        if threshold:
            line += f"; sure (≥ {threshold:.2f}) of {sure.mean():.1%}, right on {right[sure].mean():.1%} of those"
        print(line)


if __name__ == "__main__":
    main()
