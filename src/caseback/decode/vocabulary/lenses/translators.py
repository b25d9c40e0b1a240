"""Affine translators between depths, in closed form and streamed (PRIMER 4.3.2; and 4.3.5, ahead in time).

    W, b = argmin sum_t || y_t - x_t W - b ||^2 + ridge ||W||^2,    x_t the stream at one depth, y_t at a later one

Over a corpus only the sums X'X and X'Y are kept, in float64, so memory does not grow with the text. With ``ahead`` N
the target is y_{t+N}: the linear form of the future lens (Pal et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.decode.vocabulary.lenses.lens import Lens, fingerprint, streams
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.tasks.corpus import corpus_rows


@technique(
    role="lens", entry=("4.3.2",), citation="Din et al. 2023", cost="forwards over the corpus + layers x d_model^3"
)
def fit_translators(
    model: Model,
    texts: Iterable[str],
    *,
    rows: Sequence[int] | None = None,
    to: int | None = None,
    bias: bool = True,
    ridge: float = 1e-6,
    length: int | None = None,
    batch: int | None = None,
    progress: bool = False,
) -> Lens:
    """Fit the affine map from the stream at each depth to the stream at a later one, by least squares.

    Parameters
    ----------
    model
        The model.
    texts
        The corpus: texts, or lists of token ids.
    rows
        Depths to translate from: r is the stream before layer r; all below ``to`` by default.
    to
        Depth to translate to; the end (``n_layers``) by default.
    bias
        Fit b too; Din et al. fit W alone.
    ridge
        Weight of ||W||^2, in units of the mean square of the stream times the number of tokens.
    length, batch
        Tokens of a row and rows of a batch, as for ``corpus_rows``.
    progress
        Show a progress bar.

    Returns
    -------
    Lens
        Of kind ``"translator"``. ``provenance["explained"]`` is the share of the variance that each map explains on the
        corpus, and ``provenance["tokens"]`` how many tokens there were.

    Raises
    ------
    CasebackError
        For an empty corpus.
    OutOfRange
        For depths that the model does not have.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> lens = fit_translators(model, ["Mary went to the store.", "John saw the dog at the park."])
    >>> explained = lens.provenance["explained"]
    >>> lens.rows == tuple(range(model.n_layers)), explained[-1] > explained[0] > 0.2
    (True, True)
    """
    return _fit("translator", model, texts, rows, to, 0, bias, ridge, length, batch, progress)


@technique(
    role="lens", entry=("4.3.5",), citation="Pal et al. 2023", cost="forwards over the corpus + layers x d_model^3"
)
def fit_future_lens(
    model: Model,
    texts: Iterable[str],
    *,
    ahead: int = 1,
    rows: Sequence[int] | None = None,
    bias: bool = True,
    ridge: float = 1e-6,
    length: int | None = None,
    batch: int | None = None,
    progress: bool = False,
) -> Lens:
    """Fit the affine map from the stream at t to the final stream at t + N: what it holds of tokens to come.

    Parameters
    ----------
    model, texts, rows, bias, ridge, length, batch, progress
        As for ``fit_translators``; rows include the end by default, whose own map looks only ahead in time.
    ahead
        N, at least 1.

    Returns
    -------
    Lens
        Of kind ``"future"``: its reading at t is a prediction of the token at t + N + 1.

    Raises
    ------
    CasebackError, OutOfRange
        As ``fit_translators``, and for an ``ahead`` below 1.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> lens = fit_future_lens(model, ["Monday, Tuesday, Wednesday, Thursday, Friday"] * 2)
    >>> lens.ahead, lens.rows[-1] == model.n_layers
    (1, True)
    """
    if ahead < 1:
        raise OutOfRange(f"ahead is {ahead}: expected at least 1 (fit_translators is for the same position)")
    every = range(model.n_layers + 1) if rows is None else rows
    return _fit("future", model, texts, every, None, ahead, bias, ridge, length, batch, progress)


def _fit(
    kind: str,
    model: Model,
    texts: Iterable[str],
    rows: Sequence[int] | None,
    to: int | None,
    ahead: int,
    bias: bool,
    ridge: float,
    length: int | None,
    batch: int | None,
    progress: bool,
) -> Lens:
    end = model.n_layers if to is None else to
    rows = tuple(range(end)) if rows is None else tuple(rows)
    if not 0 <= end <= model.n_layers or not rows or not all(0 <= r <= end for r in rows):
        raise OutOfRange(
            f"from rows {list(rows)} to row {end}: expected rows of 0 (the embedding) to {model.n_layers} (the end), "
            "none later than the one translated to"
        )
    sums = {row: MomentSums(model.d_model) for row in rows}
    for tokens in progress_bar(corpus_rows(model, texts, length=length, batch=batch), show=progress, unit="batch"):
        at = streams(model, tokens, [*rows, end])
        here, there = _pairs(tokens.mask, ahead)
        for row in rows:
            sums[row].add(at[row][here], at[end][there])
    count = sums[rows[0]].count
    if not count:
        raise CasebackError("the corpus is empty: no text has as many tokens as are needed")
    fitted = [sums[row].solve(bias=bias, ridge=ridge) for row in rows]
    provenance: dict[str, Any] = {
        "tokens": count,
        "explained": [explained for _, _, explained in fitted],
        "ridge": ridge,
        "to": end,
    }
    dtype = torch.promote_types(model.dtype, torch.float32)
    return Lens(
        kind,
        rows,
        torch.stack([w for w, _, _ in fitted]).to(dtype),
        torch.stack([b for _, b, _ in fitted]).to(dtype),
        model.n_layers,
        ahead,
        fingerprint(model),
        provenance,
    )


def _pairs(mask: Bool[Tensor, "batch pos"], ahead: int) -> tuple[Tensor, Tensor]:
    """Which columns are translated from, and which to: both are tokens of one prompt, ``ahead`` apart."""
    if not ahead:
        return mask, mask
    both = mask[:, ahead:] & mask[:, :-ahead]
    here, there = torch.zeros_like(mask), torch.zeros_like(mask)
    here[:, :-ahead], there[:, ahead:] = both, both
    return here, there


class MomentSums:
    """Sums of [x, 1]'[x, 1] and [x, 1]'y over a stream of tokens, from which least squares follow."""

    def __init__(self, d_model: int, d_out: int | None = None):
        d_out = d_model if d_out is None else d_out
        self.count = 0
        self.xx = torch.zeros(d_model + 1, d_model + 1, dtype=torch.float64)
        self.xy = torch.zeros(d_model + 1, d_out, dtype=torch.float64)
        self.yy = torch.zeros(d_out, dtype=torch.float64)
        self.y = torch.zeros(d_out, dtype=torch.float64)

    def add(self, x: Float[Tensor, "token d_model"], y: Float[Tensor, "token d_out"]) -> None:
        """Take some tokens in."""
        x = in_float64(torch.cat([x, x.new_ones(len(x), 1)], -1))
        y = in_float64(y)
        self.count += len(x)
        self.xx += (x.T @ x).cpu()
        self.xy += (x.T @ y).cpu()
        self.yy += y.pow(2).sum(0).cpu()
        self.y += y.sum(0).cpu()

    def solve(self, *, bias: bool, ridge: float) -> tuple[Tensor, Tensor, float]:
        """W, b and the share of the variance of y that they explain."""
        d = self.xx.shape[0] - 1
        size = d + 1 if bias else d
        xx, xy = self.xx[:size, :size].clone(), self.xy[:size]
        # b is not shrunk
        xx.diagonal()[:d] += ridge * float(self.xx.diagonal()[:d].mean())
        # where the tokens do not span the stream, the smallest solution
        solution = torch.linalg.pinv(xx, hermitian=True) @ xy
        weight, shift = solution[:d], solution[d] if bias else xy.new_zeros(d)
        full = torch.cat([weight, shift[None]])
        residual = self.yy - 2 * (full * self.xy).sum(0) + (full * (self.xx @ full)).sum(0)
        variance = self.yy - self.y.pow(2) / max(self.count, 1)
        return weight, shift, float(1 - residual.sum() / variance.sum())
