"""What another policy would have been worth, as a table with its doubts."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from servery.cli.tables import money, print_table
from servery.learning.replay import Replayed
from servery.stats.offpolicy import Value

_MUCH = 0.05  # of Requests without support, from which on it is a warning


def show(found: Replayed, unit: str, notes: Sequence[str]) -> None:
    """Print the estimates beside what was recorded, and what to know about them."""
    value = found.value
    assert value is not None, "the caller has seen to it"
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(unit, no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95 %", justify="right", no_wrap=True)
    lines = [
        ("recorded", value.recorded),
        ("the other policy, doubly robust", value.doubly_robust),
        ("the other policy, self-normalised", value.self_normalised),
        ("the other policy, by inverse propensity", value.ips),
        ("what it adds (doubly robust)", value.gain),
    ]
    for name, one in lines:
        if one is not None:
            table.add_row(name, *_cells(one), style="bold" if one is value.gain else "")
    print_table(console, table)
    for line in told(found):
        console.print(line, style="dim", soft_wrap=True)
    for warning in doubts(found, notes):
        console.print(f"Warning: {warning}", style="yellow", soft_wrap=True)


def told(found: Replayed) -> list[str]:
    """What the figures rest on."""
    value = found.value
    assert value is not None
    supported = found.usable - found.unsupported
    left_out = ", ".join(f"{count:,} {why}" for why, count in found.left_out.items())
    lines = [f"{supported:,} of {found.records:,} Records tell something" + (f"; {left_out}" if left_out else "")]
    lines.append(
        f"They say as much as {value.effective:,.0f} requests that the other policy had decided itself; the largest weight is "
        f"{100 * value.largest:.2g} % of all"
    )
    if found.unsupported:
        lines.append(
            f"No support: for {100 * found.unsupported / found.usable:.1f} % of the requests the other policy may choose what was never tried"
        )
    return lines


def doubts(found: Replayed, notes: Sequence[str]) -> list[str]:
    """What to mistrust the figures for."""
    value = found.value
    assert value is not None
    doubts = list(value.warnings)
    if found.unsupported > _MUCH * found.usable:
        share = 100 * (1 - found.unsupported / found.usable)
        doubts.insert(0, f"little overlap: the figures are of the other {share:.1f} % of the requests alone")
    return [*doubts, *notes]


def _cells(value: Value) -> tuple[str, str]:
    return _figure(value.value), f"{_figure(value.low)} to {_figure(value.high)}"


def _figure(value: float) -> str:
    return f"-{money(-value)}" if value < 0 else money(value)
