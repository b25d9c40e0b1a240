"""What an edit does besides: to plain text, and to what the model writes of the subject. (PRIMER 5.4.26)

KL             mean over positions of KL(before || after)
perplexity     exp of the mean loss per token, before and after
fluency        the mean of 2/3 H2 and 4/3 H3, entropies in bits of generated bigrams and trigrams of words
consistency    tf-idf cosine of what is generated with texts about things that have the new object
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from caseback.edit.facts import Fact
from caseback.edit.in_context import similarity
from caseback.edit.rome import listed_facts
from caseback.edit.scores import blocks
from caseback.errors import EditError
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.arguments import checked
from caseback.model.results import labelled
from caseback.model.running.model import Model


@checked
def on_plain_text(before: Model, after: Model, texts: Sequence[str]) -> xr.DataArray:
    """What an edit changes of the predictions on plain text.

    Parameters
    ----------
    before, after
        The model, and the model under an edit.
    texts
        Neutral texts, of two tokens or more.

    Returns
    -------
    xr.DataArray
        (measure,): ``kl`` in nats, ``perplexity_before`` and ``perplexity_after``; an edit that breaks the model shows
        in the last one first.

    Raises
    ------
    EditError
        For no text of two tokens.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> on_plain_text(model, model, ["Mary went to the store."]).sel(measure="kl").item()
    0.0
    """
    tokens = before.tokens(list(texts))
    rows = [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise EditError("no text has two tokens: expected texts whose next tokens can be predicted")
    kl, losses, n = 0.0, [0.0, 0.0], 0
    for block in blocks(before, [len(row) for row in rows]):
        some = before.tokens([rows[i] for i in block])
        counted = some.mask[:, 1:] & some.mask[:, :-1]
        was, now = (at_least_float32(m.run(some).logits).log_softmax(-1)[:, :-1] for m in (before, after))
        kl += float(torch.where(counted, (was.exp() * (was - now)).sum(-1), 0.0).sum())
        for i, log_p in enumerate((was, now)):
            own = -log_p.gather(-1, some.ids[:, 1:, None])[..., 0]
            losses[i] += float(torch.where(counted, own, 0.0).sum())
        n += int(counted.sum())
    values = [kl / n, math.exp(min(losses[0] / n, 700.0)), math.exp(min(losses[1] / n, 700.0))]
    names = ["kl", "perplexity_before", "perplexity_after"]
    return labelled(values, ("measure",), {"measure": names}, name="side_effect", model=before, n_tokens=n)


@checked
def of_generation(model: Model, facts: Sequence[Fact], *, max_new_tokens: int = 100, context: str = "") -> xr.DataArray:
    """How what a model writes of subjects reads: fluency, and likeness to texts about the new object.

    Parameters
    ----------
    model
        The model, under an edit or not.
    facts
        Facts with ``openings``; ``references`` for consistency. Without openings, the fact's prompt is continued.
    max_new_tokens
        How much is written, greedily; at most 100 in CounterFact.
    context
        A text before every opening, for editing in context; it is not counted.

    Returns
    -------
    xr.DataArray
        (batch, measure): ``fluency`` in bits (papers multiply by 100) and ``consistency``.

    Examples
    --------
    >>> import caseback as cb
    >>> fact = Fact("The capital of {} is", "France", "Rome", "Paris", references=["Rome is old."])
    >>> of_generation(cb.load("meadow"), [fact], max_new_tokens=8).sizes["measure"]
    2
    """
    facts = listed_facts(facts)
    openings = [list(fact.openings) or [fact.text] for fact in facts]
    flat = [text for some in openings for text in some]
    before = f"{context} " if context else ""
    whole = model.text(model.generate([before + text for text in flat], max_new_tokens=max_new_tokens))
    whole = [text.removeprefix(before) for text in whole]
    rows, at = [], 0
    for fact, some in zip(facts, openings, strict=True):
        texts = whole[at : at + len(some)]
        at += len(some)
        likeness = similarity([" ".join(texts)], [" ".join(fact.references)])[0, 0] if fact.references else np.nan
        rows.append([float(np.mean([generation_entropy(text) for text in texts])), likeness])
    return labelled(
        rows,
        ("batch", "measure"),
        {"measure": ["fluency", "consistency"], "fact": ("batch", [str(fact) for fact in facts])},
        name="generation",
        model=model,
        max_new_tokens=max_new_tokens,
    )


@checked
def generation_entropy(text: str) -> float:
    """The mean of 2/3 H2 and 4/3 H3, entropies in bits of a text's bigrams and trigrams of words.

    Parameters
    ----------
    text
        What was generated. Words and punctuation marks count as words.

    Examples
    --------
    >>> generation_entropy("a a a a a a") == 0, round(generation_entropy("the cat sat on a mat"), 3)
    (True, 2.107)
    """
    words = re.findall(r"\w+|[^\w\s]", text)
    weighted = [weight * _entropy(words, n) for n, weight in ((2, 2 / 3), (3, 4 / 3))]
    return float(np.mean(weighted))


def _entropy(words: Sequence[str], n: int) -> float:
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values()) if total else 0.0
