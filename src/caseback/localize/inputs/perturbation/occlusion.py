"""Occlusion: what the metric loses without a feature (PRIMER 3.1.7).

    A_i = f(x) - mean over the windows w that hold i of f(x without w)

By default a window is one feature: leave-one-out. The prompt without a token is not one that the model was trained on,
whichever way it is taken away, and how it is taken away changes the scores: ``replace`` puts a baseline's embedding
there and leaves all positions as they are, ``delete`` closes the gap and so moves every later token one up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.localize.inputs.perturbation.coalitions import at_least, game_of
from caseback.localize.inputs.perturbation.deletion import without
from caseback.model.prompts.granularity import Given
from caseback.model.registry import technique
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

REMOVALS = ("replace", "delete")


@technique(
    role="input attribution",
    entry=("3.1.7",),
    citation="Zeiler & Fergus 2014, Li et al. 2017, Covert et al. 2021",
    cost="one suffix per feature: about n / 2 forwards",
)
def occlusion(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    features: Given = "token",
    keep: Positions = (),
    baseline: str | int | Tensor = "mean",
    removal: str = "replace",
    window: int = 1,
    stride: int = 1,
    token_budget: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """What the metric loses when each token, word or sentence is taken away.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    features
        ``"token"``, ``"word"``, ``"sentence"``, or groups of positions; see ``features_of``.
    keep
        Positions that are never taken away, such as ``0`` for a beginning-of-text token.
    baseline
        With ``removal="replace"``, what stands in a token's place: the ``"mean"`` of the vocabulary's embeddings (as
        the gray patch of Zeiler & Fergus), ``"zero"`` (Li et al., captum's default), ``"pad"`` (inseq's) or
        another special token, a token's id, or a tensor that broadcasts to (batch, pos, d_model).
    removal
        ``"replace"`` by the baseline, or ``"delete"``: later tokens then move up, which changes their positions. With
        ``"delete"`` the metric is read at the last token left where the one it reads is deleted.
    window
        Consecutive features taken away together; 1 as captum and inseq.
    stride
        Features from one window to the next, at most ``window``. The last window may reach past the end.
    token_budget
        As for ``Model.sweep``.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption. It is kept only while
        replacing.

    Returns
    -------
    xr.DataArray
        (batch, pos), signed; (batch, feature) for other features than tokens. NaN where a shorter prompt has none, and
        at kept tokens. A feature in several windows has the mean of their effects, as in captum.

    Raises
    ------
    CasebackError
        For an unknown removal, feature level or baseline, an empty feature, or no token to perturb.
    OutOfRange
        For a window or stride below 1, or a stride that would leave features out.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = occlusion(model, "the cat and the dog", cb.logit_diff(" cat", " dog"), features="word")
    >>> scores.dims, scores.attrs["entry"]
    (('batch', 'feature'), '3.1.7')
    """
    if removal not in REMOVALS:
        raise CasebackError(f"removal {removal!r} is unknown. {did_you_mean(removal, REMOVALS)}")
    if not 1 <= stride <= at_least("window", window):
        raise OutOfRange(f"stride is {stride}: expected 1 to window={window}, or some features are in no window")
    game = game_of(
        model,
        tokens,
        metric,
        features=features,
        keep=keep,
        baseline=baseline,
        token_budget=token_budget,
        progress=progress,
        checkpoint=checkpoint,
    )
    covered = _windows([len(row) for row in game.features.groups], window, stride)
    if removal == "replace":
        values = game.values(~covered)
    else:
        member = game.features.membership(game.tokens.ids.shape[1])
        gone = torch.einsum("vbf,bfp->vbp", torch.from_numpy(covered).float(), member.float()) > 0
        shortened, clean = without(model, game.tokens, gone, metric, token_budget=token_budget, progress=progress)
        values, game.clean = shortened.cpu().double().numpy(), clean.cpu().double().numpy()
    lost = (game.clean - values)[..., None] * covered
    scores = lost.sum(0) / np.maximum(covered.sum(0), 1)
    return game.scores(scores, occlusion, removal=removal, window=window, stride=stride)


def _windows(counts: list[int], window: int, stride: int) -> np.ndarray:
    """(window, batch, feature): the features in each window of each prompt; nothing in those that a prompt lacks."""
    n = [max(-(-(count - window) // stride), 0) + 1 for count in counts]
    covered = np.zeros((max(n), len(counts), max(counts)), dtype=bool)
    for b, count in enumerate(counts):
        for w in range(n[b]):
            covered[w, b, w * stride : min(w * stride + window, count)] = True
    return covered
