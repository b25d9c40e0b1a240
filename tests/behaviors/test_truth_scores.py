"""Scores of truth against a few lines of NumPy each, on several families, alone and padded; and what is planted in them."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy, wasserstein_distance

import caseback as cb
from caseback.behaviors import (
    attribute_scores,
    confidence_scores,
    constraint_attention,
    eigenscore,
    in_context_sharpness,
    lookback_ratio,
    semantic_entropy,
    translation_scores,
)
from caseback.behaviors.truth.attention import lookback_reading
from caseback.behaviors.truth.batches import Marked
from caseback.behaviors.truth.lens_scores import sharp_layer
from caseback.behaviors.truth.semantic_entropy import entropy_threshold
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import override
from caseback.localize.inputs.mixing.alti import alti_maps
from caseback.localize.inputs.mixing.rollout import rollout
from caseback.model.anatomy.sites import Site
from exact import exact
from zoo import tiny

NAMES = ("llama", "gpt2", "gemma2", "gpt_neox", "olmo2")
IDS = [[5, 9, 2, 40, 7, 33, 21], [8, 3, 3, 50], [1, 60, 12, 13, 14]]
START = [4, 2, 3]
SOURCE = [[1, 3], [0, 1], [2]]


@pytest.fixture(params=NAMES, scope="module")
def model(request):
    with exact():
        yield cb.load(tiny(request.param, attention="eager" if request.param == "gemma2" else "sdpa"))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def lens(model, x):
    """Log probabilities of the model's own last steps, as a run from there gives them."""
    anatomy = model.anatomy
    normed = x if anatomy.final_norm is None else anatomy.final_norm(x)
    logits = anatomy.unembed(normed)
    if anatomy.logit_softcap is not None:
        logits = anatomy.logit_softcap * torch.tanh(logits / anatomy.logit_softcap)
    return logits.detach().numpy()


def test_5_4_20_confidence_is_that_of_single_runs(model):
    scores = confidence_scores(model, IDS, start=START)
    for row, (ids, start) in enumerate(zip(IDS, START, strict=True)):
        p = softmax(model.run([ids]).logits[0].detach().numpy())
        own = np.array([p[i - 1, ids[i]] for i in range(start, len(ids))])
        spread = [-(p[i - 1] * np.log(p[i - 1])).sum() for i in range(start, len(ids))]
        want = np.log(own).sum(), np.log(own).mean(), own.min(), np.mean(spread)
        got = [float(scores[name][row]) for name in ("log_prob", "mean_log_prob", "min_prob", "entropy")]
        np.testing.assert_allclose(got, want, rtol=1e-9)


def test_5_4_20_attention_to_a_constraint_is_the_maps_row(model):
    looks, sums = (constraint_attention(model, IDS, SOURCE, reduce=how) for how in ("max", "sum"))
    for row, ids in enumerate(IDS):
        run = model.run([ids], read=["pattern"])
        for layer in range(model.n_layers):
            last = run["pattern", layer][0, :, -1].numpy()
            np.testing.assert_allclose(looks[row, layer, : len(last)], last[:, SOURCE[row]].max(1), atol=1e-12)
            np.testing.assert_allclose(sums[row, layer, : len(last)], last[:, SOURCE[row]].sum(1), atol=1e-12)


@pytest.mark.parametrize("sink_free", [False, True])
def test_5_4_20_lookback_is_a_ratio_of_means(model, sink_free):
    ratio = lookback_ratio(model, IDS, START, sink_free=sink_free)
    for row, (ids, start) in enumerate(zip(IDS, START, strict=True)):
        run = model.run([ids], read=["pattern"])
        for layer in range(model.n_layers):
            a = run["pattern", layer][0].numpy()
            own = []
            for q in range(start, len(ids)):
                back, ahead = a[:, q, int(sink_free) : start].mean(-1), a[:, q, start : q + 1].mean(-1)
                own.append(back / (back + ahead))
            np.testing.assert_allclose(ratio[row, layer, : a.shape[0]], np.mean(own, 0), atol=1e-12)


