"""Gaussian optimal transport: the smallest change that gives one class the mean and the covariance of another.

    x <- m_t + A (x - m_s),      A = S^-1/2 (S^1/2 T S^1/2)^1/2 S^-1/2

with m_s, S the mean and covariance of the source and m_t, T those of the target; A S A = T. Among all maps that match
both moments it moves Gaussian states least in the mean square. Matching the mean alone is x <- x + m_t - m_s.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.directions.estimators import shrunk, singular
from caseback.decode.moments import ClassMoments
from caseback.decode.states import Place
from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.model.registry import technique
from caseback.model.running.affine import Affine
from caseback.model.running.edits import Add, Edit, Index
from caseback.model.running.frames import Positions


@technique(entry=("4.2.9",), citation="Singh et al. 2024b", cost="three eigendecompositions a place; no model is run")
def transport(
    moments: ClassMoments,
    *,
    source: Any = None,
    target: Any = None,
    covariance: bool = True,
    shrinkage: float = 0.0,
    pos: Positions = None,
    prompt: Index = None,
) -> list[Edit]:
    """Move states of one class to where another's are: mean and covariance (MiMiC), or the mean alone.

    Parameters
    ----------
    moments
        Of states by class, from ``class_moments(states, labels, each=True)``; for the mean alone without ``each``.
    source, target
        From which class to which; by default, of two, from the first to the second.
    covariance
        Whether covariances are matched, too.
    shrinkage
        Of both covariances towards their mean variance, 0 to 1. With fewer examples of a class than dimensions
        something above 0 is needed, 0.1 say; then the match is to the shrunk covariances.
    pos, prompt
        Where the edits act, as for every edit: on all positions of all prompts by default.

    Returns
    -------
    list[Edit]
        ``cb.Affine`` edits, or ``cb.Add`` for the mean alone, one at each place.

    Raises
    ------
    CasebackError
        For moments without places, or without products of each class; for an unknown class, or twice the same; and for
        a covariance that is singular without shrinkage.

    Notes
    -----
    Entry 4.2.9: Singh et al. 2024b. The map is affine: on a state that is far from both classes it extrapolates.

    Examples
    --------
    >>> from caseback.decode import Place, States, class_moments
    >>> x = torch.randn(1, 60, 3, generator=torch.Generator().manual_seed(0)).double()
    >>> x[:, 30:] = 2 * x[:, 30:] + 5
    >>> states = States(x, [Place("resid_post", 1)], torch.arange(60))
    >>> (edit,) = transport(class_moments(states, [0] * 30 + [1] * 30, each=True))
    >>> moved = x[0, :30] + (x[0, :30] - edit.center) @ edit.read.T + edit.offset
    >>> bool(torch.allclose(moved.T.cov(), x[0, 30:].T.cov()))
    True
    """
    if not all(isinstance(place, Place) for place in moments.places):
        raise CasebackError("these moments are of plain numbers, at no site: collect them from States, of read_states")
    if not 0 <= shrinkage <= 1:
        raise OutOfRange(f"shrinkage {shrinkage}: expected 0 to 1")
    start, end = _classes(moments, source, target)
    means = moments.means
    offset = means[:, end] - means[:, start]
    where = [{**place.address, "pos": pos, "prompt": prompt} for place in moments.places]
    if not covariance:
        return [Add(value=value, **at) for value, at in zip(offset, where, strict=True)]
    both = moments.class_covariances
    maps = transport_map(*(_regular(shrunk(both[:, c], shrinkage), moments, c) for c in (start, end)))
    identity = torch.eye(maps.shape[1]).to(maps)
    return [
        Affine(read=matrix - identity, center=center, offset=moved, **at)
        for matrix, center, moved, at in zip(maps, means[:, start], offset, where, strict=True)
    ]


def transport_map(
    source: Float[Tensor, "*place d d"], target: Float[Tensor, "*place d d"]
) -> Float[Tensor, "*place d d"]:
    """A, symmetric, with A S A = T.

    Examples
    --------
    >>> transport_map(4 * torch.eye(2)[None], 9 * torch.eye(2)[None])[0].diagonal().tolist()
    [1.5, 1.5]
    """
    root, inverse = _powers(source, 0.5), _powers(source, -0.5)
    return inverse @ _powers(root @ target @ root, 0.5) @ inverse


def _powers(matrix: Float[Tensor, "*place d d"], power: float) -> Float[Tensor, "*place d d"]:
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return (vectors * values.clamp_min(0).pow(power)[..., None, :]) @ vectors.mT


def _regular(covariance: Float[Tensor, "place d d"], moments: ClassMoments, c: int) -> Float[Tensor, "place d d"]:
    """A covariance that can be divided by."""
    flat = singular(covariance)
    if bool(flat.any()):
        place = moments.places[int(flat.nonzero()[0, 0])]
        raise CasebackError(
            f"the covariance of class {moments.classes[c]!r} at {place} is singular ({int(moments.counts[c])} examples "
            f"of width {covariance.shape[1]}): give more examples, shrinkage=0.1, or covariance=False"
        )
    return covariance


def _classes(moments: ClassMoments, source: Any, target: Any) -> tuple[int, int]:
    classes = moments.classes
    if source is None and target is None and len(classes) == 2:
        return 0, 1
    for name, given in (("source", source), ("target", target)):
        if not isinstance(given, Hashable) or given not in set(classes):
            listed = [str(c) for c in classes]
            raise CasebackError(f"{name}={given!r} is not among the classes. {did_you_mean(str(given), listed)}")
    if source == target:
        raise CasebackError(f"source and target are both {source!r}: expected two classes")
    return classes.index(source), classes.index(target)
