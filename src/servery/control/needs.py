"""What each runtime has to be told, and what it has no use for."""

from __future__ import annotations

from collections.abc import Iterator

from servery.control.places import Places, at
from servery.control.urls import is_url, wrong
from servery.terms.change import Problem
from servery.terms.manifest import DeclaredTensor, Model
from servery.terms.placement import RENTED, declared_apart, speaks

# By key: what may be written there, and the runtimes that can't do without it.
_KEYS = {
    "class": ("class: MyModel", {"python"}),
    "device": ("device: cuda", set[str]()),
    "trusted": ("trusted: [sklearn.tree._tree.Tree]", set[str]()),
    "inputs": ("inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]", {"python"}),
    "outputs": ("outputs: [{name: y, datatype: FP32, shape: [-1]}]", {"python"}),
    "endpoint": ("endpoint: https://llm.example.com/v1", set(RENTED)),
    "endpoints": ("", set[str]()),
    "replies": ("replies: [{pattern: opening hours, reply: We open at nine.}]", {"heuristic"}),
    "serves": ("", set[str]()),
    "credentials": ("", set[str]()),
    "context_window": ("", set[str]()),
    "lacks": ("", set[str]()),
    "first_token_ms": ("", set[str]()),
    "drop_unsupported": ("", set[str]()),
    "offers": ("", set[str]()),
}
_RENTED = frozenset(
    {
        "endpoint", "endpoints", "serves", "credentials", "context_window", "lacks", "first_token_ms",
        "drop_unsupported",
    }
)  # fmt: skip
_USES = {
    "onnx": frozenset({"device"}),
    "python": frozenset({"class", "inputs", "outputs"}),
    "sklearn": frozenset({"inputs", "outputs", "trusted"}),
    "openai": _RENTED | {"offers"},
    "anthropic": _RENTED,
    "heuristic": frozenset({"replies"}),
}
# What says how an artifact is kept and run: a language model has none.
_OF_ARTIFACTS = frozenset(
    {
        "artifact", "artifacts", "keep", "versions", "labels", "confidence", "prediction", "threads", "queue", "isolation",
        "replicas", "call_limit_s", "memory_mb", "health", "batch",
    }
)  # fmt: skip


def check_needs(name: str, model: Model, places: Places) -> Iterator[Problem]:
    """What is missing for the Model's runtime, what does nothing there, and tensors that can't be told apart."""
    where = at("models", name)
    written = _written(model)
    for key, (example, needed) in _KEYS.items():
        if not written[key] and model.runtime in needed and not (key == "endpoint" and written["endpoints"]):
            message = f"a model of the runtime `{model.runtime}` doesn't say its `{key}` by itself"
            yield places.problem(where, message, f"add for instance `{example}`")
        elif written[key] and key not in _USES[model.runtime]:
            others = ", ".join(f"`{runtime}`" for runtime, uses in _USES.items() if key in uses)
            message = f"`{key}` does nothing for the runtime `{model.runtime}`"
            yield places.problem(at(where, key), message, f"remove it; it is for {others}")
    if written["endpoint"] and written["endpoints"]:
        message = "`endpoint` and `endpoints` are both there"
        yield places.problem(at(where, "endpoint"), message, "write one of them")
    if speaks(model):
        for key in sorted(_OF_ARTIFACTS):
            if written[key]:
                message = f"`{key}` does nothing for a language model: it has no artifact"
                yield places.problem(at(where, key), message, "remove it")
    elif model.memory_mb is not None and not declared_apart(model):
        message = "`memory_mb` bounds a Replica, but this model runs in the workers"
        yield places.problem(at(where, "memory_mb"), message, "remove it, or write `isolation: dedicated`")
    yield from _urls(model, where, places)
    yield from _twice(model.inputs, at(where, "inputs"), places)
    yield from _twice(model.outputs, at(where, "outputs"), places)


def _urls(model: Model, where: str, places: Places) -> Iterator[Problem]:
    """What can't be right about URLs of artifacts."""
    listed = [(at(where, "artifacts", index, "artifact"), one.artifact) for index, one in enumerate(model.artifacts)]
    for here, artifact in ((at(where, "artifact"), model.artifact), *listed):
        message, fix = wrong(artifact) if is_url(artifact) else ("", "")
        if message:
            yield places.problem(here, message, fix)


def _written(model: Model) -> dict[str, bool]:
    """Which keys of the declaration differ from their default."""
    plain = Model(runtime=model.runtime)
    names = zip(Model.__struct_encode_fields__, Model.__struct_fields__, strict=True)
    return {key: getattr(model, name) != getattr(plain, name) for key, name in names}


def _twice(tensors: tuple[DeclaredTensor, ...], where: str, places: Places) -> Iterator[Problem]:
    names: set[str] = set()
    for index, tensor in enumerate(tensors):
        if tensor.name in names:
            yield places.problem(at(where, index, "name"), f"two of them are called {tensor.name!r}", "rename one")
        names.add(tensor.name)
