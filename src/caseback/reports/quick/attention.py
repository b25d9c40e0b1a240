"""Where each head of a layer looks on one prompt, under changes of the model, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caseback.errors import CasebackError, TokensError
from caseback.jobs.budget import limit
from caseback.model.arguments import checked
from caseback.model.running.edits import Edit
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
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
        The document: ``tokens``, ``layer``, and ``patterns`` (head, query, key), shares of 1 to four digits.

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
    """
    tokens = one_prompt(model, prompt, "prompt_attention")
    (site,) = model.anatomy.sites(("pattern", layer))
    heads = model.anatomy.layers[site.layer or 0].dims.n_heads
    entries, most = heads * tokens.shape[1] ** 2, limit("page_pattern_entries")
    if entries > most:
        raise TokensError(
            f"{heads} maps of {tokens.shape[1]} tokens have {entries:,} entries, at most {most:,} are drawn"
        )
    pattern = attention_of_layer(model.run(tokens, read=[site], edits=edits), site.layer or 0)
    return ATTENTION.document(
        model_facts(model),
        tokens=tokens_of(tokens),
        layer=site.layer,
        patterns=np.round(pattern.values.astype(float), 4).tolist(),
    )


def _lengths(document: Mapping[str, Any]) -> None:
    n = len(document["tokens"])
    if any(len(rows) != n or any(len(row) != n for row in rows) for rows in document["patterns"]):
        raise CasebackError(f"attention: patterns that are not of {n} tokens")


ATTENTION = DocumentKind(
    "caseback.attention",
    1,
    "a document of attention",
    "prompt_attention",
    sections=("tokens", "layer", "patterns"),
    lengths=_lengths,
)
