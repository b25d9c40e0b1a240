"""Causal mediation: how much of what a change of the prompt does goes through a component (PRIMER 3.2.14).

    total     TE     = m(x~) - m(x)
    direct    NDE(c) = m(x~ | do(c = c(x))) - m(x)     what is left when c stays as it was
    indirect  NIE(c) = m(x | do(c = c(x~))) - m(x)     what c alone brings about

Always TE = NDE - NIE of the reverse change (from x~ to x); in a linear model NIE and its reverse are opposite, so that
TE = NDE + NIE. What is between the two is the ``interaction`` of c with everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.model.graph.units import Component, Components, address_of, components_of, name_of, site_of
from caseback.model.prompts.pairs import pairs
from caseback.model.prompts.places import Place, addresses, placed
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit, Resample
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike


@technique(
    role="component effect",
    entry=("3.2.14",),
    citation="Pearl 2001, Vig et al. 2020",
    cost="two sweeps: components x (the forward pass from there on)",
)
def mediate(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike,
    metric: Metric,
    *,
    components: Components | Mapping[str, Components] = None,
    layers: Sequence[int] | None = None,
    pos: Place = None,
    progress: bool = False,
) -> xr.Dataset:
    """Total effect of a change of the prompt, and each component's natural direct and indirect effect.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts x and their counterfactuals x~, token-aligned, one or one per prompt: ``Tokens``, or anything that
        ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It is measured on both prompts of a pair.
    components
        The mediators: as for ``ablate``, or a mapping from names to lists of components that mediate together. None:
        all heads and MLPs, each by itself.
    layers
        The layers of a group of components, as for ``ablate``.
    pos
        The positions at which they mediate; everywhere by default.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``direct``, ``indirect``, ``reverse`` (the indirect effect of the change from corrupt to clean) and
        ``interaction`` = total - direct - indirect, each (component, batch); ``total`` (batch). Beside them the
        metrics ``clean`` and ``corrupt``.

    Raises
    ------
    TokensError
        Where clean and corrupt are not aligned.
    OutOfRange, CasebackError
        For a component that the model lacks, an unknown one, or none.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair = "Mary gave the ball to", "John gave the ball to"
    >>> effects = mediate(model, *pair, cb.logit_diff(" Mary", " John"), components="mlps", layers=[0, 1])
    >>> bool(np.allclose(effects.total, effects.direct - effects.reverse, atol=1e-4))
    True
    """
    clean, corrupt = pairs(model, clean, corrupt)
    groups = _groups(model, components, layers)
    sites = sorted({site_of(c) for group in groups.values() for c in group})
    where = addresses(placed(pos, clean)) if isinstance(pos, str) else [pos]

    def variants(source: Run) -> list[list[Edit]]:
        return [
            [Resample(source=source, pos=p, **address_of(c)) for c in group for p in where] for group in groups.values()
        ]

    of_clean, of_corrupt = (model.run(tokens, read=sites) for tokens in (clean, corrupt))
    names = list(groups)
    into_clean = model.sweep(clean, variants(of_corrupt), metric, labels=names, progress=progress)
    into_corrupt = model.sweep(corrupt, variants(of_clean), metric, labels=names, progress=progress)
    m_clean, m_corrupt = into_clean["clean"].values, into_corrupt["clean"].values
    total = m_corrupt - m_clean
    direct, indirect = into_corrupt.values - m_clean, into_clean.values - m_clean
    coords = {"component": names, "clean": ("batch", m_clean), "corrupt": ("batch", m_corrupt)}
    of_components = {
        "direct": direct,
        "indirect": indirect,
        "reverse": into_corrupt.values - m_corrupt,
        "interaction": total - direct - indirect,
    }
    attrs = {
        "technique": mediate,
        "model": model,
        "metric": metric.name,
        "target": metric.target,
        "foil": metric.foil,
        "groups": {name: [name_of(c) for c in group] for name, group in groups.items()}
        if isinstance(components, Mapping)
        else None,
    }
    arrays = {
        name: labelled(np.asarray(value), ["component", "batch"], coords, name=name, **attrs)
        for name, value in of_components.items()
    }
    arrays["total"] = labelled(
        total, ["batch"], {k: v for k, v in coords.items() if k != "component"}, name="total", **attrs
    )
    return xr.Dataset(arrays, attrs=arrays["total"].attrs)


def _groups(
    model: Model, components: Components | Mapping[str, Components], layers: Sequence[int] | None
) -> dict[str, list[Component]]:
    if not isinstance(components, Mapping):
        return {name_of(c): [c] for c in components_of(model, components, layers)}
    if not components:
        raise CasebackError("no component given: the mapping is empty")
    return {str(name): components_of(model, group) for name, group in components.items()}
