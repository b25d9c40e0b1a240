"""How sure a model is of what stands in a text: the probability of its tokens, and the entropy before each.

    log_prob = sum_i log p(t_i | t_<i)     mean_log_prob = log_prob / n     min_prob = min_i p(t_i | t_<i)
    entropy  = mean_i H(p(. | t_<i))                                         i over the tokens from start on

Low confidence is a detector by itself (Varshney et al. 2023), and what every other has to be compared with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.behaviors.truth.batches import Marked, Reading, marked, read_all
from caseback.jobs.budget import limit
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike
from caseback.model.running.verify import unembed

NAMES = ("log_prob", "mean_log_prob", "min_prob", "entropy")


@technique(
    entry=("5.4.20", "5.4.21"),
    citation="Varshney et al. 2023; Guerreiro et al. 2023a",
    cost="one forward",
)
def confidence_scores(
    model: Model, tokens: PromptsLike, *, start: int | Sequence[int] = 1, progress: bool = False
) -> xr.Dataset:
    """Measure how sure a model is of texts, or of what stands in them from a token on.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. Each is a whole text, its answer included.
    start
        The position of the first token that counts, one for all texts or one for each; negative ones count from a
        text's end. By default all tokens but the first, of which no probability is known.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        Over ``batch``: ``log_prob`` and ``mean_log_prob`` in nats, ``min_prob`` (the least likely token's), and
        ``entropy``, the mean of the distributions that these tokens were drawn from, in nats.

    Raises
    ------
    OutOfRange
        For a start that a text does not have.

    Notes
    -----
    Entry 5.4.20: Varshney et al. 2023, who validate where the least probable token of a concept is improbable; entry
    5.4.21: the sequence log probability, which Guerreiro et al. 2023a found hard to beat.

    Examples
    --------
    >>> import caseback as cb
    >>> sure = confidence_scores(cb.load("meadow"), ["The capital of Italy is Rome", "The capital of Italy is Oslo"])
    >>> sure["log_prob"].dims, bool(sure["log_prob"][0] > sure["log_prob"][1])
    (('batch',), True)
    """
    expect_tokens_out(model.anatomy, "the probability of a text")
    values = read_all(
        model,
        marked(model, model.tokens(tokens), start=start),
        {"confidence": confidence_reading(model)},
        progress=progress,
    )["confidence"]
    arrays = {
        name: labelled(values[:, i], ["batch"], name=name, technique=confidence_scores, model=model)
        for i, name in enumerate(NAMES)
    }
    return xr.Dataset(arrays, attrs=arrays[NAMES[0]].attrs)


def confidence_reading(model: Model, *, whole: bool = False) -> Reading:
    """``NAMES`` of each text's tokens from ``start`` on; with ``whole`` behind them those of all tokens but the first.

    Logits are formed of some tokens at a time, from the last layer's stream, so that a pass may be wide.
    """
    last = Site("resid_post", model.n_layers - 1)

    def of(run: Run, given: Marked) -> Float[Tensor, "batch measure"]:
        ids, mask = given.tokens.ids, given.tokens.mask[:, 1:]  # padded on the right
        wanted = mask if whole else given.new[:, 1:]
        own, entropy = (widened(torch.zeros(mask.shape, device=ids.device)) for _ in range(2))
        x, following = run[last][:, :-1][wanted], ids[:, 1:][wanted]
        rows = max(1, limit("lens_logits", model.device) // model.d_vocab)
        parts = [_by_token(model, *both) for both in zip(x.split(rows), following.split(rows), strict=True)]
        own[wanted], entropy[wanted] = (torch.cat(values) for values in zip(*parts, strict=True))
        masks = (given.new[:, 1:], mask) if whole else (given.new[:, 1:],)
        return torch.cat([_reduced(own, entropy, counts) for counts in masks], 1)

    return Reading([last], of)


def _by_token(
    model: Model, x: Float[Tensor, "token d_model"], following: Int[Tensor, " token"]
) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
    """The log probability of the token that follows each, and the entropy of what it was drawn from."""
    log_p = at_least_float32(unembed(model.anatomy, x)).log_softmax(-1)
    own = log_p.gather(-1, following[:, None])[:, 0]
    p = log_p.exp()
    return widened(own), widened(-torch.special.xlogy(p, p).sum(-1))


def _reduced(own: Tensor, entropy: Tensor, counts: Tensor) -> Float[Tensor, "batch 4"]:
    n = counts.sum(-1)
    total = own.masked_fill(~counts, 0).sum(-1)
    least = own.masked_fill(~counts, 0).amin(-1).exp()
    return torch.stack([total, total / n, least, entropy.masked_fill(~counts, 0).sum(-1) / n], 1)
