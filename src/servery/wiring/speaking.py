"""How a language model is asked, by whichever process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from servery.host.clock import Clock, Dice
from servery.terms.change import Version
from servery.terms.manifest import Model
from servery.terms.placement import asked_at

if TYPE_CHECKING:
    from servery.targets.heuristic import HeuristicTarget
    from servery.targets.language import LanguageTarget


def text_target(model: Model, version: Version, clock: Clock, dice: Dice) -> LanguageTarget | HeuristicTarget:
    """How a language model is asked."""
    from servery.targets.endpoints import Endpoint
    from servery.targets.heuristic import HeuristicTarget
    from servery.targets.language import LanguageTarget

    if model.runtime == "heuristic":
        return HeuristicTarget(model, version, clock, dice)
    endpoints = [Endpoint(url, os.environ.get(name, "") if name else "") for url, name in asked_at(model)]
    return LanguageTarget(model, version, endpoints, clock, dice)


def secrets_of(model: Model) -> tuple[str, ...]:
    """What its endpoints are told, and nobody else may be."""
    found = {os.environ.get(name, "") for _, name in asked_at(model) if name}
    return tuple(secret for secret in found if secret)
