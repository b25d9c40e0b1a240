"""Where each head of a layer looks on one prompt, under changes of the model and without them, as plain data.

    moved_h = mean over queries of 1/2 sum_k |A_h(k) - A'_h(k)|            the share of its attention that is elsewhere

A' is the head's pattern without the changes, from a run of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caseback.errors import CasebackError, TokensError
from caseback.jobs.budget import limit
from caseback.model.anatomy.sites import Site
from caseback.model.arguments import checked
from caseback.model.running.edits import Edit, listed
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.reports.document import DocumentKind
from caseback.reports.figures.attention_maps import attention_of_layer
from caseback.reports.model_facts import model_facts
from caseback.reports.quick.one_prompt import one_prompt, tokens_of

__all__ = ["ATTENTION", "prompt_attention"]


@checked
def prompt_attention(
    model: Model, prompt: PromptsLike, layer: int = 0, *, edits: Edit | Sequence[Edit] = ()
) -> dict[str, Any]:
    """The attention patterns of a layer's heads.

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt: text, a list of token ids, or ``Tokens``.
    layer
        Which layer.
    edits
        Interventions under which it runs; none by default.

    Returns
    -------
    dict
        The document: ``tokens``, ``layer``, and ``patterns`` (head, query, key), shares of 1 to four digits. Where
        there are edits also ``before``, the patterns without them, and ``moved`` (head), the share of a head's
        attention that is elsewhere, a mean over queries; else both are None.

    Raises
    ------
    TokensError
        For several prompts, or one so long that its maps would not open.
    UnknownSite
        For a layer that is not there.

    Examples
    --------
    >>> import caseback as cb
    >>> document = prompt_attention(cb.load("meadow"), "Mary went to the", layer=1)
    >>> len(document["patterns"]), document["patterns"][0][0][0]
    (5, 1.0)
    >>> document["before"] is None
    True
    """
    tokens = one_prompt(model, prompt, "prompt_attention")
    (site,) = model.anatomy.sites(("pattern", layer))
    heads = model.anatomy.layers[site.layer or 0].dims.n_heads
    changed = listed(edits)
    maps = heads * (2 if changed else 1)
    entries, most = maps * tokens.shape[1] ** 2, limit("page_pattern_entries")
    if entries > most:
        raise TokensError(
            f"{maps} maps of {tokens.shape[1]} tokens have {entries:,} entries, at most {most:,} are drawn"
        )
    here = _patterns(model, tokens, site, changed)
    before = _patterns(model, tokens, site, []) if changed else None
    return ATTENTION.document(
        model_facts(model),
        tokens=tokens_of(tokens),
        layer=site.layer,
        patterns=np.round(here, 4).tolist(),
        before=None if before is None else np.round(before, 4).tolist(),
        moved=None if before is None else (np.abs(here - before).sum(-1) / 2).mean(-1).tolist(),
    )


def _patterns(model: Model, tokens: Tokens, site: Site, edits: Sequence[Edit]) -> np.ndarray:
    """(head, query, key) of a layer."""
    run = model.run(tokens, read=[site], edits=edits)
    return attention_of_layer(run, site.layer or 0).values.astype(float)


def _lengths(document: Mapping[str, Any]) -> None:
    n, before = len(document["tokens"]), document["before"]
    for patterns in (document["patterns"], before or []):
        if any(len(rows) != n or any(len(row) != n for row in rows) for rows in patterns):
            raise CasebackError(f"attention: patterns that are not of {n} tokens")
    if before is not None and not len(before) == len(document["moved"]) == len(document["patterns"]):
        raise CasebackError(f"attention: not {len(document['patterns'])} heads before the changes and after")


ATTENTION = DocumentKind(
    "caseback.attention",
    2,
    "a document of attention",
    "prompt_attention",
    sections=("tokens", "layer", "patterns", "before", "moved"),
    lengths=_lengths,
)
