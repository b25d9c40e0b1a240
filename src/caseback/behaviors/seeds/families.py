"""Families among universal neurons: by letter, by token before, by token, place, syntax or topic (5.2.16).

    excess = mean excess of the family's neurons, see ``universality``      rest = of like neurons without its label
    both   = share of them whose nearest neuron in the other model has the family's label as well
    chance = the same of any neuron of the layers in which these nearest ones are

A neuron is of a family where it has the label of one of its kinds in an atlas: the test explains its variance on
documents that it was not chosen on, beyond what it explains of permuted marks. Like neurons are those of its layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set

import numpy as np
import xarray as xr

from caseback.behaviors.atlas import Atlas
from caseback.behaviors.labelled import CLASSES
from caseback.behaviors.neurons.families import NAMES
from caseback.behaviors.seeds.universality import UNIVERSAL
from caseback.errors import CasebackError
from caseback.model.graph.names import parse_name
from caseback.model.registry import technique
from caseback.model.results import labelled

FAMILIES: dict[str, tuple[str, ...]] = {
    "alphabet": ("alphabet",),
    "form of the token": tuple(NAMES.values()),
    "previous token": tuple(f"after {name}" for name in NAMES.values()),
    "unigram": ("token",),
    "position": ("position",),
    "syntax": ("part of speech", "grammatical number", "grammatical tense"),
    "semantic": tuple(CLASSES),
}
"""The kinds of neurons of the atlas that make each family."""


@technique(entry=("5.2.16",), citation="Gurnee et al. 2024", cost="of two atlases that are there: none")
def universal_families(matched: xr.Dataset, own: Atlas, others: Atlas) -> xr.Dataset:
    """Which families universal neurons are of, and whether a neuron and its match are of the same.

    Parameters
    ----------
    matched
        What ``universality`` gave of two models' neurons.
    own, others
        Atlases of the first model and of the other, of the kinds of ``FAMILIES`` as far as the text allows.

    Returns
    -------
    xr.Dataset
        By ``group``, the families that both atlases looked for: ``n`` neurons with the label and ``n_universal`` of
        them that are universal, ``excess`` beside ``rest``, ``both`` beside ``chance``; NaN where there are none. The
        attribute ``missing`` names the other families.

    Raises
    ------
    CasebackError
        For matches of heads, atlases of other models than these, and atlases without kinds of any family.

    References
    ----------
    Gurnee et al. 2024, "Universal neurons in GPT2 language models".

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.behaviors import atlas, universality
    >>> model = cb.load("meadow")
    >>> texts = ["Mary gave a drink to John in the park.", "the cat is on the table, and the dog ran."] * 40
    >>> own = atlas(model, texts, kinds=["word start", "position"], proofs=False)
    >>> families = universal_families(universality(model, model, texts), own, own)
    >>> families.group.values.tolist(), families.attrs["missing"]
    (['form of the token', 'position'], 'alphabet, previous token, unigram, syntax, semantic')
    """
    if matched.attrs.get("units") != "neuron":
        raise CasebackError("matches of heads: families are of neurons; give universality(..., units='neuron')")
    names = [str(name) for name in matched.component.values]
    for which, atlas, name in (("first", own, matched.correlation.attrs["model"]), ("other", others, matched.other)):
        if atlas.about.get("model") != name:
            raise CasebackError(f"the atlas of the {which} model is of {atlas.about.get('model')!r}, not of {name!r}")
    excess = np.asarray(matched.excess.values, dtype=float)
    nearest = [str(name) for name in matched.nearest.values]
    layers = np.array([parse_name(name).layer for name in names])
    there = {
        family: kinds for family, kinds in FAMILIES.items() if _looked_for(own, kinds) & _looked_for(others, kinds)
    }
    if not there:
        why = next((report.missing for report in (*own.kinds, *others.kinds) if report.missing), "none of their kinds")
        raise CasebackError(f"no family was looked for in both atlases ({why}): give a longer text, or other kinds")
    columns: dict[str, list[float]] = {n: [] for n in ("n", "n_universal", "excess", "rest", "both", "chance")}
    for kinds in there.values():
        of_own, of_other = _with_label(own, kinds), _with_label(others, kinds)
        has = np.array([name in of_own for name in names])
        both = np.array([name in of_other for name in nearest])
        columns["n"].append(int(has.sum()))
        columns["n_universal"].append(int((excess[has] > UNIVERSAL).sum()))
        columns["excess"].append(_mean(excess[has]))
        columns["rest"].append(_rest(excess, has, layers))
        columns["both"].append(_mean(both[has]))
        columns["chance"].append(_by_chance([nearest[i] for i in np.flatnonzero(has)], of_other, others))
    about = {"other": matched.attrs["other"], "missing": ", ".join(f for f in FAMILIES if f not in there)}
    coords, model = {"group": list(there)}, matched.correlation.attrs["model"]
    return xr.Dataset(
        {
            name: labelled(values, ["group"], coords, technique=universal_families, of=model, **about)
            for name, values in columns.items()
        },
        attrs=about,
    )


def _looked_for(atlas: Atlas, kinds: tuple[str, ...]) -> bool:
    return any(report.kind in kinds and not report.missing for report in atlas.kinds)


def _with_label(atlas: Atlas, kinds: tuple[str, ...]) -> Set[str]:
    return {name for name, own in atlas.labels().items() if not set(own).isdisjoint(kinds)}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _rest(excess: np.ndarray, has: np.ndarray, layers: np.ndarray) -> float:
    """The mean excess of neurons without the label, layers weighted as those with it lie in them."""
    like, weights = [], []
    for layer, many in Counter(layers[has].tolist()).items():
        others = excess[(layers == layer) & ~has]
        if len(others):
            like.append(float(others.mean()))
            weights.append(many)
    return float(np.average(like, weights=weights)) if like else float("nan")


def _by_chance(nearest: list[str], of_other: Set[str], others: Atlas) -> float:
    """How many of the neurons of the layers of these have the label, layers weighted as these lie in them."""
    units = next(frame.unit for frame in others.scores.values() if parse_name(str(frame.unit.iloc[0])).kind == "neuron")
    sizes = Counter(parse_name(name).layer for name in units)
    labels = Counter(parse_name(name).layer for name in of_other)
    return _mean(np.array([labels[layer] / sizes[layer] for layer in (parse_name(name).layer for name in nearest)]))
