"""Neurons by the words that they promote and the answers that they carry: formulas, planted units, and nothing else."""

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors.evidence import TEXT, collect_evidence
from caseback.behaviors.kinds import KINDS
from caseback.behaviors.neurons import value_vectors
from caseback.behaviors.proofs.experiments import EXPERIMENTS
from caseback.behaviors.proofs.proving import prove
from caseback.errors import SiteAbsent
from planted_neurons import corpus, fresh, labeled

FAMILIES = ("gpt2", "llama", "bloom", "gptj", "olmo2")
VALUE_NEEDS = {TEXT: ("neuron_groups", "neuron_histograms", "neuron_moments", "token_counts")}
LIKE = [33, 34, 35]


@pytest.fixture
def few_words(monkeypatch):
    """Three words in place of ten: of 61 that there are ten are a sixth, and many rows raise them."""
    monkeypatch.setattr(value_vectors, "HIGHEST", len(LIKE))


def written_as(model, layer, row):
    """A row of W_out that reaches the stream along a direction, whatever norm stands behind."""
    norm = model.weights.mlp_post_norm[layer]
    return row if norm is None else row / norm.gamma


def outcome_of(evidence, name, unit):
    kind, at = KINDS[name], evidence.neurons.index(unit)
    experiment = EXPERIMENTS[kind.proof].each(evidence, kind.look(evidence), at)
    return prove(evidence, experiment, {name: [at]}, {name: [at]}, KINDS, together=False)[name, at]


def promoting(family, *, alike=True, sign=1):
    """A model whose L2N6 raises three words above all others, which are alike in what it does not write, or are not."""
    model = fresh(family)
    with torch.no_grad():
        unembed = model.anatomy.unembed.weight
        if alike:
            unembed[LIKE] = 0.8 * unembed[LIKE[0]] + 0.5 * unembed[LIKE]
        unembed[:, 11] = 0
        unembed[LIKE, 11] = 2 * unembed.std()
        size = model.weights.W_out[2].norm(dim=1).mean()  # no more than others write, or control rows have it too
        model.weights.W_out[2][6] = written_as(model, 2, sign * size * torch.eye(model.d_model).double()[11])
        if model.anatomy.layers[2].w_gate is not None:  # then the product is above 0
            model.weights.W_gate[2][:, 6] = model.weights.W_in[2][:, 6] * sign
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_neuron_that_promotes_words_that_are_alike_is_found_and_proved_and_no_other(family, few_words):
    evidence = collect_evidence(promoting(family), corpus(40), VALUE_NEEDS, length=40)
    names, false = labeled(evidence, "concept promoting")
    assert names == {"L2N6"} and false <= 1
    at = evidence.neurons.index((2, 6))
    assert set(value_vectors.promoted(evidence, at).tolist()) == set(LIKE)
    look = KINDS["concept promoting"].look(evidence)
    assert set(map(int, look.classes[at].split(", "))) == set(LIKE)
    outcome = outcome_of(evidence, "concept promoting", (2, 6))
    assert outcome.proved == "alone" and outcome.effect > 1.5
    # the same words, raised as far, that have no more in common than that
    evidence = collect_evidence(promoting(family, alike=False), corpus(40), VALUE_NEEDS, length=40)
    assert labeled(evidence, "concept promoting")[0] == set()
    # and the same neurons in another basis
    model = promoting(family)
    width = len(model.weights.W_out[2])
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(5)).double())
    with torch.no_grad():
        model.weights.W_out[2].copy_(turn @ model.weights.W_out[2])
    evidence = collect_evidence(model, corpus(40), VALUE_NEEDS, length=40)
    assert labeled(evidence, "concept promoting")[0] == set()


def test_the_sign_of_a_gated_neuron_s_activations_turns_what_it_promotes(few_words):
    """silu(-x) x is below 0, so a row that lowers words raises them."""
    evidence = collect_evidence(promoting("llama", sign=-1), corpus(40), VALUE_NEEDS, length=40)
    assert labeled(evidence, "concept promoting")[0] == {"L2N6"}
    assert outcome_of(evidence, "concept promoting", (2, 6)).proved == "alone"
    opposite = promoting("llama")
    with torch.no_grad():
        opposite.weights.W_gate[2][:, 6] *= -1
    assert labeled(collect_evidence(opposite, corpus(40), VALUE_NEEDS, length=40), "concept promoting")[0] == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_along_a_word_s_unembedding_raises_that_word_most(family):
    model = fresh(family)
    folded = model.weights.folded(centre_vocab=True)
    direction = folded.W_U[:, 17] / folded.W_U[:, 17].norm() ** 2
    with torch.no_grad():
        model.weights.W_out[1][4] = written_as(model, 1, direction)
    evidence = collect_evidence(model, corpus(10), VALUE_NEEDS, length=40)
    words = value_vectors.words(evidence)
    z, far, at = words.raised(evidence.folded.W_out[1][[4]])
    logits = (evidence.folded.W_out[1][4] @ evidence.folded.W_U)[words.ids]
    torch.testing.assert_close(z[0], (logits - logits.mean()) / logits.std(correction=0))
    assert logits.argmax() == at[0, 0] and far[0, 0] == z.max()


def test_promotion_is_the_mean_over_pairs():
    draw = torch.Generator().manual_seed(0)
    alike, z = torch.randn(40, 8, generator=draw).double(), torch.rand(3, 10, generator=draw).double()
    at = torch.stack([torch.randperm(40, generator=draw)[:10] for _ in range(3)])
    shared = torch.nn.functional.normalize(torch.randn(3, 8, generator=draw).double(), dim=1)
    for row, score in enumerate(value_vectors.promotion(z, at, alike, shared)):
        left = alike[at[row]] - torch.outer(alike[at[row]] @ shared[row], shared[row])
        pairs = [(s, t) for s in range(10) for t in range(10) if s != t]
        cosines = [torch.cosine_similarity(left[s], left[t], dim=0) * z[row, s] * z[row, t] for s, t in pairs]
        assert score.item() == pytest.approx(float(np.mean([float(c) for c in cosines])), abs=1e-12)


def test_words_are_one_token_each_whatever_their_case():
    model = cb.load("meadow")
    texts = [model.token_text(token) for token in value_vectors.words_of(model)]
    assert " river" in texts and len({text.lower() for text in texts}) == len(texts) > 500
    assert all(text[0] == " " and text[1:].isalpha() for text in texts)
    with pytest.raises(SiteAbsent, match="words of one token"):
        value_vectors.Words(collect_evidence(cb.load("induction"), None, {}))
