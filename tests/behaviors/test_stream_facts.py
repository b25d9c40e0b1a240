"""Facts of the stream: planted directions, scales, biases and bigrams are found, and none in the control."""

import json

import numpy as np
import pytest
import torch

import zoo
from caseback.behaviors.evidence import TEXT
from caseback.behaviors.stream.facts import STREAM_NEEDS, stream_facts
from caseback.behaviors.stream.norms import eigenvalue_sign
from planted_neurons import corpus, evidence_of, fresh

FAMILIES = ("gpt2", "llama", "bloom", "gptj", "olmo2", "mixtral")


def facts_of(model, texts=None):
    return stream_facts(evidence_of(model, texts, STREAM_NEEDS))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_fact_is_measured_or_says_why_and_is_plain_data(family):
    facts = facts_of(fresh(family))
    for name, fact in facts.items():
        assert fact.missing or (fact.values and fact.control and fact.control_is), name
        assert json.loads(json.dumps(fact.to_json()))["name"] == name
    assert {name for name, fact in facts.items() if fact.missing} <= {"bigrams on the direct path"}


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_mean_cosines_and_norms_are_those_of_the_pairs(family):
    model, texts = fresh(family), corpus(4, length=12)
    facts = facts_of(model, texts)
    x = model.run(texts, read=["resid_post"])["resid_post", 1].detach()
    for words, some in (("all tokens", x), ("without first tokens", x[:, 4:])):
        flat = some.flatten(0, 1)
        unit = flat / flat.norm(dim=1, keepdim=True)
        cosines = unit @ unit.T
        mean = (cosines.sum() - len(flat)) / (len(flat) * (len(flat) - 1))
        assert facts["anisotropy"].values[words][1] == pytest.approx(mean.item(), abs=1e-6)
        logs = facts["norm growth"].values[f"mean log norm, {words}"]
        assert logs[1] == pytest.approx(flat.norm(dim=1).log().mean().item(), rel=1e-6)


@pytest.mark.parametrize("family", ("gpt2", "bloom"))
def test_a_planted_bias_is_a_rogue_dimension_that_gives_the_mean_cosine(family):
    model = fresh(family)
    assert 9.0 not in facts_of(model)["rogue dimensions"].values["dimensions in a quarter of the layers"]
    with torch.no_grad():
        model.anatomy.layers[0].w_out.bias[9] = 300
    facts = facts_of(model)
    rogue, mean = facts["rogue dimensions"], facts["anisotropy"]
    assert rogue.values["dimensions in a quarter of the layers"] == [9]
    assert 9.0 not in rogue.control["dimensions in a quarter of the layers"]
    assert min(mean.values["without first tokens"]) > 0.9
    assert min(mean.values["without first tokens, share of the top 1"]) > 0.9
    assert max(mean.control["without first tokens, share of the top 1"]) < 0.6


def test_a_first_token_of_another_size_is_massive_and_other_tokens_are_not():
    model = fresh("gpt2")
    with torch.no_grad():
        model.anatomy.pos_embed.weight[0, 9] = 5000
    fact = facts_of(model)["massive activations"]
    assert fact.values["massive dimensions, all tokens"] == [9]
    assert fact.values["massive dimensions, without first tokens"] == []
    assert fact.values["its dimension, all tokens"] == [9, 9, 9]
    assert min(fact.values["over the median, all tokens"]) > 1000 > max(fact.control["over the median, all tokens"])


def test_what_first_tokens_have_where_the_unembedding_hardly_reads_is_a_dark_band():
    model = fresh("llama")
    facts = facts_of(model)
    chance = facts["dark bands"].control["a random direction"]
    assert chance == 2 / 32
    folded = model.weights.folded(centre_vocab=True)
    low = torch.linalg.svd(folded.W_U).U[:, -1]
    with torch.no_grad():
        model.hf.get_input_embeddings().weight[60] = 500 * low
    texts = [[60, *row[1:]] for row in corpus(20)]
    dark = facts_of(model, [[t if t != 60 or i == 0 else 1 for i, t in enumerate(row)] for row in texts])["dark bands"]
    assert min(dark.values["first tokens"]) > 0.9 > max(dark.values["without first tokens"])


@pytest.mark.parametrize("family", ("gpt2", "llama", "olmo2"))
def test_scaled_writing_matrices_show_their_growth(family):
    model = fresh(family)
    before = facts_of(model)["norm growth"]
    with torch.no_grad():
        for layer in range(model.n_layers):
            for name in ("W_O", "W_out"):
                getattr(model.weights, name)[layer][:] *= 2.0**layer
    after = facts_of(model)["norm growth"]
    for name in ("W_O", "W_out"):
        key = f"growth of {name}"
        assert after.values[key] == pytest.approx(2 * before.values[key], rel=1e-6)
    for name in ("W_Q", "W_in"):
        assert after.control[f"growth of {name}"] == pytest.approx(before.control[f"growth of {name}"])
    grown = [fact.values["growth a layer, without first tokens"] for fact in (before, after)]
    # a norm behind the branch takes the scale out again
    assert grown[1] == pytest.approx(grown[0], rel=1e-2) if family == "olmo2" else grown[1] > 1.2 * grown[0]


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_heads_and_neurons_that_take_out_what_they_read(family):
    model = fresh(family)
    folded = model.weights.folded()
    with torch.no_grad():
        model.weights.W_O[1].copy_(-folded.W_V.per_head[1].mT)
        model.weights.W_out[2].copy_(-folded.W_in[2].T)
    fact = facts_of(model)["erasing writes"]
    assert fact.values["sign of heads' eigenvalues"][1] == pytest.approx(-1, abs=1e-5)
    assert fact.values["share of erasing neurons"] == [pytest.approx(0, abs=0.1)] * 2 + [1]
    assert max(map(abs, fact.control["sign of heads' eigenvalues"])) < 0.6
    assert max(fact.control["share of erasing neurons"]) < 0.1


