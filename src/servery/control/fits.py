"""Do the tensors fit? What a Model declares against its signature, and the tiers of a Route against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from servery.control.places import Places, at, did_you_mean
from servery.terms.change import Problem, Served
from servery.terms.manifest import Confidence, Model
from servery.terms.routes import Route
from servery.terms.tensors import Signature, TensorSpec

_FLOATS = ("FP16", "FP32", "FP64")


def check_model(name: str, model: Model, signature: Signature, places: Places) -> Iterator[Problem]:
    """What of a Model's declaration its artifact can't keep."""
    where = at("models", name)
    yield from _rows(signature, at(where, "inputs" if model.inputs else "artifact"), places)
    if model.confidence is not None:
        here = at(where, "confidence", "output")
        spec = signature.output(model.confidence.output)
        if spec is None:
            yield _no_output(model.confidence.output, signature, here, places)
        else:
            yield from _confidence(model.confidence, spec, here, places)
    if model.prediction is not None:
        here = at(where, "prediction", "output")
        spec = signature.output(model.prediction.output)
        if spec is None:
            yield _no_output(model.prediction.output, signature, here, places)
        elif not spec.shape or any(size not in (1, -1) for size in spec.shape[1:]):
            message = f"a prediction has one element per row, but {_words(spec)} has not"
            yield places.problem(here, message, f"name an output of shape [rows] or [rows, 1]; {_outputs(signature)}")


def check_tiers(route: Route, models: Mapping[str, Served], where: str, places: Places) -> Iterator[Problem]:
    """Whether every tier can answer what the others can: a caller of the Route must not see which one did."""
    known = [
        (index, tier.name, signature)
        for index, tier in enumerate(route.tiers)
        if tier.model in models
        and (version := models[tier.model].named(tier.version)) is not None
        and (signature := version.signature) is not None
    ]
    for index, name, signature in known:
        if route.policy.kind == "cascade" and len(route.tiers) > 1 and not signature.has_rows:
            message = (
                f"a cascade goes row by row, but the model of {name!r} doesn't count them: {_list(signature.inputs)}"
            )
            yield places.problem(
                at(where, "tiers", index, "model"), message, "use a model with inputs of shape [rows, …]"
            )
    if len(known) < 2:
        return
    _, first_name, first = known[0]
    for index, name, signature in known[1:]:
        here = at(where, "tiers", index, "model")
        pair = f"the tiers {first_name!r} and {name!r}"
        for difference in _differences(first, signature):
            yield places.problem(
                here, f"{pair} of one route take different inputs: {difference}", "use models that take the same inputs"
            )
        if route.policy.kind == "cascade":
            for spec in signature.inputs:
                if signature.one_row and not first.one_row:
                    message = f"the tier {name!r} of a cascade gets a part of the rows, but its model takes exactly {spec.shape[0]}: {_words(spec)}"
                    yield places.problem(here, message, "export the model with a free first dimension")
        if not any(_same(spec, signature.output(spec.name)) for spec in first.outputs):
            message = (
                f"{pair} of one route have no output in common: {_list(first.outputs)}, and {_list(signature.outputs)}"
            )
            yield places.problem(here, message, "export the models with an output of the same name, datatype and shape")


def _rows(signature: Signature, where: str, places: Places) -> Iterator[Problem]:
    """Rows are counted along the free first dimension of the inputs, which must agree about it.

    A single value is shared by all rows. Where no input has a free first dimension, a call is one row.
    """
    if not signature.inputs:
        yield places.problem(where, "the model has no input, so there are no rows to ask for", "export it with one")
        return
    sizes = {spec.shape[0] for spec in signature.inputs if spec.shape}
    if len(sizes) > 1 and -1 in sizes:
        message = f"the inputs disagree about the number of rows: {_list(signature.inputs)}"
        fix = "give the model a free first dimension for every input, or the shape [] where all rows share one value"
        yield places.problem(where, message, fix)


def _confidence(declared: Confidence, spec: TensorSpec, where: str, places: Places) -> Iterator[Problem]:
    if spec.datatype not in _FLOATS:
        message = f"a confidence is a floating-point number, but {_words(spec)} is not"
        yield places.problem(where, message, f"name an output of datatype {', '.join(_FLOATS)}")
    several = declared.softmax or declared.source == "margin"
    classes = spec.shape[1] if len(spec.shape) == 2 else None
    if several:
        wants = "`softmax: true`" if declared.softmax else "`from: margin`"
        if classes is None or classes == 1:
            message = f"{wants} needs an output of shape [rows, classes] with 2 classes or more, not {_words(spec)}"
            yield places.problem(
                where, message, "name the output with all classes, or write `from: max` without a softmax"
            )
    elif len(spec.shape) not in (1, 2):
        message = f"a confidence comes from an output of shape [rows, classes], [rows] or [rows, 1], not {_words(spec)}"
        yield places.problem(where, message, "name another output, or export the model with one")


def _no_output(name: str, signature: Signature, where: str, places: Places) -> Problem:
    guess = did_you_mean(name, [spec.name for spec in signature.outputs])
    fix = (f"did you mean `{guess}`? " if guess else "") + _outputs(signature)
    return places.problem(where, f"the artifact has no output {name!r}", fix)


def _differences(one: Signature, other: Signature) -> Iterator[str]:
    for spec in one.inputs:
        if (twin := other.input(spec.name)) is None:
            yield f"only the first takes {_words(spec)}"
        elif not _same(spec, twin):
            yield f"{_words(spec)} against {_words(twin)}"
    for spec in other.inputs:
        if one.input(spec.name) is None:
            yield f"only the second takes {_words(spec)}"


def _same(one: TensorSpec, other: TensorSpec | None) -> bool:
    """Whether a tensor can be both: same name, datatype and number of dimensions, and sizes that are equal or free."""
    return (
        other is not None
        and one.name == other.name
        and one.datatype == other.datatype
        and len(one.shape) == len(other.shape)
        and all(a == b or -1 in (a, b) for a, b in zip(one.shape, other.shape, strict=True))
    )


def _outputs(signature: Signature) -> str:
    return f"the outputs are {_list(signature.outputs)}"


def _list(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(_words(spec) for spec in specs)


def _words(spec: TensorSpec) -> str:
    sizes = ["any" if size == -1 else str(size) for size in spec.shape]
    if spec.shape and spec.shape[0] == -1:
        sizes[0] = "rows"
    return f"`{spec.name}` {spec.datatype} [{', '.join(sizes)}]"
