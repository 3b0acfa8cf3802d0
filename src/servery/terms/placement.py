"""In process or in a Replica? Pure."""

from __future__ import annotations

import enum

from servery.terms.manifest import Model


class Placement(enum.Enum):
    """Where a Version runs: in every worker, or in processes of its own that all workers call."""

    IN_PROCESS = "in process"
    REPLICAS = "replicas"


def placement_of(model: Model) -> Placement:
    """Replicas where the declaration asks for them, for whatever may run a user's code, and on a GPU."""
    if model.isolation == "dedicated" or model.replicas is not None or model.runtime != "onnx" or model.device != "cpu":
        return Placement.REPLICAS
    return Placement.IN_PROCESS


def replicas_of(model: Model) -> int:
    """How many copies of each Version run in processes of their own."""
    return (model.replicas or 1) if placement_of(model) is Placement.REPLICAS else 0
