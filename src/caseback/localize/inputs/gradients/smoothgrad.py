"""SmoothGrad: the gradient, averaged over noise on the embeddings (PRIMER 3.1.4).

    g = (1 / S) sum_s d metric / d x (x + e_s),    e_s ~ N(0, sigma^2 I)

It estimates the gradient of the metric smoothed by a Gaussian, which shatters less than the metric does.
"""

from __future__ import annotations

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.model.prompts.embedding_points import Points
from caseback.model.prompts.per_token import prepared, token_scores
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    role="input attribution", entry=("3.1.4",), citation="Smilkov et al. 2017", cost="draws x (forward + backward)"
)
def smoothgrad(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    draws: int = 50,
    noise: float = 0.15,
    sigma: float | None = None,
    seed: int = 0,
    times_input: bool = False,
    p: float = 2.0,
    max_batch: int | None = None,
    by_dimension: bool = False,
) -> xr.DataArray:
    """Sensitivity of the metric to each token, its gradient averaged over noisy copies of the prompt.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    draws
        Noisy copies of each prompt; 50 as in the paper.
    noise
        Standard deviation of the noise as a share of the range of the prompt's embeddings (largest less smallest
        entry); the paper: 0.1 to 0.2.
    sigma
        Standard deviation in the embeddings' own unit instead.
    seed
        Same seed, same result. The noise is drawn with it. A prompt has the same noise by itself, in a batch, padded,
        and in any precision.
    times_input
        Multiply by the embedding (without noise), as gradient x input does, in place of the norm.
    p
        Which norm of the averaged gradient; 2 by default.
    max_batch
        Noisy copies run at once; memory is bounded by it and the scores do not depend on it. By default as many as
        make 512 tokens (8192 on an accelerator).
    by_dimension
        Keep the embedding's dimensions: the averaged gradient itself, or with ``times_input`` its products.

    Returns
    -------
    xr.DataArray
        (batch, pos), at least 0, or signed with ``times_input``; or (batch, pos, d_model), signed. NaN where a
        shorter prompt has no token. Beside it ``standard_error`` (batch, pos): of the score with ``times_input``,
        otherwise of the averaged gradient, as the Euclidean norm of its dimensions' standard errors. The attribute
        ``sigma`` has each prompt's.

    Raises
    ------
    OutOfRange
        For fewer draws than 2 (there is no spread), a batch below 1, ``p`` below 1, or noise that is negative.
    TargetError
        Where a foil is the target.
    CasebackError
        Where ``metric`` is not a ``Metric``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = smoothgrad(model, "the cat and the dog", cb.logit_diff(" cat", " dog"), draws=8)
    >>> scores.dims, bool((scores.standard_error >= 0).all())
    (('batch', 'pos'), True)
    """
    tokens, metric = prepared(model, tokens, metric)
    if draws < 2:
        raise OutOfRange(f"draws is {draws}: expected at least 2, which a spread needs")
    if not p >= 1:
        raise OutOfRange(f"p is {p}: expected 1 or more, such as 1, 2 or float('inf')")
    for name, value in (("noise", noise), ("sigma", sigma)):
        if value is not None and not 0 <= value < float("inf"):
            raise OutOfRange(f"{name} is {value}: expected 0 or a positive number")
    points = Points(model, tokens, metric, max_batch)
    x, lengths = points.embedding, tokens.lengths.tolist()
    size = [float(x[b, :n].max() - x[b, :n].min()) * noise if sigma is None else sigma for b, n in enumerate(lengths)]
    total, squares = torch.zeros_like(x), torch.zeros_like(x)
    of_scores = torch.zeros(2, *x.shape[:2]).to(x)
    prompts = torch.arange(len(tokens)).repeat_interleave(draws)
    drawn = _Noise(seed, lengths, x)

    def noisy(part: slice) -> Tensor:
        which = prompts[part]
        return x[which] + drawn(which) * torch.tensor(size).to(x)[which][:, None, None]

    for part, _, gradient in points.gradients(prompts, noisy):
        which = prompts[part].to(x.device)
        total.index_add_(0, which, gradient)
        squares.index_add_(0, which, gradient**2)
        score = (gradient * x[which]).sum(-1)
        of_scores.index_add_(1, which, torch.stack([score, score**2]))
    mean = total / draws
    if times_input:
        error = _standard_error(of_scores[0], of_scores[1], draws)
        scores = mean * x if by_dimension else of_scores[0] / draws
    else:
        error = _standard_error(total, squares, draws).norm(dim=-1)
        scores = mean if by_dimension else mean.norm(p=p, dim=-1)
    result = token_scores(
        scores,
        model,
        tokens,
        metric,
        technique=smoothgrad,
        name="smoothgrad",
        draws=draws,
        sigma=size,
        seed=seed,
        times_input=times_input,
        p=None if times_input else float(p),
        metric_value=points.value.tolist(),
    )
    inside = torch.arange(x.shape[1]) < tokens.lengths.cpu()[:, None]
    return result.assign_coords(
        standard_error=(("batch", "pos"), error.cpu().masked_fill(~inside, float("nan")).numpy())
    )


def _standard_error(total: Tensor, squares: Tensor, draws: int) -> Tensor:
    """Of the mean of some draws, from their sum and their sum of squares."""
    return ((squares - total**2 / draws).clamp_min(0) / (draws - 1) / draws).sqrt()


class _Noise:
    """Standard normal noise, each prompt's from a stream of its own that begins alike, drawn a copy at a time."""

    def __init__(self, seed: int, lengths: list[int], like: Float[Tensor, "batch pos d_model"]):
        self.lengths, self.like = lengths, like
        self.streams = [torch.Generator().manual_seed(seed) for _ in lengths]

    def __call__(self, prompts: Int[Tensor, " row"]) -> Float[Tensor, "row pos d_model"]:
        noise = torch.zeros(len(prompts), *self.like.shape[1:]).to(self.like)
        for row, b in enumerate(prompts.tolist()):
            n = self.lengths[b]
            noise[row, :n] = torch.randn(n, self.like.shape[2], generator=self.streams[b]).to(noise)
        return noise
