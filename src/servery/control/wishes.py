"""From a Wish and the Plan that it leads to, to the Intent that is carried out, or the Refusal: pure."""

from __future__ import annotations

from servery.control.plan import summary
from servery.terms.history import Held, Intent, Wish
from servery.terms.plan import Plan
from servery.terms.reasons import Reason, Refusal


def intent_of(wish: Wish, found: Plan, file: str, source: str, change: str) -> Intent:
    """What is carried out, as the change of this id, of the manifest at `file` that says `source`. Refusal."""
    if wish.mark and wish.mark != found.mark:
        message = (
            "this is another plan than the one that was shown, of what is declared or of what is served: plan again"
        )
        raise Refusal(Reason.CONFLICT, message)
    if found.held and not wish.retry:
        raise Refusal(Reason.CONFLICT, "; ".join(map(why_held, found.held)) + "; to try it again, say why with --retry")
    return Intent(
        change,
        "apply",
        wish.who,
        wish.why or wish.retry,
        file=file,
        source=source,
        returns_to=wish.revision,
        steps=summary(found),
        lifted=found.held,
        retry=wish.retry,
    )


def nothing_to_do(found: Plan) -> bool:
    """Whether what is declared is served already."""
    return not found.steps and not found.held


def why_held(held: Held) -> str:
    """In a sentence."""
    return f"version {held.digest[:12]} of {held.model!r} is held: {held.why} (by {held.who})"
