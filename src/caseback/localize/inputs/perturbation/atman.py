"""AtMan: what the metric loses when no token attends much to a feature (PRIMER 3.1.11).

    H'_{h,q,k} = H_{h,q,k} (1 - f 1[k in the feature, or like it])      in every layer and head, before the softmax
    A_i = metric(x) - metric(x with i suppressed)

With the target's log probability as metric A_i is the paper's, the loss after less the loss before. Like a feature is a
token whose embedding is at a cosine of at least kappa to that of one of its tokens: a name mentioned twice is
suppressed in both places.

The paper's factor works on scores, whose sign and origin mean nothing to the softmax: a negative score is raised by it,
and attention to the token grows. ``how="weight"`` multiplies the unnormalized weight exp(H) by 1 - f instead, which can
only take attention away (f = 1 cuts the edges).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log1p
from pathlib import Path

import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.localize.inputs.perturbation.coalitions import feature_scores
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.prompts.granularity import Given, features_of
from caseback.model.prompts.per_token import aligned, expect_metric
from caseback.model.registry import technique
from caseback.model.running.edits import Edit, Where
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.sweeping.sweep import sweep

WAYS = ("scale", "weight")


@dataclass(frozen=True, eq=False)
class Suppress(Edit):
    """Take attention away from some keys of each prompt, from the first of them on.

    ``keys`` (batch, pos) says which, by each prompt's own positions.
    """

    keys: Tensor
    factor: float
    how: str = "scale"

    def unchanged_before(self, tokens: Tokens, example: int, anatomy: Anatomy) -> int:
        mine = self.keys[example]
        return int(mine.int().argmax()) if bool(mine.any()) else len(mine)

    def new(self, old: Tensor, where: Where) -> Tensor:
        column = torch.arange(where.width) - torch.from_numpy(where.n_columns_before)[:, None]
        inside = (column >= 0) & (column < self.keys.shape[1])
        chosen = inside & self.keys[where.rows.example[:, None], column.clamp(0, self.keys.shape[1] - 1)]
        # what the mask hides stays hidden, also where it is a large negative number
        seen = old > torch.finfo(old.dtype).min / 2
        if self.how == "scale":
            changed = old * (1 - self.factor)
        elif self.factor == 1:
            changed = torch.full_like(old, torch.finfo(old.dtype).min)
        else:
            changed = old + log1p(-self.factor)
        return torch.where(seen & chosen[:, None].to(old.device), changed, old)


@technique(
    role="input attribution",
    entry=("3.1.11",),
    citation="Deiseroth et al. 2023",
    cost="one suffix per feature: about n / 2 forwards",
)
def atman(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    features: Given = "token",
    keep: Positions = (),
    factor: float = 0.9,
    similarity: float | None = None,
    how: str = "scale",
    token_budget: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """What the metric loses when attention to a token is turned down, in all layers and heads at once.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. The paper's is ``cb.log_prob`` of the
        target.
    features, keep
        What is suppressed together, and what never is; see ``occlusion``.
    factor
        How much is taken away, 0 to 1; 0.9 as in the paper.
    similarity
        Suppress with each feature the tokens like it: whose embedding has a cosine of at least this to one of the
        feature's (the paper: 0.7). None suppresses the feature alone.
    how
        ``"scale"`` multiplies scores by 1 - factor, as the paper; ``"weight"`` their exponentials. On families that
        cap their scores or add position biases both act on what the softmax receives.
    token_budget
        As for ``Model.sweep``.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    xr.DataArray
        (batch, pos), or (batch, feature), signed: above 0 where the feature speaks for the metric. NaN where a
        prompt has none and at kept tokens.

    Raises
    ------
    OutOfRange
        For a factor outside 0 to 1 or a similarity outside -1 to 1.
    CasebackError
        For an unknown way, an empty feature, or no token to perturb.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = atman(model, "the cat and the dog", cb.log_prob(" cat"), similarity=0.7)
    >>> scores.dims, scores.attrs["entry"]
    (('batch', 'pos'), '3.1.11')
    """
    metric, tokens = expect_metric(metric), model.tokens(tokens)
    if how not in WAYS:
        raise CasebackError(f"how {how!r} is unknown. {did_you_mean(how, WAYS)}")
    if not 0 <= factor <= 1:
        raise OutOfRange(f"factor is {factor}: expected 0 (nothing is taken away) to 1")
    if similarity is not None and not -1 <= similarity <= 1:
        raise OutOfRange(f"similarity is {similarity}: expected a cosine, -1 to 1, such as 0.7")
    chosen = features_of(model, tokens, features, keep=keep)
    member = chosen.membership(tokens.ids.shape[1])
    if similarity is not None:
        member = member | _like(model, tokens, member, similarity)
    variants = [Suppress("scores", keys=member[:, f], factor=factor, how=how) for f in range(chosen.most)]
    values, clean, *_ = sweep(
        model.anatomy,
        tokens,
        variants,
        metric,
        labels=[str(f) for f in range(chosen.most)],
        token_budget=token_budget,
        progress=progress,
        checkpoint=checkpoint,
    )
    lost = in_float64(clean - values).cpu().numpy().T
    return feature_scores(
        lost,
        model,
        tokens,
        metric,
        chosen,
        atman,
        metric_value=in_float64(clean).tolist(),
        factor=float(factor),
        similarity=similarity,
        how=how,
    )


def _like(
    model: Model, tokens: Tokens, member: Bool[Tensor, "batch feature pos"], least: float
) -> Bool[Tensor, "batch feature pos"]:
    """Tokens whose embedding is like that of one of a feature's."""
    x = at_least_float32(aligned(model.run(tokens, read=["embed"])["embed"].expand(*tokens.shape, -1), tokens))
    unit = torch.nn.functional.normalize(x, dim=-1).cpu()
    # a hair below, so that a token is like itself whatever the rounding
    near = unit @ unit.mT >= least - 1e-6
    real = torch.arange(tokens.ids.shape[1]) < tokens.lengths.cpu()[:, None]
    return (torch.einsum("bfp,bpq->bfq", member.float(), near.float()) > 0) & real[:, None]
