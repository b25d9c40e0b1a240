"""What looks at neurons reduce to: each formula against the plain computation, in float64."""

import numpy as np
import pytest
import scipy.stats
import torch

from caseback.behaviors.evidence import TEXT
from caseback.behaviors.neurons.by_groups import Groups, explained_by_bins, explained_by_mark, groups_of, information
from caseback.behaviors.neurons.dead import size_999
from caseback.behaviors.neurons.rows import best, in_another_basis
from caseback.behaviors.neurons.switches import towards_first
from caseback.behaviors.neurons.unembedding import Cosines, logit_variance
from caseback.behaviors.neurons.vocabulary_shapes import mean_signs, shapes
from caseback.behaviors.stream.depth import depth_profile
from caseback.jobs.budget import override
from planted_neurons import corpus, evidence_of, fresh

FAMILIES = ("gpt2", "llama", "bloom", "olmo2", "cohere", "gemma2")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("products", (1, 10**6))
def test_moments_over_the_vocabulary_are_those_of_the_logits(family, products):
    folded = fresh(family).weights.folded(centre_vocab=True)
    rows = folded.W_out[1]
    logits = rows @ folded.W_U
    with override(weight_products=products):
        torch.testing.assert_close(logit_variance(folded, rows), logits.var(1, correction=0))
        unit = folded.W_U / folded.W_U.norm(dim=0)
        dense = (rows @ unit).var(1, correction=0)
        torch.testing.assert_close(logit_variance(folded, rows, unit_columns=True), dense)
        over = torch.randn(logits.shape[1], 3, generator=torch.Generator().manual_seed(0)).double()
        expected = np.corrcoef(logits.numpy(), over.T.numpy())[: len(rows), len(rows) :]
        np.testing.assert_allclose(Cosines(folded, over)(rows).numpy(), expected, atol=1e-12)
    with override(table_numbers=products):
        of = shapes(rows, folded.W_U).numpy().T
    np.testing.assert_allclose(of[0], scipy.stats.skew(logits.numpy(), 1), atol=1e-10)
    np.testing.assert_allclose(of[1], scipy.stats.kurtosis(logits.numpy(), 1, fisher=False), rtol=1e-10)


def groups(x, marks):
    """The sums of a table, of (token, unit) activations and (token, group) marks."""
    n = marks.sum(0)
    mean, fires = (np.nan_to_num(marks.T @ of / n[:, None]) for of in (x, x > 0))
    return Groups(n, float(len(x)), mean, fires, x.mean(0), x.var(0))


def test_variance_that_a_mark_explains_is_its_definition():
    rng = np.random.default_rng(0)
    mark = rng.random(500) < 0.2
    x = rng.standard_normal((500, 6)) + mark[:, None] * np.arange(6)
    x[:, 5] = mark
    q = mark.mean()
    within = q * x[mark].var(0) + (1 - q) * x[~mark].var(0)
    share = explained_by_mark(groups(x, mark[:, None].astype(float)))
    np.testing.assert_allclose(share, 1 - within / x.var(0), atol=1e-12)
    assert share[5] == pytest.approx(1)
    assert not explained_by_mark(groups(x, np.eye(500)[:, :1])).any()  # one token


def test_variance_that_bins_explain_is_unbiased_and_information_is_the_entropies_difference():
    rng = np.random.default_rng(0)
    bins = np.eye(4)[np.repeat(np.arange(4), 100)]
    x = rng.standard_normal((400, 2000))
    share = explained_by_bins(groups(x, bins))
    f = np.array([scipy.stats.f_oneway(*x[:, i].reshape(4, 100)).statistic for i in range(20)])
    np.testing.assert_allclose(share[:20], np.maximum(1 - 399 / 396 / (1 + f * 3 / 396), 0), atol=1e-12)
    assert np.mean(share > 0) < 0.5
    steps = np.repeat([0.0, 0, 1, 1], 100)[:, None]
    both = groups(np.concatenate([steps, rng.random((400, 1)) - 0.5], 1), bins)
    assert explained_by_bins(both)[0] == pytest.approx(1)
    nats = information(both)
    assert nats[0] == pytest.approx(np.log(2) - 3 / 800) and nats[1] < 0.02


