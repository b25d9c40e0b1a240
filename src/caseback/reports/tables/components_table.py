"""The components of an explanation as one list: what each writes directly, those that matter most first.

The direct attributions of all components, biases included, sum to ``components["total"]``. They leave out what a
component does through later ones, so where an ablation was measured, its effect says how much the component matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.model.arguments import checked
from caseback.model.graph.names import Name, head_name
from caseback.reports.document import drawn_from

__all__ = ["leading_method", "named_components", "ranked_components"]


@checked
@drawn_from("components", "explain")
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


@checked
@drawn_from("components", "explain")
def ranked_components(components: Mapping[str, Any], effects: Mapping[str, float]) -> list[tuple[str, float]]:
    """``named_components`` by the size of their measured effect; equal ones in computation order.

    Parameters
    ----------
    components
        The ``components`` part of an explanation document.
    effects
        What the metric lost without each component that was ablated; another one ranks by its direct attribution.

    Examples
    --------
    >>> parts = {"embed": 3.0, "pos_embed": None, "head": [[1.0, -2.0]], "attn_bias": [0.0], "mlp": [0.5]}
    >>> parts["bias"] = 0.1
    >>> ranked_components(parts, {"L0H0": 0.9, "L0H1": -0.2, "MLP 0": 7.0})[:3]
    [('MLP 0', 0.5), ('embed', 3.0), ('L0H0', 1.0)]
    """
    return sorted(named_components(components).items(), key=lambda item: -abs(effects.get(item[0], item[1])))


@checked
@drawn_from("inputs", "explain")
def leading_method(inputs: Mapping[str, Any]) -> int:
    """Which input method colors the prompt: the one whose highest tokens the metric needs most, as removal measured.

    Parameters
    ----------
    inputs
        The ``inputs`` part of an explanation document.

    Examples
    --------
    >>> leading_method({"comparison": {"comprehensiveness": [3.9, 8.8]}})
    1
    >>> leading_method({"comparison": None})
    0
    """
    compared = inputs.get("comparison")
    lost = [] if compared is None else compared["comprehensiveness"]
    return max(range(len(lost)), key=lambda i: lost[i], default=0)
