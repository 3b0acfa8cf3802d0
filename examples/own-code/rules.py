"""What everybody knows about irises. Columns: sepal length, sepal width, petal length, petal width in cm."""

import numpy as np

SETOSA, VERSICOLOR, VIRGINICA = range(3)


class Rules:
    def predict(self, inputs):
        petal_length, petal_width = inputs["features"][:, 2], inputs["features"][:, 3]
        probabilities = np.full((len(petal_length), 3), 1 / 3)
        probabilities[petal_length < 2.5] = np.eye(3)[SETOSA]
        probabilities[(petal_length >= 2.5) & (petal_length < 4.5) & (petal_width < 1.4)] = [0.0, 0.97, 0.03]
        probabilities[petal_length > 5.5] = [0.0, 0.03, 0.97]
        return {"label": probabilities.argmax(axis=1), "probabilities": probabilities}
