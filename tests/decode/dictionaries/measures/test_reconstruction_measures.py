"""Measures of states: by hand on planted numbers, the same for all sizes of pieces, and the definitions apart."""

from typing import Any

import numpy as np
import pytest
import torch

from caseback.decode import States
from caseback.decode.dictionaries import Standard, TopK
from caseback.decode.dictionaries.measures import reconstruction_measures
from caseback.decode.states import Place
from caseback.errors import ArgumentError, OutOfRange, TokensError
from caseback.jobs.budget import override
from simple_dictionaries import identity, noise, scaled

KEYS = ("explained_variance_tokens", "explained_variance_batches")


def test_the_identity_explains_all_and_zeros_nothing():
    x = noise(300, 6)
    x -= x.mean(0)
    table = reconstruction_measures({"id": identity(6), "zero": scaled(6, 0.0)}, x)
    for name in ("", "_corpus", "_tokens", "_batches", "_of_error"):
        np.testing.assert_allclose(table[f"explained_variance{name}"], [1, 0], atol=1e-12)
    np.testing.assert_allclose(table.l0, [6, 6])
    np.testing.assert_allclose(table.cosine, [1, 0], atol=1e-12)
    np.testing.assert_allclose(table.norm_ratio, [1, 0], atol=1e-12)
    assert float(table.relative_bias[0]) == pytest.approx(1) and np.isnan(table.relative_bias[1])


def test_shrinkage_is_the_factor():
    table = reconstruction_measures(scaled(6, 0.7), noise(100, 6))
    assert float(table.relative_bias[0]) == pytest.approx(0.7, abs=1e-12)
    assert float(table.norm_ratio[0]) == pytest.approx(0.7, abs=1e-12)
    assert float(table.cosine[0]) == pytest.approx(1, abs=1e-12)
    assert float(table.error[0]) == pytest.approx(0.09 * float(noise(100, 6).square().sum(1).mean()), abs=1e-12)


def test_relative_bias_is_what_minimizes():
    """Gamma = argmin E |t^ / g - t|^2, the definition of the paper."""
    x, one = noise(400, 5), TopK(5, 20, k=2, dtype=torch.float64)
    gamma = float(reconstruction_measures(one, x).relative_bias[0])
    written = one(x).detach()
    loss = [float((written / g - x).square().sum()) for g in (gamma * 0.999, gamma, gamma * 1.001)]
    assert loss[1] < loss[0] and loss[1] < loss[2]


def test_definitions_of_explained_variance_by_hand_and_apart():
    x = noise(2000, 8)
    x[::100] *= 400.0
    one = TopK(8, 24, k=3, dtype=torch.float64, seed=4)
    one.W_dec.data = torch.cat([torch.eye(8), -torch.eye(8), torch.eye(8)]).double()
    one.W_enc.data = one.W_dec.data.clone()
    table = reconstruction_measures(one, x, block=500)
    e = x - one(x).detach()

    def corpus(t, r):
        return 1 - float(r.square().sum() / (t - t.mean(0)).square().sum())

    usual = torch.arange(len(x)) % 100 != 0
    blocks = [slice(i, i + 500) for i in range(0, 2000, 500)]
    spreads = [(x[b] - x[b].mean(0)).square().sum(1) for b in blocks]
    wanted = {
        "": corpus(x[usual], e[usual]),
        "_corpus": corpus(x, e),
        "_tokens": float(
            torch.cat([1 - e[b].square().sum(1) / s for b, s in zip(blocks, spreads, strict=True)]).mean()
        ),
        "_batches": np.mean([corpus(x[b], e[b]) for b in blocks]),
        "_of_error": corpus(x, e - e.mean(0)),
    }
    for name, value in wanted.items():
        assert float(table[f"explained_variance{name}"][0]) == pytest.approx(value, abs=1e-10), name
    assert table.attrs["long_tokens"] == 20 and "topk" in table.attrs["note"]
    assert len({round(value, 3) for value in wanted.values()}) >= 4
    np.testing.assert_allclose(table.error[0], float(e[usual].square().sum(1).mean()))


