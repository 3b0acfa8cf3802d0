"""Reduce a price list of language models to the columns that Servery uses: src/servery/control/prices.csv.

    python tools/prices.py model_prices.json.gz

The list is `model_prices_and_context_window.json` of BerriAI/litellm (MIT; see NOTICE): JSON by model, in dollars a token.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from pathlib import Path

COLUMNS = {
    "usd_per_1m_input": "input_cost_per_token",
    "usd_per_1m_output": "output_cost_per_token",
    "usd_per_1m_cached": "cache_read_input_token_cost",
    "usd_per_1m_cache_write": "cache_creation_input_token_cost",
    "usd_per_1m_reasoning": "output_cost_per_reasoning_token",
}
MODES = ("chat", "completion", "embedding", "responses")
TARGET = Path(__file__).parent.parent / "src/servery/control/prices.csv"


def main() -> None:
    models = json.loads(gzip.decompress(Path(sys.argv[1]).read_bytes()))
    with TARGET.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", *COLUMNS])
        for name in sorted(models):
            if models[name]["mode"] in MODES:
                costs = [models[name].get(source) for source in COLUMNS.values()]
                writer.writerow([name, *("" if cost is None else f"{cost * 1e6:.9g}" for cost in costs)])


if __name__ == "__main__":
    main()
