"""What each runtime has to be told, and what it has no use for."""

from __future__ import annotations

from collections.abc import Iterator

from servery.control.places import Places, at
from servery.terms.change import Problem
from servery.terms.manifest import DeclaredTensor, Model
from servery.terms.placement import declared_apart

# By key: what may be written there, and the runtimes that can't do without it.
_KEYS = {
    "class": ("class: MyModel", {"python"}),
    "device": ("device: cuda", set[str]()),
    "trusted": ("trusted: [sklearn.tree._tree.Tree]", set[str]()),
    "inputs": ("inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]", {"python"}),
    "outputs": ("outputs: [{name: y, datatype: FP32, shape: [-1]}]", {"python"}),
}
_USES = {
    "onnx": frozenset({"device"}),
    "python": frozenset({"class", "inputs", "outputs"}),
    "sklearn": frozenset({"inputs", "outputs", "trusted"}),
}


def check_needs(name: str, model: Model, places: Places) -> Iterator[Problem]:
    """What is missing for the Model's runtime, what does nothing there, and tensors that can't be told apart."""
    where = at("models", name)
    written = {
        "class": bool(model.entry),
        "device": model.device != "cpu",
        "inputs": bool(model.inputs),
        "outputs": bool(model.outputs),
        "trusted": bool(model.trusted),
    }
    for key, (example, needed) in _KEYS.items():
        if not written[key] and model.runtime in needed:
            message = f"a model of the runtime `{model.runtime}` doesn't say its `{key}` by itself"
            yield places.problem(where, message, f"add for instance `{example}`")
        elif written[key] and key not in _USES[model.runtime]:
            others = ", ".join(f"`{runtime}`" for runtime, uses in _USES.items() if key in uses)
            message = f"`{key}` does nothing for the runtime `{model.runtime}`"
            yield places.problem(at(where, key), message, f"remove it; it is for {others}")
    if model.memory_mb is not None and not declared_apart(model):
        message = "`memory_mb` bounds a Replica, but this model runs in the workers"
        yield places.problem(at(where, "memory_mb"), message, "remove it, or write `isolation: dedicated`")
    yield from _twice(model.inputs, at(where, "inputs"), places)
    yield from _twice(model.outputs, at(where, "outputs"), places)


def _twice(tensors: tuple[DeclaredTensor, ...], where: str, places: Places) -> Iterator[Problem]:
    names: set[str] = set()
    for index, tensor in enumerate(tensors):
        if tensor.name in names:
            yield places.problem(at(where, index, "name"), f"two of them are called {tensor.name!r}", "rename one")
        names.add(tensor.name)