def test_there_is_no_note_where_no_token_is_long():
    table = reconstruction_measures(TopK(8, 24, k=3, dtype=torch.float64), noise(500, 8))
    assert "note" not in table.attrs and table.attrs["long_tokens"] == 0


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
@pytest.mark.parametrize("scores", [3, 10**6])
def test_numbers_do_not_depend_on_pieces(piece, scores):
    x = noise(333, 8) + 3
    several = {"a": TopK(8, 24, k=3, dtype=torch.float64), "b": Standard(8, 40, dtype=torch.float64, seed=3)}
    whole = reconstruction_measures(several, x, block=50)
    with override(feature_scores=scores):
        parts = reconstruction_measures(several, iter(x.split(piece)), block=50)
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=0, atol=1e-10, err_msg=str(name))
    other = reconstruction_measures(several, x, block=1000)
    for name in set(whole) - set(KEYS):
        np.testing.assert_allclose(other[name], whole[name], rtol=0, atol=1e-10, err_msg=str(name))


def test_densities_count_what_is_not_zero():
    x = noise(500, 8)
    signed = TopK(8, 24, k=20, relu=False, dtype=torch.float64)
    plain = TopK(8, 12, k=5, dtype=torch.float64, seed=2)
    plain.b_enc.data[3] = -100
    table = reconstruction_measures({"signed": signed, "plain": plain}, x)
    assert float(table.l0[0]) == 20
    np.testing.assert_allclose(table.density.sum("feature"), table.l0)
    assert np.isnan(table.density[1, 12:]).all() and table.density[1, :12].notnull().all()
    assert float(table.dead_share[1]) == pytest.approx(1 / 12)
    by_hand = (plain.encode(x) != 0).double().mean(0).numpy()
    np.testing.assert_allclose(table.density[1, :12], by_hand)
    assert float(table.density_histogram[1].sum()) == (by_hand > 0).sum()
    log = np.log10(by_hand[by_hand > 0])
    for start, count in zip(table.bin.values, table.density_histogram[1].values, strict=True):
        assert count == ((log >= start) & (log < start + 0.25)).sum() or start == -0.25
    assert float(table.above_10_percent[1]) == pytest.approx((by_hand > 0.1).mean())


def test_rows_are_compared_with_rows():
    one = TopK(8, 24, k=3, dtype=torch.float64)
    one.W_dec.data[5] = 3 * one.W_dec.data[9]
    one.W_enc.data[2] *= -1
    with override(feature_scores=50):
        table = reconstruction_measures(one, noise(50, 8))
    unit = one.W_dec.data / one.W_dec.data.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    assert float(table.nearest_row[0]) == pytest.approx(float(cosines.max(1).values.mean()), abs=1e-12)
    reads = one.W_enc.data / one.W_enc.data.norm(dim=1, keepdim=True)
    assert float(table.encoder_agreement[0]) == pytest.approx(float((reads * unit).sum(1).mean()), abs=1e-12)


def test_transcoders_are_judged_by_their_target():
    x = noise(200, 6)
    one = identity(6, site="mlp_in.0", target="mlp_out.0")
    one.W_dec.data *= 2
    table = reconstruction_measures(one, x, 2 * x)
    assert float(table.explained_variance[0]) == pytest.approx(1)
    wide = Standard(6, 12, 4, dtype=torch.float64)
    assert np.isnan(reconstruction_measures(wide, x, noise(200, 4)).encoder_agreement[0])


def test_states_of_one_place_are_taken():
    x = noise(50, 6)
    states = States(x[None], [Place("resid_post", 1)], torch.zeros(50, dtype=torch.long))
    assert reconstruction_measures(identity(6), states).equals(reconstruction_measures(identity(6), x))


def test_what_cannot_be_measured_is_refused():
    x, one = noise(20, 6), identity(6)
    states: Any
    wrong: Any
    for states in (x[:0], noise(20, 5), x[None], [x, noise(3, 5)], "text", [1, 2], x.fill_diagonal_(float("nan"))):
        with pytest.raises(TokensError):
            reconstruction_measures(one, states)
    for targets in (noise(19, 6), noise(21, 6)):
        with pytest.raises(TokensError, match="a target for each"):
            reconstruction_measures(one, noise(20, 6), targets)
    for wrong in ({}, {"a": 3}, [one], None):
        with pytest.raises(ArgumentError):
            reconstruction_measures(wrong, noise(20, 6))
    with pytest.raises(OutOfRange):
        reconstruction_measures(one, noise(20, 6), norm_multiple=0)
