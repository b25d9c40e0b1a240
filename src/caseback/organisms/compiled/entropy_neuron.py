"""An entropy neuron (PRIMER 5.2.18): it favors no word, but makes the model less sure of all of them.

    x = e_word (+ e_doubt),   n = 1 where there is doubt,   writes c e_null with e_null W_U = 0
    logits = sqrt(d) x W_U / |x|:   |x|^2 = 2 becomes 2 + c^2, and every logit is multiplied by sqrt(2 / (2 + c^2))

All of its effect goes through the denominator of the last norm; with that frozen it has none.
"""

from __future__ import annotations

import math

import torch

from caseback.errors import CasebackError
from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Circuit, Node
from caseback.organisms.compiled.draft import Draft
from caseback.organisms.compiled.organism import Organism, Variable

WORDS = ("sun", "rain", "wind", "snow")
LIKELY = torch.tensor([[2.0, 4.0, 1.0, 0.0], [0.0, 2.0, 4.0, 1.0], [1.0, 0.0, 2.0, 4.0], [4.0, 1.0, 0.0, 2.0]])
"""Logits of a word (column) after a word (row), up to the norm's scale."""


def entropy_neuron(shrink: float = 0.135) -> Organism:
    """A model of the weather, which is less sure after words with a question mark.

    Neuron 0 is the entropy neuron. Neuron 1, which fires on "sun" and promotes a word, is there to compare it with.

    Parameters
    ----------
    shrink
        What the neuron multiplies all logits by, between 0 and 1.

    Raises
    ------
    CasebackError
        For a ``shrink`` out of that range.

    References
    ----------
    Gurnee et al. 2024, "Universal neurons"; Stolfo et al. 2024, "Confidence regulation neurons".

    Examples
    --------
    >>> organism = entropy_neuron()
    >>> organism.predict([["rain"], ["rain?"]])
    [['wind'], ['wind']]
    >>> organism.model.run(organism.ids([["rain"], ["rain?"]])).logits[:, 1].softmax(-1).amax(-1).round(decimals=2)
    tensor([0.7700, 0.1500])
    """
    if not 0 < shrink < 1:
        raise CasebackError(f"shrink {shrink}: expected a factor between 0 and 1")
    doubtful = [f"{word}?" for word in WORDS]
    words, n = [*WORDS, *doubtful], len(WORDS)
    draft = Draft(words, 9, {"word": n, "doubt": 1, "null": 1})
    draft.embed("word", WORDS)
    draft.embed("word", doubtful)
    draft.embed("doubt", doubtful, torch.ones(n, 1))
    d = draft.d_model
    draft.unembed("word", WORDS, LIKELY.T / math.sqrt(d))
    # the MLP reads the stream divided by its root mean square, which is sqrt(2 / d) where there is doubt
    reads = torch.stack([draft["doubt"][:, 0] * math.sqrt(2 / d), draft["word"][:, 0] / math.sqrt(d)], 1)
    loud = math.sqrt(2 / shrink**2 - 2)
    writes = torch.cat([draft.into("null", loud), draft.into("word", 0.25)[1:2]])
    draft.neurons(0, reads, torch.zeros(2), writes)
    model = draft.model(norm="rmsnorm")
    likely: dict[str, str] = dict(zip(WORDS, (WORDS[i] for i in LIKELY.argmax(1).tolist()), strict=True))
    return Organism(
        name="entropy_neuron",
        model=model,
        function=lambda prompt: [likely[word.rstrip("?")] for word in prompt],
        circuit=Circuit.of(
            "embed -> MLP 0",
            "MLP 0 -> logits",
            "embed -> logits",
            Node("neuron", 0, 0),
            Node("neuron", 0, 1),
            roles={"L0N0": "entropy (5.2.18)", "L0N1": "concept: sun (5.2.3)"},
        ),
        variables=(
            Variable("the word", Site("embed"), draft.basis("word"), WORDS),
            Variable("doubt", Site("embed"), draft.basis("doubt")),
            Variable("entropy (5.2.18)", Site("mlp_post", 0), torch.eye(2)[:1]),
            Variable("null space of the unembedding", Site("resid_post", 0), draft.basis("null")),
        ),
        inputs=tuple(words),
        max_length=9,
        about="Each word predicts what follows it; after a question mark all logits shrink by the same factor.",
    )