def test_5_4_20_sharpness_and_attributes_are_read_through_the_lens(model):
    layer = sharp_layer(model)
    sharp, attribute = in_context_sharpness(model, IDS, START), attribute_scores(model, IDS, START)
    for row, (ids, start) in enumerate(zip(IDS, START, strict=True)):
        run = model.run([ids], read=["resid_post"])
        q = softmax(lens(model, run["resid_post", layer][0])[:start, ids[start]])
        np.testing.assert_allclose(float(sharp[row]), -(q * np.log(q)).sum(), rtol=1e-9)
        for at in range(model.n_layers):
            p = softmax(lens(model, run["resid_post", at][0, start - 1]))
            np.testing.assert_allclose(float(attribute[row, at]), np.log(p[ids[start]]), rtol=1e-9)


def test_5_4_21_scores_of_a_target_are_those_of_its_maps(model):
    scores = translation_scores(model, IDS, SOURCE, START, k=1)
    masses = []
    for row, (ids, start) in enumerate(zip(IDS, START, strict=True)):
        run = model.run([ids], read=["pattern"])
        steps = slice(start - 1, len(ids) - 1)
        entropies = []
        for layer in range(model.n_layers):
            a = run["pattern", layer][0].numpy()[:, steps][..., SOURCE[row]]
            for steps_of_head in a:
                seen = steps_of_head[steps_of_head.sum(-1) > 0]  # sliding windows hide the source from some
                p = seen / seen.sum(-1, keepdims=True)
                entropies.append(entropy(p, axis=-1).mean())
        entropies = np.array(entropies)
        np.testing.assert_allclose(float(scores["dispersion"][row]), np.nanmean(entropies), atol=1e-10)
        np.testing.assert_allclose(float(scores["least_dispersion"][row]), np.nanmin(entropies), atol=1e-10)
        mass = run["pattern", model.n_layers - 1][0].numpy()[:, steps][..., SOURCE[row]].mean((0, 1))
        mass = mass / mass.sum()
        masses.append(mass)
        even = np.full(len(mass), 1 / len(mass))
        np.testing.assert_allclose(float(scores["transport"][row]), abs(mass - even).sum() / 2, atol=1e-12)
        maps = alti_maps(model, [ids])
        rows = rollout(maps, residual=0.0).values[0][steps].mean(0)
        shares = [rows[SOURCE[row]].sum(), rows[start:].sum()]
        np.testing.assert_allclose([float(scores[name][row]) for name in ("source", "prefix")], shares, atol=1e-9)
    # the defining identity, whatever the text
    np.testing.assert_allclose(scores["source"] + scores["prefix"] + scores["rest"], 1, atol=1e-12)

    # many small masses spread over each token's own part of the length
    def on_a_line(mass):
        return (np.arange(600 * len(mass)) + 0.5) / (600 * len(mass)), np.repeat(mass, 600)

    for row in range(3):
        apart = []
        for other in range(3):
            if other != row:
                (a, p), (b, q) = on_a_line(masses[row]), on_a_line(masses[other])
                apart.append(wasserstein_distance(a, b, p, q))
        np.testing.assert_allclose(float(scores["typical"][row]), min(apart), atol=2e-4)


def test_padding_and_batches_change_nothing(model):
    subject, alone = SOURCE, {}
    calls = {
        "confidence": lambda some, at: confidence_scores(model, some, start=[START[i] for i in at])["entropy"],
        "constraint": lambda some, at: constraint_attention(model, some, [subject[i] for i in at]),
        "lookback": lambda some, at: lookback_ratio(model, some, [START[i] for i in at]),
        "sharpness": lambda some, at: in_context_sharpness(model, some, [START[i] for i in at]),
        "attribute": lambda some, at: attribute_scores(model, some, [START[i] for i in at]),
        "source": lambda some, at: translation_scores(model, some, [subject[i] for i in at], [START[i] for i in at])[
            "source"
        ],
    }
    for name, call in calls.items():
        alone[name] = np.concatenate([call([IDS[i]], [i]).values for i in range(3)])
        for side in ("left", "right"):
            np.testing.assert_allclose(call(model.tokens(IDS, padding=side), range(3)).values, alone[name], atol=1e-9)
        with override(stream_tokens=5):
            np.testing.assert_allclose(call(IDS, range(3)).values, alone[name], atol=1e-9)


def planted(pattern, subject, start):
    """A run that holds one map alone, and its text as it was marked."""
    n = pattern.shape[-1]
    tokens = cb.Tokens(torch.ones(1, n, dtype=torch.long), torch.ones(1, n, dtype=torch.bool), [["x"] * n])
    inside = torch.zeros(1, n, dtype=torch.bool)
    inside[0, subject] = True
    return {Site("pattern", 0): pattern}, Marked(tokens, inside, torch.tensor([start]))