def test_signs_of_eigenvalues_are_those_of_the_whole_matrix():
    draw = torch.Generator().manual_seed(0)
    w_v, w_o = torch.randn(3, 9, 4, generator=draw).double(), torch.randn(3, 4, 9, generator=draw).double()
    values = torch.linalg.eigvals(w_v @ w_o)
    expected = values.real.sum(1) / values.abs().sum(1)
    torch.testing.assert_close(eigenvalue_sign(w_v, w_o).double(), expected, rtol=1e-5, atol=1e-6)


def test_a_text_of_the_direct_path_s_bigrams_is_on_it_and_its_unigrams_in_the_bias():
    model = fresh("llama")
    folded = model.weights.folded(centre_vocab=True)
    logits = folded.W_E @ folded.W_U
    p = (1.5 * logits / logits.std()).softmax(1).numpy()

    def draw(rng, n):
        row = [int(rng.integers(1, zoo.VOCAB))]
        while len(row) < n:
            row.append(int(rng.choice(len(p), p=p[row[-1]])))
        return np.array(row)

    fact = facts_of(model, corpus(300, ids=draw))["bigrams on the direct path"]
    assert fact.values["rank correlation"] > 0.8 and fact.values["pairs"] > 100
    assert abs(fact.control["shuffled first tokens"]) < 0.3
    few = facts_of(model, corpus(4))["bigrams on the direct path"]
    assert "expected 20 at least" in few.missing and not few.values


def test_a_final_bias_along_the_unigrams_is_a_frequency_bias():
    model = fresh("gpt2")
    rng = np.random.default_rng(0)
    direction = torch.as_tensor(rng.standard_normal(model.d_model))
    logits = (direction @ model.weights.W_U.double()).numpy()
    p = np.exp(logits / logits.std())
    with torch.no_grad():
        model.anatomy.final_norm.bias.copy_(direction * 3)
    texts = corpus(300, ids=lambda rng, n: rng.choice(len(p), n, p=p / p.sum()))
    fact = facts_of(model, texts)["frequency bias"]
    assert fact.values["bias"] > 0.9 and abs(fact.control["bias"]) < 0.5


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_a_stream_that_layers_leave_alone_is_one_prediction_and_one_sample(family):
    model = fresh(family)
    with torch.no_grad():
        for layer in (1, 2):
            model.weights.W_O[layer][:] = 0
            model.weights.W_out[layer][:] = 0
            for module in (model.anatomy.layers[layer].o, model.anatomy.layers[layer].w_out):
                if module.bias is not None:
                    module.bias[:] = 0
    facts = facts_of(model)
    refined, alike = facts["iterative inference"], facts["similarity of layers"]
    assert max(refined.values["KL of the lens"]) < 1e-9 < 0.1 < min(refined.control["KL of the lens"])
    assert refined.values["agreement of the lens"] == [1, 1, 1]
    assert min(alike.values["with the last layer"]) == pytest.approx(1)
    assert max(alike.control["with the last layer"]) < 0.5
    plain = facts_of(fresh(family))
    kl = plain["iterative inference"].values["KL of the lens"]
    assert kl[-1] < 1e-9 < kl[0] and plain["similarity of layers"].values["with the last layer"][0] < 1


def test_the_lens_and_the_cosines_are_those_of_single_runs():
    model, texts = fresh("gpt2"), corpus(4, length=12)
    fact = facts_of(model, texts)["iterative inference"]
    run = model.run(texts, read=["resid_post"])
    streams = [run["resid_post", layer][:, 4:].flatten(0, 1) for layer in range(3)]
    norm, weights = model.weights.final_norm, model.weights
    log_p = [(norm(x) @ weights.W_U + weights.b_U).log_softmax(-1) for x in streams]
    for layer in range(3):
        kl = (log_p[-1].exp() * (log_p[-1] - log_p[layer])).sum(-1).mean()
        assert fact.values["KL of the lens"][layer] == pytest.approx(float(kl), abs=1e-6)
    cosine = torch.nn.functional.cosine_similarity(streams[1] - streams[0], streams[2] - streams[0], dim=-1).mean()
    assert fact.values["updates towards the end"][0] == pytest.approx(float(cosine), abs=1e-6)


def test_a_rogue_dimension_costs_the_others_their_precision():
    model = fresh("gpt2")
    with torch.no_grad():
        model.anatomy.layers[0].w_out.bias[9] = 300
    fact = facts_of(model)["rounding to 8 bits"]
    one, apart = (fact.values[f"error, one scale{end}"] for end in ("", ", rogue dimensions apart"))
    assert fact.values["rogue dimensions"] == 1 and min(a / b for a, b in zip(one, apart, strict=True)) > 10
    assert max(fact.values["error, a scale a dimension"]) < min(one) / 10
    plain = facts_of(fresh("gpt2"))["rounding to 8 bits"].values
    assert plain["error, one scale"][0] == pytest.approx(plain["error, one scale, rogue dimensions apart"][0], rel=0.5)


def test_missing_tables_and_streams_give_reasons():
    facts = stream_facts(evidence_of(fresh("llama"), needs={TEXT: ("token_counts",)}))
    assert all(facts[name].missing for name in ("norm growth", "anisotropy", "massive activations", "dark bands"))
    assert all(facts[name].missing for name in ("iterative inference", "similarity of layers", "rounding to 8 bits"))
    assert not facts["erasing writes"].missing
    short = facts_of(fresh("llama"), corpus(length=4))
    assert all("longer rows" in short[name].missing for name in ("norm growth", "anisotropy", "frequency bias"))
