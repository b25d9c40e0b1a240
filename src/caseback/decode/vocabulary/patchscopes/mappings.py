"""An affine map from one model's stream to another's, for a patchscope across models (PRIMER 4.3.8).

    W, b = argmin sum_t || y_t - x_t W - b ||^2 + ridge ||W||^2,    x_t, y_t both models' streams at the same token

Both models must read a text as the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.vocabulary.lenses.lens import streams
from caseback.decode.vocabulary.lenses.translators import MomentSums
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.progress import progress_bar
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.tasks.corpus import corpus_rows


@dataclass(frozen=True)
class AffineMap:
    """h W + b.

    Attributes
    ----------
    weight
        (d_model of the source, d_model of the target).
    bias
        (d_model of the target,).
    explained
        The share of the target's variance that it explains on the corpus.
    provenance
        How it was fitted, for people: models, depths, options.
    """

    weight: Float[Tensor, "d_model d_model_to"]
    bias: Float[Tensor, " d_model_to"]
    explained: float
    provenance: dict[str, Any] = field(default_factory=dict)

    def __call__(self, h: Float[Tensor, "*dims d_model"]) -> Float[Tensor, "*dims d_model_to"]:
        """The state in the target's stream."""
        return h @ self.weight.to(h) + self.bias.to(h)


@technique(
    role="lens",
    entry=("4.3.8",),
    citation="Ghandeharioun et al. 2024",
    cost="forwards of both over the corpus + d_model^3",
)
def fit_mapping(
    model: Model,
    target_model: Model,
    texts: Iterable[str],
    *,
    row: int,
    target_row: int,
    ridge: float = 1e-6,
    length: int | None = None,
    batch: int | None = None,
    progress: bool = False,
) -> AffineMap:
    """Fit the map from a depth of one model to a depth of another, by least squares over a corpus.

    Parameters
    ----------
    model, target_model
        From which model and to which; both must read a text as the same tokens.
    texts
        The corpus: texts, or lists of token ids.
    row, target_row
        Depths: r is the stream before layer r.
    ridge
        As for ``fit_translators``.
    length, batch
        Tokens of a row and rows of a batch, as for ``corpus_rows``.
    progress
        Show a progress bar.

    Raises
    ------
    CasebackError
        For an empty corpus, or vocabularies of different sizes or texts of tokens.
    OutOfRange
        For depths that the models do not have.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> mapping = fit_mapping(model, model, ["Mary went to the store."] * 2, row=1, target_row=1)
    >>> mapping.explained > 0.999
    True
    """
    for own, at in ((model, row), (target_model, target_row)):
        if not 0 <= at <= own.n_layers:
            raise OutOfRange(f"row {at} of {own.name!r}: expected 0 (the embedding) to {own.n_layers} (the end)")
    if model.d_vocab != target_model.d_vocab:
        raise CasebackError(
            f"{model.name!r} has {model.d_vocab} tokens and {target_model.name!r} {target_model.d_vocab}: the states "
            "of one token are compared, so both need one vocabulary"
        )
    sums = MomentSums(model.d_model, target_model.d_model)
    for tokens in progress_bar(corpus_rows(model, texts, length=length, batch=batch), show=progress, unit="batch"):
        for b, own in enumerate(tokens.text):
            theirs = [target_model.token_text(int(i)) for i in tokens.ids[b, tokens.mask[b]]]
            if model.tokenizer is not None and target_model.tokenizer is not None and theirs != own:
                raise CasebackError(f"the models read {''.join(own)[:60]!r} as different tokens: fit no map of these")
        x, y = streams(model, tokens, [row])[row], streams(target_model, tokens.to(target_model.device), [target_row])
        there = y[target_row]
        sums.add(x[tokens.mask], there[tokens.mask.to(there.device)].to(x.device))
    if not sums.count:
        raise CasebackError("the corpus is empty: no text has as many tokens as are needed")
    weight, bias, explained = sums.solve(bias=True, ridge=ridge)
    dtype = torch.promote_types(target_model.dtype, torch.float32)
    provenance = {
        "model": model.name,
        "target_model": target_model.name,
        "row": row,
        "target_row": target_row,
        "ridge": ridge,
    }
    return AffineMap(weight.to(dtype), bias.to(dtype), explained, {**provenance, "tokens": sums.count})
