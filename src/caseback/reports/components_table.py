"""The direct logit attribution of an explanation as one list: component names and values, largest first.

The values of all components, biases included, sum to ``components["total"]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.model.graph.names import Name, head_name

__all__ = ["named_components", "ranked_components"]


def named_components(components: Mapping[str, Any]) -> dict[str, float]:
    """Every component's direct attribution by name, in computation order.

    Parameters
    ----------
    components
        The ``components`` part of an explanation document.

    Returns
    -------
    dict
        ``embed``, ``pos_embed`` where the model has one, then for every layer its heads (``L3H2``), its
        attention bias (``attn bias 3``, where it is not zero) and its MLP (``MLP 3``), and ``bias`` last.

    Examples
    --------
    >>> parts = {"embed": 3.0, "pos_embed": None, "head": [[1.0, -2.0]], "attn_bias": [0.0], "mlp": [0.5]}
    >>> parts["bias"] = 0.1
    >>> named_components(parts)
    {'embed': 3.0, 'L0H0': 1.0, 'L0H1': -2.0, 'MLP 0': 0.5, 'bias': 0.1}
    """
    named = {"embed": components["embed"]}
    if components["pos_embed"] is not None:
        named["pos_embed"] = components["pos_embed"]
    layers = zip(components["head"], components["attn_bias"], components["mlp"], strict=True)
    for layer, (heads, attn_bias, mlp) in enumerate(layers):
        named.update({head_name(layer, head): value for head, value in enumerate(heads)})
        if attn_bias:
            named[f"attn bias {layer}"] = attn_bias
        named[str(Name("mlp", layer))] = mlp
    named["bias"] = components["bias"]
    return named


def ranked_components(components: Mapping[str, Any]) -> list[tuple[str, float]]:
    """``named_components`` with the largest absolute value first; equal ones in computation order.

    Examples
    --------
    >>> parts = {"embed": 3.0, "pos_embed": None, "head": [[1.0, -2.0]], "attn_bias": [0.0], "mlp": [0.5]}
    >>> parts["bias"] = 0.1
    >>> ranked_components(parts)[:2]
    [('embed', 3.0), ('L0H1', -2.0)]
    """
    return sorted(named_components(components).items(), key=lambda item: -abs(item[1]))
