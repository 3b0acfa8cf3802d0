"""What a token costs where the manifest doesn't say it: a table of public prices, by what an endpoint calls the model.

`tools/prices.py` writes prices.csv; NOTICE names its source.
"""

from __future__ import annotations

import csv
from importlib import resources

from servery.terms.manifest import Model, Price
from servery.terms.text import TokenPrice


def token_price(name: str, model: Model) -> TokenPrice | None:
    """The declared price, else that of the table; None where neither knows it."""
    if model.price is not None and (declared := model.price.of_tokens) is not None:
        return declared
    listed = listed_price(model.serves or name)
    return None if listed is None else listed.of_tokens


def listed_price(serves: str) -> Price | None:
    """What the table says of a vendor's model."""
    table = resources.files("servery.control").joinpath("prices.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(table.splitlines()):
        if row["model"] == serves:
            return Price(**{key: float(value) for key, value in row.items() if key != "model" and value})
    return None
