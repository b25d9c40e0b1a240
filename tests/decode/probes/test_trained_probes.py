"""Probes that are trained: MLPs of several sizes, attention over tokens, and what they need not move in each other."""

import numpy as np
import pytest
import torch

from caseback.decode.probes import aggregate, attention_probe, mlp_probe
from caseback.errors import CasebackError
from caseback.jobs import budget


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_mlp_reads_what_no_plane_parts():
    x = noise(2, 2000, 6)
    y = (x[1, :, 0] * x[1, :, 1] > 0).tolist()
    table = mlp_probe(x, y, hidden=(0, 32), sites=["elsewhere", "here"])
    assert table.accuracy.sel(site="here", hidden=32) > 0.9 > 0.6 > table.accuracy.sel(site="here", hidden=0)
    assert (table.accuracy.sel(site="elsewhere") < 0.6).all() and (table.shuffled < 0.6).all()
    assert table.bits.sel(site="here", hidden=32) < 0.5


def test_selectivity_falls_with_capacity_where_words_can_be_learned_by_heart():
    # 100 words of 20 dimensions: more than a plane can shatter, of which a wide layer learns each
    types = torch.randint(0, 100, (4000,), generator=torch.Generator().manual_seed(1))
    vectors = noise(100, 20, seed=2)
    x = vectors[types] + 0.05 * noise(4000, 20, seed=3)
    y = (vectors[:, 0] > 0)[types].tolist()
    table = mlp_probe(x, y, types=types.tolist(), hidden=(0, 256))
    linear, wide = table.sel(hidden=0), table.sel(hidden=256)
    assert linear.accuracy[0] > 0.95 and wide.accuracy[0] > 0.95
    assert linear.selectivity[0] > 0.15 and wide.selectivity[0] < 0.05


def test_dropout_is_of_training_alone():
    x = noise(1, 800, 6)
    y = (x[0, :, 0] > 0).tolist()
    table = mlp_probe(x, y, hidden=(16,), dropout=0.3)
    assert table.accuracy[0, 0] > 0.93 and mlp_probe(x, y, hidden=(16,), dropout=0.3).equals(table)


def marked(n=600, pos=10, sites=2, seed=0):
    """At the second site one token of each text is marked, and says the label; texts have their own lengths."""
    draw = torch.Generator().manual_seed(seed)
    x = noise(sites, n, pos, 6, seed=seed + 1)
    length = torch.randint(3, pos + 1, (n,), generator=draw)
    mask = torch.arange(pos) < length[:, None]
    place, y = (torch.rand(n, generator=draw) * length).long(), torch.randint(0, 2, (n,), generator=draw)
    row = torch.arange(n)
    x[1, row, place, 0] = 6.0
    x[1, row, place, 1] = 4 * y.double() - 2
    x[:, ~mask] = torch.nan  # padding may hold anything
    return x, y, mask, place


def test_attention_finds_the_token_that_says_it():
    x, y, mask, place = marked()
    probe = attention_probe(x, y.tolist(), mask=mask, epochs=40, learning_rate=0.03, sites=["noise", "marked"])
    here = probe.table.sel(site="marked")
    assert here.accuracy > 0.95 and here["last"] < 0.75 and here["mean"] < here.accuracy
    assert probe.table.accuracy.sel(site="noise") < 0.65 and (probe.table.shuffled < 0.65).all()
    looks = probe.attention(x.nan_to_num(), mask)[1, :, 0]
    assert (looks.argmax(-1) == place).double().mean() > 0.95
    assert torch.allclose(looks.sum(-1), torch.ones_like(looks[:, 0])) and (looks[~mask] == 0).all()
    # weights of features as they are say what the probe said in training
    guesses = np.array(probe.predict(x, mask)[1])[probe.table.example.values]
    assert ((guesses == y.numpy()[probe.table.example.values]) == probe.table.right.sel(site="marked").values).all()


def test_several_heads_read_several_places():
    x, _, mask, place = marked()
    draw = torch.Generator().manual_seed(5)
    one, other = (torch.randint(0, 2, (600,), generator=draw) for _ in range(2))
    x, row = x.nan_to_num(), torch.arange(600)
    x[1, row, place, :2] = 0
    x[1, row, torch.zeros(600).long(), 2], x[1, row, torch.zeros(600).long(), 3] = 6.0, 4 * one.double() - 2
    x[1, row, torch.ones(600).long(), 4], x[1, row, torch.ones(600).long(), 5] = 6.0, 4 * other.double() - 2
    probe = attention_probe(x, (2 * one + other).tolist(), mask=mask, heads=4, epochs=60, learning_rate=0.03)
    assert probe.table.accuracy[1] > 0.9 and probe.query.shape == (2, 6, 4) and probe.value.shape == (2, 6, 4, 4)


@pytest.mark.parametrize("how", ["mean", "max", "last"])
def test_tokens_scores_become_texts(how):
    scores = noise(2, 5, 7)
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.6
    mask[:, 2] = True
    ours = aggregate(scores, mask=mask, how=how)
    for site, row in zip(scores, ours, strict=True):
        for values, counted, value in zip(site, mask, row, strict=True):
            own = values[counted]
            assert value == pytest.approx(float({"mean": own.mean(), "max": own.max(), "last": own[-1]}[how]))


def test_sites_are_trained_alike_together_and_apart():
    x, y, mask, _ = marked(120)
    flat = noise(3, 120, 5)
    types = [i % 5 for i in range(120)]
    mlp = lambda: mlp_probe(flat, y.tolist(), hidden=(0, 8), dropout=0.2, epochs=5, types=types)  # noqa: E731
    attention = lambda: attention_probe(x, y.tolist(), mask=mask, epochs=5)  # noqa: E731
    together = mlp(), attention()
    with budget.override(probe_numbers=1):
        apart = mlp(), attention()
    np.testing.assert_allclose(together[0].bits, apart[0].bits, atol=1e-9)
    assert torch.allclose(together[1].value, apart[1].value, atol=1e-9)
    assert together[0].selectivity.dims == ("site", "hidden")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hidden": ()}, "hidden"),
        ({"hidden": (-1,)}, "hidden"),
        ({"dropout": 1.0}, "dropout"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"resamples": 0}, "resamples"),
    ],
)
def test_options_that_train_nothing_are_refused_in_words(options, says):
    x = noise(1, 40, 3)
    with pytest.raises(CasebackError, match=says):
        mlp_probe(x, (x[0, :, 0] > 0).tolist(), **({"epochs": 1} | options))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mask": torch.zeros(120, 10, dtype=torch.bool)}, "mask leaves no token of text 0"),
        ({"mask": torch.ones(120, 9)}, "mask of shape"),
        ({"mask": torch.full((120, 10), 0.5)}, "other numbers than 0 and 1"),
        ({"heads": 0}, "heads"),
        ({"mask": None}, "not finite"),
    ],
)
def test_texts_that_cannot_be_probed_are_refused_in_words(change, says):
    x, y, mask, _ = marked(120)
    with pytest.raises(CasebackError, match=says):
        attention_probe(x, y.tolist(), **({"mask": mask, "epochs": 1} | change))


def test_scores_that_cannot_be_aggregated_are_refused_in_words():
    with pytest.raises(CasebackError, match="expected that of"):
        aggregate(torch.ones(2, 3), mask=torch.ones(4, 5))
    with pytest.raises(CasebackError, match="expected fractions"):
        aggregate(torch.ones(2, 3, dtype=torch.long))
