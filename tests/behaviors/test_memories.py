"""Associative memories: planted outer products are recalled, one pair at a time; random weights recall nothing."""

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors import emergence, memory_recall
from caseback.behaviors.growth.memories import strongest
from caseback.errors import CasebackError
from caseback.organisms.compiled import build
from caseback.organisms.compiled.draft import Draft

WORDS = [f"w{i}" for i in range(12)]


def planted(recalled):
    """A head that copies so many of its words, and lowers the others below a constant word's."""
    draft = Draft(WORDS, 6, {"word": len(WORDS), "out": len(WORDS)})
    draft.embed("word", WORDS)
    draft.unembed("out", WORDS)
    copy = torch.eye(len(WORDS))
    copy[recalled:] = torch.eye(len(WORDS))[0]  # written as the first word
    draft.head(0, [], [(draft["word"] @ copy, draft.into("out"))])
    model = draft.model(layers=1)
    return cb.load(model.hf.double(), tokenizer=model.tokenizer)


@pytest.mark.parametrize("recalled", [3, 7, 12])
def test_5_4_13_the_share_of_planted_pairs_is_recalled(recalled):
    table = memory_recall(planted(recalled))
    assert float(table["copies"][0, 0]) == pytest.approx(recalled / len(WORDS))
    assert float(table["matches"].notnull().sum()) == 0


def test_a_compiled_induction_head_is_made_of_all_three():
    table = memory_recall(build("induction", alphabet="abcdef", max_length=10).model)
    assert float(table["places"][0, 0]) == float(table["matches"][0, 0, 1, 0]) == float(table["copies"][1, 0]) == 1
    assert float(table["places_control"][0, 0]) == float(table["copies_control"][1, 0]) == 0


def test_recall_is_that_of_matrices_written_out():
    """Every map of one pair of heads, by whole matrices."""
    model = cb.load("meadow", dtype="float64")
    table = memory_recall(model, words=60, seed=3)
    tokens = np.random.default_rng(3).permutation(cb.tasks.standard.repeats.ordinary_tokens(model))[:60]
    w = model.weights.folded()
    x = w.W_E[torch.as_tensor(tokens)] * 1.0
    written = x @ w.W_V[0][2] @ w.W_O[0][2]
    scores = (x @ w.W_Q[1][4]) @ (written @ w.W_K[1][4]).T
    by_hand = float((scores.argmax(1) == torch.arange(60)).double().mean())
    assert float(table["matches"].sel(layer=0, head=2, layer_to=1, head_to=4)) == pytest.approx(by_hand)
    raised = written @ w.W_U[:, torch.as_tensor(tokens)]
    by_hand = float((raised.argmax(1) == torch.arange(60)).double().mean())
    assert float(table["copies"].sel(layer=0, head=2)) == pytest.approx(by_hand)
    assert bool(table["matches"].sel(layer=1, layer_to=1).isnull().all())


def test_random_weights_recall_no_more_than_chance():
    start = cb.load(str(cb.organisms.checkpoints("induction")[0]))
    table = memory_recall(start, words=200)
    for name in ("copies", "matches"):
        assert float(table[name].max()) < 0.05


def test_the_memory_of_places_arises_with_the_previous_token_head():
    steps = cb.organisms.checkpoints("induction")
    grown = emergence({step: steps[step] for step in (900, 1000)}, kinds="previous token", rows=8)
    before, after = np.array(grown.curve("memory of places").values, float)
    assert before < 0.3 and after > 0.8
    assert np.array(grown.curve("memory of places").beside, float).max() < 0.3


def test_what_a_model_does_not_have_says_why():
    with pytest.raises(CasebackError, match="no layer follows another"):
        strongest(memory_recall(planted(3)), "matches")
    with pytest.raises(CasebackError, match="two or more"):
        memory_recall(planted(3), words=1)
