"""Gains over control functions and V-information: planted bits, and cross-entropies that are scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from caseback.decode.probes import information_gain, linear_probe
from caseback.errors import CasebackError
from caseback.jobs import budget


def planted(n=2000, seed=0):
    """A word of 6, and whether it means its first or second sense, which the label adds to the word's own class."""
    draw = torch.Generator().manual_seed(seed)
    word = torch.randint(0, 6, (n,), generator=draw)
    sense = (torch.rand(n, generator=draw) < 0.25).long()
    noise = 0.05 * torch.randn(3, n, 8, generator=draw, dtype=torch.float64)
    of_word, of_sense = torch.eye(6).double()[word], torch.eye(2).double()[sense]
    sites = [
        torch.cat([of_word, 0 * of_sense], 1),
        torch.cat([of_word, of_sense], 1),
        torch.cat([0 * of_word, of_sense], 1),
    ]
    y = (word % 2) * 2 + sense
    return torch.stack(sites) + noise, y, of_word + noise[0, :, :6].flip(0)


ENTROPY = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))  # of the label where the word is known


def test_gains_are_what_was_planted():
    x, y, control = planted()
    table = information_gain(x, y.tolist(), control=control, penalty=1e-3, sites=["word", "both", "sense"])
    word, both, sense = (table.sel(site=name) for name in ("word", "both", "sense"))
    assert abs(word.gain) < 0.02
    assert abs(both.gain - ENTROPY) < 0.08 and both.low < ENTROPY < both.high
    assert abs(sense.gain - (ENTROPY - 1)) < 0.08  # it lacks the word's bit
    beside = information_gain(x, y.tolist(), control=control, conditional=True, penalty=1e-3).gain
    assert abs(beside[0]) < 0.02 and (abs(beside[1:] - ENTROPY) < 0.08).all()
    assert (abs(table.shuffled) < 0.08).all()
    np.testing.assert_allclose(table.pointwise.mean("example"), table.gain)
    assert (table.gain < table.control_bits + 0.01).all()


def test_of_the_control_itself_nothing_is_gained():
    x, y, _ = planted(800)
    assert information_gain(x[1], y.tolist(), control=x[1], penalty=0.01).gain[0] == 0


def test_without_a_control_it_is_what_a_probe_saves():
    x, y, _ = planted(800)
    table, probe = (f(x, y.tolist(), penalty=0.01) for f in (information_gain, linear_probe))
    probe = probe.table
    np.testing.assert_allclose(table.bits, probe.bits, rtol=1e-6)
    np.testing.assert_allclose(table.gain, probe.majority_bits - probe.bits, rtol=1e-6)


def test_bits_are_scikit_learns():
    x, y, control = planted(600)
    table = information_gain(x, y.tolist(), control=control, penalty=0.01)
    test = np.isin(np.arange(600), table.example.values)
    for features, bits in ((x[1].numpy(), table.bits[1]), (control.numpy(), table.control_bits[1])):
        scaler = StandardScaler().fit(features[~test])
        theirs = LogisticRegression(C=1 / (0.01 * (~test).sum()), tol=1e-12, max_iter=500)
        theirs.fit(scaler.transform(features[~test]), y.numpy()[~test])
        p = theirs.predict_proba(scaler.transform(features[test]))[np.arange(test.sum()), y.numpy()[test]]
        assert float(bits) == pytest.approx(-np.log2(p).mean(), abs=1e-6)


def test_sites_are_judged_alike_together_and_apart():
    x, y, control = planted(300)
    together = information_gain(x, y.tolist(), control=control, conditional=True, penalty=0.01)
    with budget.override(probe_numbers=1):
        apart = information_gain(x, y.tolist(), control=control, conditional=True, penalty=0.01)
    np.testing.assert_allclose(together.pointwise, apart.pointwise, atol=1e-6)


@pytest.mark.parametrize(
    ("control", "says"),
    [
        (torch.zeros(5, 2), "control: site 0 is the same"),
        (torch.randn(5, 2), "expected a row for each of 300"),
        (torch.full((300, 2), math.nan), "control: site 0 holds numbers"),
        ("words", "control are a str"),
    ],
)
def test_what_is_no_control_is_refused_in_words(control, says):
    x, y, _ = planted(300)
    with pytest.raises(CasebackError, match=says):
        information_gain(x, y.tolist(), control=control)
