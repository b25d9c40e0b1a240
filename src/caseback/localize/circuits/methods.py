"""Methods of circuit discovery by name, called in one way (PRIMER 3.2.22 to 3.2.28).

``METHODS`` names the published ones with their settings. Every other technique with the role ``"circuit finder"`` is
found by its own name, with hyphens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xarray as xr

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.localize.circuits.edge_attribution import edge_attribution
from caseback.localize.circuits.edge_patching import patch_edges
from caseback.localize.circuits.edge_removal import acdc
from caseback.localize.circuits.information_flow import flow_attribution
from caseback.localize.circuits.selecting import count_of, select
from caseback.model.arguments import checked
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from caseback.model.registry import with_role
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

_SIZES = ("edges", "count", "n_edges")
_SEARCHES = 7


@dataclass(frozen=True)
class Method:
    """A way to find a circuit.

    Attributes
    ----------
    name
        By which the command line calls it.
    function
        The technique.
    settings
        What the name stands for beyond the function's defaults.
    """

    name: str
    function: Callable[..., Any]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def takes(self) -> set[str]:
        """The options that it has."""
        return set(inspect.signature(self.function).parameters)

    @property
    def about(self) -> str:
        """What it does, in a sentence."""
        return " ".join((self.function.__doc__ or "").strip().split("\n\n")[0].split())


def _flow(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    *,
    inputs: tuple[str, ...] = ("embed",),
    progress: bool = False,
) -> xr.DataArray:
    """Score every edge by how much of what its reader reads was written by its writer, on the clean prompts alone."""
    return flow_attribution(model, clean, inputs=inputs, progress=progress)


METHODS = {
    method.name: method
    for method in (
        Method("eap", edge_attribution),
        Method("eap-ig", edge_attribution, {"steps": 5}),
        Method("eap-ig-activations", edge_attribution, {"steps": 5, "along": "activations"}),
        Method("eap-ends", edge_attribution, {"along": "ends"}),
        Method("exact", patch_edges),
        Method("acdc", acdc),
        Method("flow", _flow),
    )
}


def methods() -> dict[str, Method]:
    """All methods there are, by name.

    Examples
    --------
    >>> {"eap", "eap-ig", "exact", "acdc", "flow"} <= set(methods())
    True
    """
    known = {method.function for method in METHODS.values()}
    listed = dict(METHODS)
    for technique in with_role("circuit finder", "caseback.localize.circuits"):
        name = technique.function.__name__.replace("_", "-")
        if technique.function not in known:
            listed.setdefault(name, Method(name, technique.function))
    return listed


@checked
def find_circuit(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    *,
    method: str = "eap-ig",
    edges: int | float | None = None,
    threshold: float | None = None,
    how: str = "top",
    absolute: bool = True,
    ablation: str = "resample",
    inputs: tuple[str, ...] = ("embed",),
    positions: Mapping[str, Any] | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Circuit:
    """Find a circuit by any method.

    Parameters
    ----------
    model, clean, corrupt, metric
        As for ``run_circuit``.
    method
        One of ``methods()``.
    edges
        How many edges: a number, or a share between 0 and 1. For methods that score edges the best are taken, by
        default a tenth; ACDC without a threshold is run at several until the circuit has at most so many.
    threshold
        ACDC's, or that of another method that has one.
    how, absolute
        As for ``select``.
    ablation, inputs, progress, checkpoint
        Passed on where the method has them. Gradients are taken towards the counterfactual or, for ``eap`` alone,
        towards zero.
    positions
        Find edges at places: a name for every token, as ``span_schema`` gives. An edge counts once a place.
    **options
        Of the method itself.

    Returns
    -------
    Circuit
        With ``about`` saying how it was found; scores of all edges where the method gives them.

    Raises
    ------
    OutOfRange
        For no edges, or more than there are.
    CasebackError
        For an unknown method or option, an ablation that the method does not have, and whatever the method refuses.

    Examples
    --------
    >>> import caseback as cb
    >>> pair = "Mary gave the ball to", "John gave the ball to"
    >>> circuit = find_circuit(cb.load("meadow"), *pair, cb.logit_diff(" Mary", " John"), method="eap", edges=80)
    >>> 0 < len(circuit) <= 80, circuit.about["method"], circuit.about["found_by"]
    (True, 'edge_attribution', 'eap')
    """
    known = methods()
    if method not in known:
        raise CasebackError(f"no method is called {method!r}. {did_you_mean(method, known)}")
    chosen, graph = known[method], Graph.of(model.anatomy, inputs)
    count = None if edges is None else count_of(graph, edges, len(graph.edges) * len(positions or [0]))
    unknown = sorted(set(options) - chosen.takes)
    if unknown:
        raise CasebackError(f"{method} has no option {unknown[0]!r}. {did_you_mean(unknown[0], chosen.takes)}")
    given: dict[str, Any] = {"progress": progress, "inputs": inputs, "checkpoint": checkpoint}
    if "ablation" in chosen.takes:
        given["ablation"] = ablation
    elif ablation == "zero" and chosen.function is edge_attribution and not chosen.settings:
        corrupt = None
    elif ablation != "resample":
        raise CasebackError(f"{method} cuts edges to the counterfactual: it has no ablation {ablation!r}")
    given |= {name: count for name in _SIZES if count is not None}
    if threshold is not None:
        given["threshold"] = threshold
    settings = chosen.settings | {name: value for name, value in given.items() if name in chosen.takes} | options
    if positions is not None:
        settings["positions"] = positions
        chosen = placing_method(method)
    if threshold is not None and "threshold" not in chosen.takes:
        raise CasebackError(f"{method} has no threshold: ask for a number of edges")
    if chosen.function is acdc and threshold is None:
        result = _acdc_of_size(model, clean, corrupt, metric, count or count_of(graph, 0.1), settings)
    else:
        if "threshold" in chosen.takes and threshold is None and _is_needed(chosen, "threshold"):
            raise CasebackError(f"{method} needs a threshold")
        result = chosen.function(model, clean, corrupt, metric, **settings)
    if isinstance(result, xr.DataArray):
        result = select(graph, result, 0.1 if count is None else count, how=how, absolute=absolute)
    if not isinstance(result, Circuit):
        raise CasebackError(f"{method} gives {type(result).__name__}, neither edge scores nor a circuit")
    return replace(result, about={**result.about, "found_by": method, "metric": metric.name, "model": model.name})


def placing_method(name: str) -> Method:
    """A method that scores edges at places.

    Raises
    ------
    CasebackError
        For one that does not, or that there is not.
    """
    able = {method: one for method, one in methods().items() if "positions" in one.takes}
    if name not in able:
        raise CasebackError(f"{name} does not score edges at places: expected one of {', '.join(able)}")
    return able[name]


def _is_needed(method: Method, name: str) -> bool:
    return inspect.signature(method.function).parameters[name].default is inspect.Parameter.empty


def _acdc_of_size(
    model: Model, clean: PromptsLike, corrupt: PromptsLike | None, metric: Metric, count: int, settings: dict[str, Any]
) -> Circuit:
    """The largest circuit of at most ``count`` edges among searches at several thresholds, halving their range."""
    low, high = 1e-5, 10.0
    best: Circuit | None = None
    for _ in range(_SEARCHES):
        middle = (low * high) ** 0.5
        options = {**settings, "threshold": middle, "checkpoint": _beside(settings.get("checkpoint"), middle)}
        circuit = acdc(model, clean, corrupt, metric, **options)
        if len(circuit) > count or not circuit.edges:
            low, high = (middle, high) if len(circuit) > count else (low, middle)
            continue
        best = circuit if best is None or len(circuit) > len(best) else best
        high = middle
        if len(circuit) >= 0.9 * count:
            break
    if best is None:
        raise OutOfRange(
            f"ACDC finds no circuit of 1 to {count} edges at {_SEARCHES} thresholds between 1e-5 and 10: ask for more "
            "edges, or give threshold="
        )
    return best


def _beside(checkpoint: str | Path | None, threshold: float) -> Path | None:
    """A checkpoint of its own for each threshold."""
    return None if checkpoint is None else Path(f"{checkpoint}.{threshold:.3g}")
