"""Heads, MLPs and neurons by name: ``L3H2``, ``MLP 4``, ``L3N17``, and where each one's write is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from caseback.errors import ArgumentError, CasebackError, OutOfRange
from caseback.model.graph.names import Name, parse_name
from caseback.model.running.model import Model


class Neuron(NamedTuple):
    """A neuron of a layer's MLP."""

    layer: int
    neuron: int


Component = tuple[int, int | None] | Neuron
"""A layer and a head in it, or None for its MLP; or a neuron."""

Components = str | Sequence[str | Component] | None
"""What ``components_of`` takes."""

GROUPS = ("heads", "mlps", "neurons")


def name_of(component: Component) -> str:
    """A component as people write it.

    Examples
    --------
    >>> name_of((3, 2)), name_of((4, None)), name_of(Neuron(3, 17))
    ('L3H2', 'MLP 4', 'L3N17')
    """
    layer, index = component
    if index is None:
        return str(Name("mlp", layer))
    return str(Name("neuron" if isinstance(component, Neuron) else "head", layer, index))


def site_of(component: Component) -> tuple[str, int]:
    """Where a component's write is cut: a head at its z, so that what its values' bias writes goes too."""
    if isinstance(component, Neuron):
        return "mlp_post", component.layer
    layer, head = component
    return ("mlp_out" if head is None else "z", layer)


def address_of(component: Component) -> dict[str, Any]:
    """A component as an edit addresses it."""
    site, layer = site_of(component)
    return {"site": site, "layer": layer, ("unit" if isinstance(component, Neuron) else "head"): component[1]}


def components_of(model: Model, wanted: Components, layers: Sequence[int] | None = None) -> list[Component]:
    """The components asked for, each checked against the model.

    Parameters
    ----------
    model
        The model.
    wanted
        One of the groups ``"heads"``, ``"mlps"`` and ``"neurons"``; a name; or a list of names, (layer, head) pairs
        (head None for the MLP) and ``Neuron``. None: heads and MLPs.
    layers
        The layers of a group; all by default.

    Raises
    ------
    CasebackError
        For a name that is not one of these, and for an empty list.
    OutOfRange
        For a layer, head or neuron that the model lacks.
    """
    inside = range(model.n_layers) if layers is None else [model.anatomy.layer(int(i)) for i in layers]
    if wanted is None or (isinstance(wanted, str) and wanted in GROUPS):
        components = [c for layer in inside for c in _in_layer(model, layer, wanted)]
    else:
        if layers is not None:
            raise CasebackError(f"layers={list(layers)} go with {', '.join(map(repr, GROUPS))} or None, not with names")
        components = [_checked(model, given) for given in ([wanted] if isinstance(wanted, str) else wanted)]
    if not components:
        raise CasebackError("no component given: the list is empty")
    return components


def _in_layer(model: Model, layer: int, group: str | None) -> Iterator[Component]:
    if group in (None, "heads"):
        yield from ((layer, head) for head in range(model.anatomy.layers[layer].dims.n_heads))
    if group in (None, "mlps"):
        yield layer, None
    if group == "neurons":
        yield from (Neuron(layer, i) for i in range(_n_neurons(model, layer)))


def _n_neurons(model: Model, layer: int) -> int:
    next(model.anatomy.sites(("mlp_post", layer)))  # says why there is none
    return model.weights.W_out[layer].shape[0]


def _checked(model: Model, given: str | Component) -> Component:
    component: Component = _parsed(given) if isinstance(given, str) else given
    layer, index = component
    if not 0 <= layer < model.n_layers:
        raise OutOfRange(f"{given!r}: this model has layers 0 to {model.n_layers - 1}")
    if index is not None:
        neuron = isinstance(component, Neuron)
        size = _n_neurons(model, layer) if neuron else model.anatomy.layers[layer].dims.n_heads
        if not 0 <= index < size:
            what = "neurons" if neuron else "heads"
            raise OutOfRange(f"{given!r}: layer {layer} of this model has {what} 0 to {size - 1}")
    return component


def _parsed(text: str) -> Component:
    try:
        name = parse_name(text)
    except CasebackError:
        name = Name("")
    if name.pos or name.kind not in ("head", "mlp", "neuron"):
        raise CasebackError(
            f"component {text!r} is unknown: expected {', '.join(map(repr, GROUPS))}, a head such as 'L3H2' or 'MLP 4' "
            "or a neuron such as 'L3N17'"
        )
    if name.kind == "neuron":
        return Neuron(name.layer, name.index)
    return name.layer, None if name.kind == "mlp" else name.index


def head_named(model: Model, name: Any) -> tuple[int, int]:
    """The layer and the number of a head of the model, by its name.

    Raises
    ------
    ArgumentError
        For what names no head of this model.
    """
    node = parse_name(name) if isinstance(name, str) else Name("")
    known = node.kind == "head" and not node.pos and 0 <= node.layer < model.n_layers
    if not known or node.index >= model.anatomy.layers[node.layer].dims.n_heads:
        raise ArgumentError(f"{name!r} is no head of this model: expected such as 'L0H0'")
    return node.layer, node.index
