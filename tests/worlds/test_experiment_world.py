"""False winners are as rare as declared, whatever is measured and however often one looks; and what there is to find is found.

In the suite a few worlds; `make proof` has 500 of each kind, or as many as WORLDS says, and writes the table.
"""

from __future__ import annotations

import os

import pytest

from servery.terms.experiments import Conclusion
from worlds.experiments import FAMILIES, Family, world
from worlds.streams import surely

WORLDS = int(os.environ.get("WORLDS", "500"))


def named(family: Family) -> str:
    return family.name.partition(":")[0]


def row(family: Family, worlds: int) -> str:
    """What became of A/A worlds, as a line of the table; an AssertionError where false winners surely are too frequent."""
    ended = [world(family, 0.0, seed) for seed in range(worlds)]
    wrong = sum(one.decided > 0 for one in ended)
    least = surely(wrong, worlds)
    assert least <= family.design.false_winners, f"{wrong} of {worlds}: {family.name}"
    invalid, same = (
        sum(one.conclusion is what for one in ended) for what in (Conclusion.INVALID, Conclusion.NO_DIFFERENCE)
    )
    cells = [
        family.name,
        f"{worlds:,}",
        f"{wrong / worlds:.1%} (surely {least:.1%})",
        f"{invalid / worlds:.1%}",
        f"{same / worlds:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("family", FAMILIES, ids=named)
def test_false_winners_are_rare(family: Family) -> None:
    row(family, 8)


@pytest.mark.parametrize("family", FAMILIES, ids=named)
def test_what_does_twice_the_harm_is_found(family: Family) -> None:
    """There is something to find in these worlds: bounds that said nothing would name no false winners either."""
    ended = [world(family, 3.0, seed) for seed in range(4)]
    assert [one.conclusion for one in ended].count(Conclusion.KEEP) >= 3


@pytest.mark.proof
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("family", FAMILIES, ids=named)
def test_false_winners_are_rare_in_many_worlds(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    line = row(family, WORLDS)
    with capsys.disabled():
        print(f"\n{line}")
