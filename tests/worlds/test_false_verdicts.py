"""False verdicts are as rare as declared, whatever is measured: A/A and exactly at the margin, watched at every window.

In the suite a few worlds; `make proof-quick` has 500 of each kind, `make proof` 2,000 (or as many as WORLDS says), and writes the table.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from servery.terms.rollouts import Phase, RolloutPolicy
from worlds.streams import surely
from worlds.verdicts import AS_THEY_COME, FAMILIES, Family, world

DECLARED = RolloutPolicy().false_rollbacks
WORLDS = int(os.environ.get("WORLDS", "2000"))


def phases(family: Family, harm: float, worlds: int, windows: int = 30) -> Counter[Phase]:
    return Counter(world(family, harm, seed, windows).phase for seed in range(worlds))


def row(family: Family, harm: float, worlds: int) -> str:
    """What became of these worlds, as a line of the table; an AssertionError where false verdicts surely are too frequent."""
    found = phases(family, harm, worlds)
    back, passed = found[Phase.ROLLED_BACK], found[Phase.PROMOTED]
    cells = [family.name, "the margin" if harm else "none", f"{worlds:,}"]
    for count, is_false in ((back, True), (passed, harm >= 1)):
        least = surely(count, worlds)
        assert not is_false or least <= DECLARED, f"{count} of {worlds}: {family.name}, harm {harm:g}"
        cells.append(f"{count / worlds:.1%}" + (f" (surely {least:.1%})" if is_false else ""))
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("harm", [0.0, 1.0])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name.partition(":")[0])
def test_false_verdicts_are_rare(family: Family, harm: float) -> None:
    row(family, harm, 12)


def test_labels_as_they_come_roll_back_nobody_without_harm() -> None:
    """Wrong answers are labelled sooner, in both arms: what is known looks worse than it is, for both."""
    row(AS_THEY_COME, 0.0, 12)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name.partition(":")[0])
def test_what_does_three_times_the_harm_is_found(family: Family) -> None:
    """There is something to find in these worlds: guards that said nothing would make no false verdicts either."""
    found = phases(family, 3.0, 4)
    assert found[Phase.ROLLED_BACK] >= 3
    assert found[Phase.PROMOTED] == 0


@pytest.mark.proof
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize(
    ("family", "harm"),
    [*((family, harm) for family in FAMILIES for harm in (0.0, 1.0)), (AS_THEY_COME, 0.0)],
    ids=lambda of: of if isinstance(of, float) else of.name.partition(":")[0],
)
def test_false_verdicts_are_rare_in_many_worlds(
    family: Family, harm: float, capsys: pytest.CaptureFixture[str]
) -> None:
    line = row(family, harm, WORLDS)
    with capsys.disabled():
        print(f"\n{line}")
