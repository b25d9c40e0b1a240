"""Editing in context (IKE): the new fact is told before each prompt, behind demonstrations of how told facts are used.

    New Fact: PROMPT NEW            copy: the prompt itself, answered by the new object
    Prompt: QUESTION ANSWER         update: a paraphrase, the new object;  retain: a neighbor, its own answer

Demonstrations are made of other facts, the nearest by tf-idf cosine, the three kinds in turn. No weight and no state is
touched, so what it costs is context.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caseback.edit.facts import Fact, Question, spaced
from caseback.errors import OutOfRange
from caseback.model.arguments import checked


@checked
def demonstrations(fact: Fact, others: Sequence[Fact], *, k: int = 16) -> str:
    """What stands before a prompt so that the model takes a new fact from its context.

    Parameters
    ----------
    fact
        What is told.
    others
        Facts to demonstrate with; those about the same subject are left out.
    k
        How many demonstrations; 16 to 32 in the paper.

    Returns
    -------
    str
        A context, as ``scores(..., context=...)`` takes it.

    Notes
    -----
    Entry 5.4.26: Zheng et al. 2023, "Can we edit factual knowledge by in-context learning?".

    Examples
    --------
    >>> other = Fact("The capital of {} is", "Spain", "Oslo", "Madrid")
    >>> print(demonstrations(Fact("The capital of {} is", "France", "Rome"), [other], k=1))
    New Fact: The capital of Spain is Oslo
    Prompt: The capital of Spain is Oslo
    <BLANKLINE>
    New Fact: The capital of France is Rome
    Prompt:
    """
    if k < 0:
        raise OutOfRange(f"k is {k}: expected 0 demonstrations or more")
    usable = [one for one in others if one.subject != fact.subject]
    shown = [usable[i] for i in nearest_texts(fact.text, [one.text for one in usable], k)]
    blocks = [f"New Fact: {_statement(one)}\nPrompt: {' '.join(_shown(one, i))}\n\n" for i, one in enumerate(shown)]
    return "".join(blocks) + f"New Fact: {_statement(fact)}\nPrompt:"


def _statement(fact: Fact) -> str:
    return f"{fact.text}{spaced(fact.new)}"


def _shown(fact: Fact, turn: int) -> Question:
    """Copy, update and retain in turn, of what the fact has."""
    kinds: list[Question] = [(fact.text, fact.new.strip())]
    if fact.paraphrases:
        kinds.append((fact.paraphrases[turn % len(fact.paraphrases)], fact.new.strip()))
    if fact.neighbors:
        text, answer = fact.neighbors[turn % len(fact.neighbors)]
        kinds.append((text, answer.strip()))
    return kinds[turn % len(kinds)]


def nearest_texts(text: str, others: Sequence[str], k: int) -> list[int]:
    """The k texts nearest to one by tf-idf cosine, the nearest last, where it is read last."""
    if not others or not k:
        return []
    return np.argsort(similarity([text], others)[0], kind="stable")[-k:].tolist()


def similarity(ones: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Tf-idf cosines (one, other) of texts, the words of all of them being the vocabulary."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        rows = TfidfVectorizer().fit_transform([*ones, *others])
    except ValueError:  # no words at all
        return np.zeros((len(ones), len(others)))
    return (rows[: len(ones)] @ rows[len(ones) :].T).toarray()