def test_5_4_20_a_head_that_looks_back_has_ratio_one_and_one_that_looks_at_itself_zero():
    model = cb.load(tiny("llama"))
    heads = torch.zeros(1, 3, 6, 6, dtype=torch.float64)
    heads[0, 0, :, 1] = 1  # at a context token
    heads[0, 1] = torch.eye(6)  # at itself
    heads[0, 2, :, 0] = 1  # at the sink
    run, given = planted(heads, [1], 3)
    run |= {Site("pattern", layer): heads for layer in range(1, model.n_layers)}
    assert lookback_reading(model).of(run, given)[0, 0].tolist() == [1, 0, 1]
    # without the first token a sink tells nothing of the context
    assert lookback_reading(model, sink_free=True).of(run, given)[0, 0].tolist() == [1, 0, 0]


def test_5_4_20_eigenscore_against_determinants_and_its_known_values():
    x = torch.randn(3, 10, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = x.numpy()
    j = np.eye(64) - 1 / 64
    paper = [np.linalg.slogdet(one @ j @ one.T + 1e-3 * np.eye(10))[1] / 10 for one in z]
    np.testing.assert_allclose(eigenscore(x), paper, rtol=1e-10)
    released = [np.log10(np.linalg.svd(np.cov(one) + 1e-3 * np.eye(10), compute_uv=False)).mean() for one in z]
    np.testing.assert_allclose(eigenscore(x, form="released"), released, rtol=1e-9)
    same = x[:, :1].expand(-1, 10, -1)
    np.testing.assert_allclose(eigenscore(same), -5.57, atol=0.06)
    np.testing.assert_allclose(eigenscore(same, form="released"), -2.6, atol=0.06)
    assert (eigenscore(x) > 3.5).all()
    # a shift of all entries of each state counts for nothing, and so does the order of answers
    np.testing.assert_allclose(eigenscore(x + torch.arange(10.0)[:, None]), eigenscore(x), atol=1e-9)
    np.testing.assert_allclose(eigenscore(x.flip(1)), eigenscore(x), atol=1e-9)


def test_5_4_20_semantic_entropy_of_answers_made_by_hand():
    found = semantic_entropy([["Rome"] * 4, ["Rome", "rome.", "Oslo", "the Oslo"], ["a b", "c", "d", "e"]])
    np.testing.assert_allclose(found["entropy"], [0, np.log(2), np.log(4)])
    assert found["clusters"].values.tolist() == [1, 2, 4]
    weighted = semantic_entropy([["Rome", "Oslo", "Rome"]], np.log([[0.2, 0.6, 0.2]]))
    np.testing.assert_allclose(weighted["entropy"], -(0.4 * np.log(0.4) + 0.6 * np.log(0.6)))
    # what the same is is the caller's: newcomers are compared with a cluster's first member
    asked = []

    def same(first, other):
        asked.append((first, other))
        return first[0] == other[0]

    assert semantic_entropy([["ab", "ac", "bc"]], same=same)["clusters"].item() == 2
    assert asked == [("ab", "ac"), ("ab", "bc")]


def test_5_4_20_the_cut_of_entropies_leaves_the_least_within():
    values = np.random.default_rng(0).exponential(size=40)
    cut = entropy_threshold(values)

    def within(at):
        parts = [values[values <= at], values[values > at]]
        return sum(((part - part.mean()) ** 2).sum() for part in parts if len(part))

    assert within(cut) == min(within(at) for at in values)


def test_what_cannot_be_scored_is_refused():
    model = cb.load(tiny("llama"))
    with pytest.raises(OutOfRange, match="2 or more"):
        eigenscore(torch.randn(2, 1, 8))
    with pytest.raises(OutOfRange, match="2 or more"):
        semantic_entropy([["one"]])
    with pytest.raises(CasebackError, match="subject of text 1 has no token"):
        constraint_attention(model, IDS[:2], [[1], []])
    with pytest.raises(OutOfRange, match="start 7"):
        lookback_ratio(model, IDS[:1], 7)
    with pytest.raises(OutOfRange, match="reaches into its target"):
        translation_scores(model, IDS[:1], [[5]], 4)
    with pytest.raises(CasebackError, match="one token of context"):
        lookback_ratio(model, IDS[:1], 1, sink_free=True)
