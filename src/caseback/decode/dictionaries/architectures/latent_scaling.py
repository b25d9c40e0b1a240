"""Is a crosscoder's feature really of one model alone? Its codes regressed on what each model has (Minder et al. 2025).

    beta_r^m(i; y) = argmin_beta sum_n |y_n^m - beta a_ni d_i^r|^2 = d_i^r . sum_n a_ni y_n^m / (|a_i|^2 |d_i^r|^2)
    nu_i(y)        = beta_r^m(i; y) / beta_r^r(i; y)         r: the source to which feature i writes most; m: another

Two targets y:

- the error of source m (for m = r with the feature's own part put back): nu is large where what the feature stands for
  is in source m too and no feature carries it there, because a penalty cut the row to 0 (complete shrinkage);
- what the features write to source m, without b_dec: nu is large where other features carry it there (latent
  decoupling).

A feature is exclusive where both are small. All coefficients are from one pass: sums of states over each feature's
tokens, and the sums of its squared codes. With d^r of every source r and not of one chosen model, no side is preferred.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.dictionaries.architectures.crosscoders import Crosscoder
from caseback.errors import ArgumentError, OutOfRange
from caseback.jobs.budget import limit
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled


@technique(entry=("B.25",), citation="Minder et al. 2025; Lindsey et al. 2024", cost="one pass of the crosscoder")
@torch.no_grad()
def latent_scaling(
    crosscoder: Crosscoder,
    states: Tensor | Iterable[Tensor],
    *,
    sources: Sequence[str] | None = None,
    below: tuple[float, float] = (0.2, 0.5),
) -> xr.Dataset:
    """How much of each feature each source has, whatever the crosscoder's rows say.

    Parameters
    ----------
    crosscoder
        Of two or more sources.
    states
        (token, source, d), or batches of them: other tokens than those it was trained on. Coefficients are of the
        tokens at which a feature is active; some hundreds are enough.
    sources
        What they are called, such as ``("base", "chat")``; numbers by default.
    below
        Under which nu of the error and of the reconstruction a feature is exclusive; the authors' .2 and .5.

    Returns
    -------
    xr.Dataset
        ``beta_error``, ``beta_reconstruction`` (source, source_to, feature): the regression of what ``source_to`` has
        on the row of ``source``; ``nu_error``, ``nu_reconstruction`` (feature), with more than two sources the largest;
        ``relative_norm`` (source, feature), of what it writes there, over its largest; ``kind`` (feature): ``"shared"``
        where all relative norms are .8 or more, ``"only NAME"`` where the others are .2 or less, else ``"between"``,
        and ``"dead"`` where it is never active; ``exclusive``, whether it is of one source alone and both nu agree;
        ``active``, at how many tokens it is. With two sources ``delta_norm``: 0 where only the first has it, 1/2
        where both have as much, 1 where only the second.

    Raises
    ------
    ArgumentError
        For no crosscoder, one source, no states, or names that are not as many as sources.
    OutOfRange
        For bounds below 0.

    Examples
    --------
    >>> from caseback.decode.dictionaries import BatchTopKCrosscoder
    >>> draw = torch.Generator().manual_seed(0)
    >>> states = torch.randn(256, 2, 8, generator=draw)
    >>> one = BatchTopKCrosscoder(8, 16, n_sources=2, k=4)
    >>> table = latent_scaling(one, states, sources=("base", "chat"))
    >>> table.nu_error.dims, table.delta_norm.values.round(3).tolist()[:2]
    (('feature',), [0.5, 0.5])
    """
    names = _expected(crosscoder, states, sources, below)
    n, width = crosscoder.n_sources, crosscoder.n_features
    rows = in_float64(crosscoder.rows())
    products = {name: rows.new_zeros(n, n, width) for name in ("error", "reconstruction")}
    squares, active, tokens = rows.new_zeros(width), rows.new_zeros(width, dtype=torch.int64), 0
    at_once = max(1, limit("feature_scores", rows.device) // width)
    for x in states.split(at_once) if isinstance(states, Tensor) and states.ndim == 3 else states:
        if not isinstance(x, Tensor) or x.layout != torch.strided:
            raise ArgumentError(f"states hold a {type(x).__name__}: expected tensors (token, source, d)")
        codes = crosscoder.codes(x)
        feature, values = codes.indices()[1].to(rows.device), in_float64(codes.values())
        written = crosscoder.write(codes)
        error = crosscoder.normalized(x.to(written.dtype)) - written - crosscoder.b_dec
        by_feature = codes.t()
        for name, target in (("error", error), ("reconstruction", written)):
            sums = in_float64(torch.sparse.mm(by_feature, target)).view(width, n, -1)
            products[name] += torch.einsum("frd,fmd->rmf", rows, sums)
        squares.index_add_(0, feature, values.square())
        active += torch.bincount(feature, minlength=width)
        tokens += len(x)
    if not tokens:
        raise ArgumentError("there are no states: give some (token, source, d)")
    norms = rows.norm(dim=-1).T
    spread = squares * norms.square()[:, None]
    beta = {name: torch.where(spread > 0, product / spread, torch.nan) for name, product in products.items()}
    beta["error"] += torch.eye(n, dtype=rows.dtype, device=rows.device)[..., None]  # the feature's own part, put back
    largest = norms.amax(0)
    relative = norms / largest.clamp_min(1e-30)
    owner = norms.argmax(0)
    nu = {name: _largest_other(value, owner) for name, value in beta.items()}
    kind = kinds_by_norm(norms, names)
    kind[(active == 0).cpu().numpy()] = "dead"
    exclusive = (nu["error"] < below[0]) & (nu["reconstruction"] < below[1])
    alone = torch.from_numpy(np.char.startswith(kind.astype(str), "only "))
    both = {"source": names, "source_to": names}
    parts = {f"beta_{name}": labelled(value, ("source", "source_to", "feature"), both) for name, value in beta.items()}
    parts |= {f"nu_{name}": labelled(value, ("feature",)) for name, value in nu.items()}
    parts |= {
        "relative_norm": labelled(relative, ("source", "feature"), {"source": names}),
        "kind": xr.DataArray(kind.astype(str), dims="feature"),
        "exclusive": labelled(exclusive.cpu() & alone, ("feature",)),
        "active": labelled(active, ("feature",)),
    }
    if n == 2:
        parts["delta_norm"] = labelled(((norms[1] - norms[0]) / largest.clamp_min(1e-30) + 1) / 2, ("feature",))
    attrs = labelled(0.0, (), technique=latent_scaling, tokens=tokens, below=list(below)).attrs
    return xr.Dataset(parts, attrs=attrs)


def _largest_other(beta: Tensor, owner: Tensor) -> Tensor:
    """Of each feature, the largest ratio of another source's coefficient to its owner's own."""
    of_row = beta.gather(0, owner.expand(1, len(beta), -1))[0]
    own = of_row.gather(0, owner[None])
    return (of_row / own).scatter(0, owner[None], -torch.inf).amax(0)


def kinds_by_norm(norms: Float[Tensor, "source feature"], names: Sequence[str]) -> np.ndarray:
    """What rows alone say of features: ``"shared"``, ``"only NAME"`` or ``"between"``, as ``latent_scaling`` has it.

    Rows mislead where a penalty cut them: see above.
    """
    relative, owner = norms / norms.amax(0).clamp_min(1e-30), norms.argmax(0)
    others = relative.scatter(0, owner[None], 0.0).amax(0)
    kind = np.where(relative.amin(0).cpu() >= 0.8, "shared", "between").astype(object)
    alone = (others <= 0.2).cpu().numpy()
    kind[alone] = np.array([f"only {name}" for name in names], dtype=object)[owner.cpu().numpy()][alone]
    return kind


def _expected(
    crosscoder: Crosscoder, states: Tensor | Iterable[Tensor], sources: Sequence[str] | None, below: tuple[float, float]
) -> list[str]:
    n = crosscoder.n_sources
    if n < 2:
        raise ArgumentError("a crosscoder of one source: expected two or more, to be compared")
    names = [str(name) for name in sources] if sources is not None else [str(i) for i in range(n)]
    if len(names) != n or len(set(names)) != n:
        raise ArgumentError(f"sources {names}: expected {n} different names")
    if not all(bound >= 0 for bound in below):
        raise OutOfRange(f"below {below}: expected two numbers from 0")
    if isinstance(states, Tensor) and states.layout != torch.strided:
        raise ArgumentError("states are a sparse tensor: expected a dense one (token, source, d)")
    if isinstance(states, Tensor) and not states.isfinite().all():
        raise ArgumentError("there are states that are not finite: expected numbers")
    return names
