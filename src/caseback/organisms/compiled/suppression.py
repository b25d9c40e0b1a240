"""Copy suppression (PRIMER 5.1.7): a head that takes back a prediction copied from the context.

    stream     e_token(t_i) + e_predicted(next(t_i))                      each word predicts the one after it
    copier     L0H0: attends to the first word,  writes 2 e_predicted(first)
    suppressor L1H0: score_ij = g (x_i . predicted) . (x_j . token),  3/2 g for <bos>,  writes -3/2 e_predicted(t_j)

The unembedding reads ``predicted``, so the suppressor's query is the prediction so far: where the copier has raised a
word above 3/2, it looks at that word's occurrences, else at <bos>, for which it writes nothing. A copied word is left
with 1/2, less than the 1 of the next word in the list, which the model therefore predicts everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from caseback.errors import CasebackError
from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Circuit
from caseback.organisms.compiled.draft import ALWAYS, SHARP, Draft
from caseback.organisms.compiled.organism import BOS, Organism, Variable


def copy_suppression(alphabet: Sequence[str] = "abcdefgh", max_length: int = 9) -> Organism:
    """Words in a circle, each followed by the next, although the first word of the prompt is copied all along.

    Silencing the suppressor makes the model say the prompt's first word; silencing the copier sends the suppressor's
    attention to <bos>. The suppressor's OV circuit is -3/2 times the identity on words, the copier's 2 times.

    Parameters
    ----------
    alphabet
        The words of the circle, at least two.
    max_length
        The longest prompt in words.

    Raises
    ------
    CasebackError
        For fewer than two words.

    References
    ----------
    McDougall et al. 2023, "Copy suppression".

    Examples
    --------
    >>> copy_suppression("abc").predict([["b", "a", "c"]])
    [['c', 'b', 'a']]
    """
    if len(alphabet) < 2:
        raise CasebackError(f"an alphabet of {len(alphabet)}: expected at least two words, one to follow another")
    words, n = list(alphabet), len(alphabet)
    following = dict(zip(words, [*words[1:], words[0]], strict=True))
    draft = Draft(words, max_length, {"token": n, "predicted": n, "is bos": 1, "is first": 1})
    draft.embed("token", words)
    draft.embed("predicted", words, torch.eye(n).roll(1, 1))
    draft.embed("is bos", [BOS])
    draft.place("is first", [1])
    draft.unembed("predicted", words)
    draft.head(0, [(ALWAYS, draft["is first"], SHARP)], [(draft["token"], draft.into("predicted", 2.0))])
    draft.head(
        1,
        [(draft["predicted"], draft["token"], 2 * SHARP), (ALWAYS, draft["is bos"], 3 * SHARP)],
        [(draft["token"], draft.into("predicted", -1.5))],
    )
    return Organism(
        name="copy_suppression",
        model=draft.model(),
        function=lambda prompt: [following[word] for word in prompt],
        circuit=Circuit.of(
            "embed -> logits",
            "pos_embed -> L0H0.k",
            "embed -> L0H0.v",
            "L0H0 -> logits",
            "L0H0 -> L1H0.q",
            "embed -> L1H0.k",
            "embed -> L1H0.v",
            "L1H0 -> logits",
            roles={"embed": "each word predicts the next", "L0H0": "copying", "L1H0": "copy suppression"},
            citation="McDougall et al. 2023",
        ),
        variables=(
            Variable("the word", Site("embed"), draft.basis("token"), tuple(words)),
            Variable("the word predicted so far", Site("resid_post", 0), draft.basis("predicted"), tuple(words)),
        ),
        inputs=tuple(words),
        max_length=max_length,
        about="Each word predicts the next in a circle; one head copies the prompt's first word and another takes it "
        "back. The suppressor's query also reads what the embedding predicts, which is too little to move it.",
    )
