"""The attributes rate: how many of the tokens that a state says are words about a subject.

    rate(h, s) = |top-k tokens of lens(h)  ∩  A_s| / k,    control: A_t of the other subjects t

A_s are words that go with s. Where nobody gives them, they are those that the model itself says after texts about s,
without pieces of words and without what it says of more than half of the subjects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from caseback.decode.vocabulary.lenses.logit_lens import logit_lens
from caseback.edit.facts import Fact
from caseback.edit.places import pieces_of
from caseback.errors import CasebackError
from caseback.model.running.model import Model

ABOUT = ("{} is", "{} is known for", "When people speak of {}, they think of")
GIVEN = 10
"""How many of the model's words for the next token of a text are taken."""
LETTERS = 3
"""The fewest letters of a word: shorter ones belong to the language rather than to a subject."""


def attribute_words(
    model: Model, facts: Sequence[Fact], attributes: Mapping[str, Sequence[str]] | None
) -> Bool[Tensor, "fact vocab"]:
    """Which tokens are attributes of each fact's subject.

    Parameters
    ----------
    model, facts
        As for ``fact_flow``.
    attributes
        Words of each subject, of which the first pieces count; None: those that the model itself gives.

    Raises
    ------
    CasebackError
        For a subject without words.
    """
    if attributes is not None:
        lacking = [fact.subject for fact in facts if not attributes.get(fact.subject)]
        if lacking:
            raise CasebackError(f"no attribute is given for {lacking[0]!r}: expected words for every subject")
        ids = [[word[0] for word in pieces_of(model, list(attributes[fact.subject]))] for fact in facts]
        return _members(ids, model.d_vocab)
    subjects = list(dict.fromkeys(fact.subject for fact in facts))
    texts = {subject: [text.replace("{}", subject) for text in ABOUT] for subject in subjects}
    for fact in facts:
        texts[fact.subject] += [fact.text, *fact.paraphrases]
    flat = [text for subject in subjects for text in texts[subject]]
    top = logit_lens(model, flat, pos=-1, k=min(GIVEN, model.d_vocab))["top_id"].values[-1]
    cuts = np.cumsum([len(texts[subject]) for subject in subjects])[:-1]
    lists = _members([part.ravel().tolist() for part in np.split(top, cuts)], model.d_vocab)
    common = lists.sum(0) * 2 > len(subjects) if len(subjects) > 2 else torch.zeros(model.d_vocab, dtype=torch.bool)
    some = lists.any(0).nonzero()[:, 0].tolist()
    words = torch.zeros(model.d_vocab, dtype=torch.bool)
    words[[token for token in some if _is_word(model.token_text(token))]] = True
    own = lists & words & ~common
    return own[[subjects.index(fact.subject) for fact in facts]]


def rates(
    top: Int[np.ndarray, "layer fact k"], members: Bool[Tensor, "fact vocab"], subjects: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The attributes rate of each state with its own subject's words, and the mean with every other subject's.

    Returns
    -------
    tuple
        Two of (layer, fact); the second is NaN where there is no other subject.
    """
    hits = members.numpy()[:, top].mean(-1)  # (whose words, layer, fact)
    fact = np.arange(len(subjects))
    other = np.array([[one != two for two in subjects] for one in subjects])
    with np.errstate(invalid="ignore"):
        beside = (hits * other[:, None]).sum(0) / np.where(other.any(0), other.sum(0), np.nan)
    return hits[fact, :, fact].T, beside


def _members(ids: Sequence[Sequence[int]], d_vocab: int) -> Bool[Tensor, "row vocab"]:
    members = torch.zeros(len(ids), d_vocab, dtype=torch.bool)
    for row, own in zip(members, ids, strict=True):
        row[list(own)] = True
    return members


def _is_word(text: str) -> bool:
    """Whether a token begins a word and is long enough for one."""
    return text[:1].isspace() and text.strip().isalpha() and len(text.strip()) >= LETTERS
