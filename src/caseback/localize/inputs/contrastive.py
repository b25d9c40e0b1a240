"""Why this token and not that one: any input attribution of a difference of logits (PRIMER 3.1.22).

    contrastive gradient norm     || d (f_w - f_o) / d x_i ||_p
    contrastive gradient x input  d (f_w - f_o) / d x_i . x_i
    contrastive erasure           (f_w - f_o)(x) - (f_w - f_o)(x without i)

Every method of this section takes the metric ``cb.logit_diff(w, o)``, so there is one function for all of them. What
all tokens' logits share cancels. A method that is linear in its metric has A(w, o) = A(w) - A(o) = -A(o, w); a norm
has no sign, and is the same both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError, TargetError
from caseback.jobs.budget import limit
from caseback.localize.inputs.methods import Method, checked_options, method_named, scores_of
from caseback.model.prompts.embedding_points import bytes_on_the_way_back
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric, logit_diff
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens


@technique(
    role="input attribution of another kind",
    entry=("3.1.22",),
    citation="Yin & Neubig 2022",
    cost="the method's cost, once per foil",
)
def contrastive(
    model: Model,
    tokens: PromptsLike,
    target: str | int,
    foils: str | int | Sequence[str | int],
    *,
    method: str | Method = "gradient_norm",
    options: Mapping[str, Any] | None = None,
    token_budget: int | None = None,
) -> xr.DataArray:
    """Score every token for a target against each of several foils.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    target
        The token explained, text or id.
    foils
        One token that it is contrasted with, or several, each by itself.
    method
        A name of ``input_methods()`` or a function of their signature; the paper's are ``gradient_norm`` (with
        ``options={"p": 1}``), ``gradient_x_input`` and occlusion.
    options
        The method's options.
    token_budget
        Most tokens in one batch; by default a sweep's.

    Returns
    -------
    xr.DataArray
        (batch, vocab, pos), the foils along ``vocab`` as their text; (batch, pos) for a single foil that is not in a
        list. NaN where a shorter prompt has no token.

    Raises
    ------
    TargetError
        For a foil equal to the target, given twice, or that is not one token.
    CasebackError
        For no foil, or an unknown method or option.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> prompt = "When Mary and John went to the store, John gave a drink to"
    >>> contrastive(model, prompt, " Mary", [" John", " Anna"], method="gradient_x_input").dims
    ('batch', 'vocab', 'pos')
    """
    tokens = model.tokens(tokens)
    single = isinstance(foils, str | int)
    listed = [foils] if isinstance(foils, str | int) else list(foils)
    if not listed:
        raise CasebackError("no foil given: expected at least one token to contrast the target with")
    t, against = model.token_id(target), [model.token_id(foil, "foil") for foil in listed]
    for foil, text in zip(against, listed, strict=True):
        if foil == t:
            raise TargetError(f"foil {text!r} is the target itself (id {t}): choose another token")
        if against.count(foil) > 1:
            raise TargetError(f"foil {text!r} (id {foil}) is given twice")
    name, function = method_named(method)
    own = checked_options({name: function}, {name: options or {}})[name]
    n = len(tokens)
    rows = tokens[[b for b in range(n) for _ in against]]

    def metric_of(which: slice) -> Metric:
        return logit_diff(t, (against * n)[which])

    scores = np.full((n, len(against), tokens.ids.shape[1]), np.nan)
    at = 0
    for batch_scores in in_batches(name, function, model, rows, metric_of, own, token_budget):
        for row in batch_scores.values:
            scores[at // len(against), at % len(against), : len(row)] = row
            at += 1
    width = tokens.ids.shape[1]
    text = {"token": (("batch", "pos"), [row + [""] * (width - len(row)) for row in tokens.text])}
    attrs = {"method": name, "target": model.token_text(t), "metric": "logit_diff"}
    if single:
        foil = model.token_text(against[0])
        dims, scores, coords, attrs = ["batch", "pos"], scores[:, 0], text, attrs | {"foil": foil}
    else:
        dims, coords = ["batch", "vocab", "pos"], text | {"vocab": [model.token_text(i) for i in against]}
    return labelled(scores, dims, coords, name="scores", technique=contrastive, model=model, **attrs)


def in_batches(
    name: str,
    method: Method,
    model: Model,
    rows: Tokens,
    metric_of: Callable[[slice], Metric],
    options: Mapping[str, Any],
    token_budget: int | None,
) -> Iterator[xr.DataArray]:
    """A method's scores of many prompts, as many at a time as fit a budget of tokens and always at least one.

    Parameters
    ----------
    name, method, model, options
        The method and its options.
    rows
        The prompts.
    metric_of
        Makes the metric of those of them that a slice picks.
    token_budget
        Most tokens in one batch, padding included; None for a sweep's.

    Yields
    ------
    The scores of each batch in turn, (batch, pos), cut to its longest prompt.
    """
    each = bytes_on_the_way_back(model, rows.shape[1])  # a method may take gradients
    token_budget = limit("sweep_tokens", rows.ids.device, given=token_budget, each=each)
    if token_budget < 1:
        raise CasebackError(f"token_budget={token_budget}: expected at least 1 token per batch")
    lengths, start = rows.lengths.tolist(), 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and (stop + 1 - start) * max(lengths[start : stop + 1]) <= token_budget:
            stop += 1
        which = slice(start, stop)
        part = cut(rows[which])
        yield scores_of(name, method, model, part, metric_of(which), options)
        start = stop


def cut(tokens: Tokens) -> Tokens:
    """The same prompts without the columns that are padding in all of them."""
    used = tokens.mask.any(0)
    return Tokens(tokens.ids[:, used], tokens.mask[:, used], tokens.text)
