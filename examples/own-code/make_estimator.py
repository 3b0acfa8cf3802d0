"""Fit an estimator on Fisher's irises and write it as a skops file: python examples/own-code/make_estimator.py"""

from pathlib import Path

import skops.io
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main():
    features, species = load_iris(return_X_y=True)
    path = Path(__file__).resolve().parent / "flowers.skops"
    skops.io.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(features, species), path)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
