"""Which features of a dictionary are active on each token of a prompt, and which words they write, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.features.reading import feature_words, features_on
from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.running.edits import Edit
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.quick.one_prompt import one_prompt, tokens_of
from caseback.reports.tokens_text import visible

__all__ = ["PROMPT_FEATURES", "prompt_features"]

WORDS = 4


@checked
def prompt_features(
    model: Model,
    prompt: PromptsLike,
    dictionary: Dictionary,
    *,
    name: str = "",
    edits: Edit | Sequence[Edit] = (),
    top: int = 8,
) -> dict[str, Any]:
    """The features that are most active on each token, as the dictionary reads them under some edits.

    Edits of features of this very dictionary act behind what it reads, so a feature that is turned stays in the list.

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt: text, a list of token ids, or ``Tokens``.
    dictionary
        What reads the model's states; it must say which site.
    name
        What the dictionary is called.
    edits
        Interventions under which it runs; none by default.
    top
        How many features a token.

    Returns
    -------
    dict
        The document: ``tokens``; ``active``, by token a list of ``feature`` and ``activation``, the largest first, and
        ``counts``, how many are active; ``words``, by feature the tokens whose logits it raises and lowers most on the
        direct path, none where the dictionary does not write the stream.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> one = TopK(160, 320, k=4, facts=Facts(site="resid_post.1"))
    >>> document = prompt_features(cb.load("meadow"), "Mary went", one, top=2)
    >>> [len(row) for row in document["active"]], document["counts"]
    ([2, 2, 2], [4, 4, 4])
    """
    tokens = one_prompt(model, prompt, "prompt_features")
    on = features_on(model.edited(edits) if edits else model, dictionary, tokens, top=top).isel(batch=0)
    ids, values = on.feature.values, on.activation.values
    active = [
        [{"feature": int(i), "activation": float(x)} for i, x in zip(*row, strict=True) if i >= 0]
        for row in zip(ids, values, strict=True)
    ]
    return PROMPT_FEATURES.document(
        model_facts(model),
        dictionary={"name": name, "site": dictionary.facts.site, "features": dictionary.n_features},
        tokens=tokens_of(tokens),
        active=active,
        counts=on.active.values.tolist(),
        words=_words(model, dictionary, sorted(set(ids[ids >= 0].tolist()))),
    )


def _words(model: Model, dictionary: Dictionary, features: list[int]) -> dict[str, Any]:
    if dictionary.d_out != model.d_model or not features:
        return {}
    words = feature_words(model, dictionary, features, top=WORDS)
    up, down = (
        np.vectorize(visible, otypes=[object])(words[f"{side}_token"].values).tolist() for side in ("up", "down")
    )
    return {str(i): {"up": up[row], "down": down[row]} for row, i in enumerate(features)}


def _lengths(document: Mapping[str, Any]) -> None:
    n = len(document["tokens"])
    if len(document["active"]) != n or len(document["counts"]) != n:
        raise CasebackError(f"features: not a list for each of {n} tokens")


PROMPT_FEATURES = DocumentKind(
    "caseback.prompt_features",
    1,
    "a document of a prompt's features",
    "prompt_features",
    sections=("dictionary", "tokens", "active", "counts", "words"),
    lengths=_lengths,
)