def test_a_planted_neuron_in_another_basis_explains_nothing():
    rng = np.random.default_rng(0)
    mark = (rng.random(4000) < 0.3)[:, None].astype(float)
    x = rng.standard_normal((4000, 200))
    x[:, 7] = mark[:, 0] * 2
    turn, _ = np.linalg.qr(rng.standard_normal((200, 200)))
    assert explained_by_mark(groups(x, mark))[7] == pytest.approx(1)
    assert explained_by_mark(groups(x @ turn, mark)).max() < 0.1


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_sums_of_the_text_are_those_of_its_tokens(family):
    model, texts = fresh(family), corpus(6)
    evidence = evidence_of(model, texts)
    for fold, own in enumerate((texts[::2], texts[1::2])):
        run = model.run(own, read=["mlp_post"])
        x = np.concatenate([run["mlp_post", layer].detach().numpy() for layer in range(3)], -1)
        late = x[:, 4:].reshape(-1, x.shape[-1])
        half = groups_of(evidence, ["any"])[fold]
        np.testing.assert_allclose(half.overall, late.mean(0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(half.variance, late.var(0), rtol=1e-4)
        flat = x.reshape(-1, 3, 44)
        for layer in range(3):
            size = size_999(evidence)[44 * layer, fold]
            exact = np.quantile(np.abs(flat[:, layer]), 0.999)
            assert exact / 1.6 <= size <= exact
        if family == "llama":
            every = x.reshape(-1, x.shape[-1])
            root = np.sqrt((late**2).mean(0))
            signs = [np.sign(a[np.abs(a) >= r]).mean() for a, r in zip(every.T, root, strict=True)]
            # bins are half an octave wide
            assert np.abs(mean_signs(evidence)[:, fold] - signs).mean() < 0.15
    if family == "gpt2":
        assert (mean_signs(evidence) == 1).all()


@pytest.mark.parametrize("family", ("gpt2", "llama", "gptj"))
def test_what_moves_attention_to_the_first_token_is_the_mean_of_the_scores_differences(family):
    """With mean keys at every place, scores change by the rotations' means of the query's change."""
    model = fresh(family)
    evidence = evidence_of(model, corpus(8, length=24))
    direction = towards_first(evidence)[0, 1, 2]
    tables = evidence.folds(TEXT, "query_key_means")[0]
    scale = np.sqrt(evidence.folds(TEXT, "stream_moments")[0]["later_second_moment"].sel(layer=1).mean())
    kv = 2 // (model.n_heads // model.n_kv_heads)
    first, mean = (torch.as_tensor(tables[name].sel(layer=2).values[kv]).double() for name in ("first", "k"))
    write = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1)).double()
    query = write @ model.weights.folded().W_Q[2][2]
    inverse = torch.linalg.pinv(model.weights.W_Q[2][2])
    turns = [inverse @ model.weights.qk(2, 2, p).left for p in range(64)]
    differences = [
        query @ turns[p] @ first - torch.stack([query @ turns[d] @ mean for d in range(p)]).mean() for p in range(4, 64)
    ]
    expected = torch.stack(differences).mean() / (float(scale) * len(query) ** 0.5)
    assert (write @ direction).item() == pytest.approx(expected.item(), rel=1e-3)


def test_bands_hold_for_units_of_unlike_layers_and_control_rows_keep_second_moments():
    rng = np.random.default_rng(1)
    tails = np.abs(rng.standard_normal((300, 3, 1000))) * np.array([1.0, 0.3, 2.0])[:, None]
    passed = np.mean([tails[i].max() > best(list(tails[i - 1]), power=2) for i in range(1, 300)])
    assert 0.01 < passed < 0.12
    many = [np.concatenate(tails[:20, layer]) for layer in range(3)]
    assert best(many, power=2, draws=20) == pytest.approx(np.quantile(tails.max((1, 2)), 0.95), rel=0.05)
    assert best([np.zeros(10)]) == pytest.approx(0) and best([np.full(1, 3.0)]) == pytest.approx(3)
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.tensor([3.0, 1, 0.1, 0]))
    turned = in_another_basis(rows, 100_000, torch.Generator().manual_seed(1))
    assert (turned.T @ turned / 100_000 - rows.T @ rows / 50).abs().max() < 0.2


def test_a_depth_profile_has_wilson_s_intervals():
    profile = depth_profile([0] * 40 + [1] * 10 + [2] * 10, np.arange(60) < 30)
    for i, (k, m) in enumerate(((30, 40), (0, 10), (0, 10))):
        interval = scipy.stats.binomtest(k, m).proportion_ci(method="wilson")
        assert (profile["low"][i], profile["high"][i]) == pytest.approx((interval.low, interval.high))
    assert profile["depth"] == [0, 0.5, 1]
