"""The Bulletin in a worker: which one counts, for how long, and what of it gets into the Table."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from servery.gateway.board import Board, alike, posted
from servery.gateway.holder import Holder
from servery.gateway.holdings import Holdings
from servery.gateway.minutes import OwnMinutes
from servery.gateway.table import Base, Table, compile_table
from servery.gateway.trained import Trained
from servery.gateway.trials import Exposed, Lease
from servery.gateway.watch import Watch
from servery.routing.pace import paces
from servery.terms.bulletin import GOOD_FOR_NS, Bulletin, Thresholds
from servery.terms.change import Served, Snapshot
from servery.terms.limits import Limits
from servery.terms.manifest import Confidence, Manifest, Model
from servery.terms.rollouts import Arm
from servery.terms.routes import Accept, Policy, Route, Tier
from worlds.virtual import SIGNATURE, VirtualLoop, WorldTarget

NS = 10**9


def no_budgets(holder: Holder, limits: Limits) -> None:
    """These are about other things."""


def fact(*values: float, epoch: int = 1, age_ns: int = 0, of: str = "", route: str = "paced") -> Thresholds:
    return Thresholds(epoch, age_ns, route, of, values)


def test_a_later_bulletin_replaces_an_earlier_one_whole_and_never_the_other_way() -> None:
    board = Board()
    assert (board.epoch, board.facts(0)) == (0, ())
    board.hear(Bulletin(2, (fact(0.5),)), 0)
    board.hear(Bulletin(1, (fact(0.4),)), 0)
    assert board.facts(0) == (fact(0.5),)
    board.hear(Bulletin(3), 0)
    assert (board.epoch, board.facts(0)) == (3, ())


@pytest.mark.parametrize("age_ns", [0, 100 * NS])
def test_a_fact_is_good_for_so_long_after_it_was_last_known_to_be_so(age_ns: int) -> None:
    board = Board()
    left_ns = GOOD_FOR_NS - age_ns
    board.hear(Bulletin(1, (fact(0.5, age_ns=age_ns),)), 50)
    assert board.next_ns(50) == left_ns
    assert len(board.facts(50 + left_ns - 1)) == 1
    assert board.facts(50 + left_ns) == ()
    assert board.next_ns(50 + left_ns) is None
    board.hear(Bulletin(1, (fact(0.5),)), 50 + left_ns)  # said again
    assert len(board.facts(50 + left_ns + GOOD_FOR_NS - 1)) == 1


def test_ages_are_no_news() -> None:
    assert alike([fact(0.5)], [fact(0.5, age_ns=9)])
    assert not alike([fact(0.5)], [fact(0.6)])
    assert not alike([fact(0.5)], [])


def table() -> tuple[Table, dict[str, Watch]]:
    models = {name: Model("onnx", name, confidence=Confidence("p")) for name in ("a", "b", "c")}
    accept = Accept(0.8, (0.5, 0.9))
    tiers = (Tier("cheap", "a", accept, (0.5, 0.7)), Tier("mid", "b", Accept(0.7)), Tier("dear", "c"))
    still = tuple(replace(tier, share=None) for tier in tiers)
    routes = {"paced": Route(tiers, Policy("cascade")), "still": Route(still, Policy("cascade"))}
    loop = VirtualLoop()
    targets = {(name, "1"): WorldTarget(1, name, 0, loop, lambda: pytest.fail("nobody calls"), 1) for name in models}
    loop.close()
    versions = {name: Served((targets[name, "1"].version,)) for name in models}
    assert all(version.versions[0].signature == SIGNATURE for version in versions.values())
    snapshot = Snapshot(1, Manifest(1, models, routes), "", versions)
    holdings = Holdings(OwnMinutes().make, no_budgets, lambda _: None)
    compiled = compile_table(snapshot, targets, {}, Base(b"secret", holdings, Lease(lambda: 0), Trained()))
    return compiled, {name: Watch(pace) for name, pace in paces(snapshot).items()}


def accepts(shown: Table, route: str) -> tuple[list[float | None], list[float | None]]:
    """What the decision goes by, and what Records are told."""
    entry = shown.entries[route]
    return [step.accept for step in entry.plan.steps], [tier.accept for tier in entry.tiers]


def test_thresholds_get_into_the_table_of_the_declaration_that_they_belong_to() -> None:
    compiled, watches = table()
    of = watches["paced"].pace.of
    shown = posted(compiled, watches, [])
    assert accepts(shown, "paced") == ([0.8, 0.7, None], [0.8, 0.7, None])
    assert accepts(shown, "still") == ([0.8, 0.7, None], [None, None, None])
    assert (shown.entries["paced"].watch, shown.entries["still"].watch) == (watches["paced"], None)
    shown = posted(compiled, watches, [fact(0.6, 0.7, of=of), fact(0.1, 0.1, of=of, route="still")])
    assert accepts(shown, "paced") == ([0.6, 0.7, None], [0.6, 0.7, None])
    assert accepts(shown, "still") == ([0.8, 0.7, None], [None, None, None])
    assert shown.use is compiled.use  # requests under way by it still count
    shown = posted(compiled, watches, [fact(0.6, 0.7, of="another's")])
    assert accepts(shown, "paced") == ([0.8, 0.7, None], [0.8, 0.7, None])


def test_every_arm_of_a_rollout_goes_by_the_same_thresholds() -> None:
    compiled, watches = table()
    entry = compiled.entries["paced"]
    candidate = replace(entry, tiers=tuple(replace(tier, arm="x/0/candidate") for tier in entry.tiers))
    exposed = Exposed((), {(Arm.CANDIDATE,): candidate, (Arm.INCUMBENT,): entry}, entry, Lease(lambda: 0))
    exposing = replace(compiled, entries={**compiled.entries, "paced": replace(entry, exposed=exposed)})
    shown = posted(exposing, watches, [fact(0.6, 0.7, of=watches["paced"].pace.of)]).entries["paced"]
    assert shown.exposed is not None
    for one in (*shown.exposed.variants.values(), shown.exposed.plain):
        assert [step.accept for step in one.plan.steps] == [0.6, 0.7, None]
        assert one.watch is watches["paced"]
    assert shown.exposed.variants[Arm.CANDIDATE,].tiers[0].arm == "x/0/candidate"


def test_without_a_route_that_is_paced_the_table_stays_the_same_one() -> None:
    compiled, _ = table()
    assert posted(compiled, {}, [fact(0.6)]) is compiled
