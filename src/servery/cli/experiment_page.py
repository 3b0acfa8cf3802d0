"""An experiment as one HTML page that needs nothing else: the interval of each metric over time, and what was concluded. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from servery.cli.plan_text import moment
from servery.terms.experiments import Experiment, Look, Looked, Stage

_WIDE, _HIGH, _LEFT, _BELOW = 720.0, 220.0, 70.0, 24.0
_POINTS = 400  # of a picture: as many as one can see
_STYLE = """
:root { color-scheme: light dark; --line: #1f6feb; --band: #1f6feb33; --rule: #8888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { text-align: left; padding: .2rem .9rem .2rem 0; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } h2 { margin-top: 2.2rem; } small { opacity: .75; }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: currentColor; }
"""


def page(experiment: Experiment, looks: Sequence[Look]) -> str:
    """The whole page. Looks are drawn as they were had."""
    name = escape(experiment.name)
    body = "".join(_body(experiment, looks))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>{body}</body></html>\n'
    )


def _body(experiment: Experiment, looks: Sequence[Look]) -> Iterator[str]:
    design = experiment.design
    yield f"<h1>{escape(experiment.name)}</h1>\n"
    if design.why:
        yield f"<p>{escape(design.why)}</p>\n"
    yield f"<p><strong>{escape(_standing(experiment))}</strong></p>\n"
    shares = ", ".join(f"{arm.name} {arm.share:.3g}" for arm in design.arms)
    unit = design.unit
    who = "each request by itself" if unit is None else unit.header or unit.parameter
    yield (
        f"<p><small>Route {escape(design.route)}; arms {escape(shares)}; unit: {escape(who)}; begun {moment(experiment.began_ns)}; "
        f"false winners at most {design.false_winners:g} over all arms and looks; {len(looks)} looks.</small></p>\n"
    )
    if looks:
        yield _table(looks[-1])
    for arm in design.arms[1:]:
        for metric in (design.primary, *design.guardrails):
            yield from _drawn(arm.name, metric.called, design.min_units, looks)


def _standing(experiment: Experiment) -> str:
    if experiment.stage is not Stage.CONCLUDED or experiment.conclusion is None:
        return f"{experiment.stage.value} since {moment(experiment.since_ns)}"
    arm = f" {experiment.arm}" if experiment.arm else ""
    return f"Concluded {moment(experiment.since_ns)}: {experiment.conclusion.value}{arm}. {experiment.why}"


def _table(look: Look) -> str:
    head = "".join(
        f"<th>{name}</th>"
        for name in ("Arm", "Segment", "Metric", "Verdict", "Control", "Arm's", "Harm", "Bounds", "Units")
    )
    rows = "".join(
        f"<tr><td>{escape(one.arm)}</td><td>{escape(one.segment or 'all')}</td><td>{escape(one.metric)}{'' if one.primary else ' (guardrail)'}</td><td>{one.verdict.value}</td>"
        f'<td class="n">{one.control:.4g}</td><td class="n">{one.value:.4g}</td><td class="n">{one.harm:+.4g}</td>'
        f'<td class="n">{one.low:.4g} to {one.high:.4g}</td><td class="n">{one.units:,}</td></tr>\n'
        for one in look.looks
    )
    return f"<table><tr>{head}</tr>\n{rows}</table>\n"


def _drawn(arm: str, metric: str, least: int, looks: Sequence[Look]) -> Iterator[str]:
    """The harm of one metric over time, from where anything could be said of it."""
    points = [
        (look.at_ns, one)
        for look in looks
        for one in look.looks
        if (one.arm, one.metric, one.segment) == (arm, metric, "")
        and (one.units >= least or (one.low, one.high) != (-1, 1))
    ]
    yield f"<h2>{escape(arm)}: {escape(metric)}</h2>\n"
    if not points:
        yield f"<p>Nothing can be said below {least:,} units.</p>\n"
        return
    yield f"<p>{escape(points[-1][1].said)}</p>\n"
    step = max(len(points) // _POINTS, 1)
    yield _picture([*points[:-1:step], points[-1]])


def _picture(points: Sequence[tuple[int, Looked]]) -> str:
    margin = points[-1][1].margin
    # The first looks are so wide that the last ones would be a line: the later half decides what is seen.
    later = [one for _, one in points[len(points) // 2 :]]
    low = min(-margin, *(one.low for one in later)) * 1.1
    high = max(margin, *(one.high for one in later)) * 1.1
    first, last = points[0][0], points[-1][0]

    def x(at_ns: int) -> float:
        return _LEFT + (_WIDE - _LEFT) * ((at_ns - first) / (last - first) if last > first else 1.0)

    def y(harm: float) -> float:
        return (_HIGH - _BELOW) * (high - min(max(harm, low), high)) / (high - low)

    upper = [f"{x(at):.1f},{y(one.high):.1f}" for at, one in points]
    lower = [f"{x(at):.1f},{y(one.low):.1f}" for at, one in reversed(points)]
    middle = " ".join(f"{x(at):.1f},{y(one.harm):.1f}" for at, one in points)
    rules = "".join(
        f'<line x1="{_LEFT}" x2="{_WIDE}" y1="{y(at):.1f}" y2="{y(at):.1f}" stroke="var(--rule)"{dash}/>'
        f'<text x="{_LEFT - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{at:.3g}</text>'
        for at, dash in ((0.0, ""), (margin, ' stroke-dasharray="4 4"'), (-margin, ' stroke-dasharray="4 4"'))
    )
    return (
        f'<svg viewBox="0 0 {_WIDE:g} {_HIGH:g}" role="img" aria-label="bounds of the harm over time">{rules}'
        f'<polygon points="{" ".join(upper + lower)}" fill="var(--band)"/>'
        f'<polyline points="{middle}" fill="none" stroke="var(--line)" stroke-width="1.5"/>'
        f'<text x="{_LEFT}" y="{_HIGH - 6}">{moment(first)}</text>'
        f'<text x="{_WIDE}" y="{_HIGH - 6}" text-anchor="end">{moment(last)}</text></svg>\n'
        "<p><small>Harm above 0: the arm is worse. Dashed: the margin. The bounds hold at every look.</small></p>\n"
    )
