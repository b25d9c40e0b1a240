"""Do dictionaries find the features that states were made of? Of matched width; a dead feature finds nothing.

64 directions in 48 dimensions, two of them active in each state, one training as anybody would call it. What a recipe
has beside the width and k, or the target, stands in ``CHOSEN``; it was chosen on these seeds, so the bounds say that
features can be found, not how often they are. ``benchmarks/dictionary_recovery.py`` prints the table, with defaults.

States whose coordinates were shuffled are the chance level: the same histograms, and no features.
"""

import pytest
import torch

from caseback.decode.dictionaries import Standard, TopK
from planted_features import CHOSEN, Planted, found, recovered

BOUND = {**dict.fromkeys(CHOSEN, 0.95), **dict.fromkeys(("topk", "batch_topk", "jump_relu", "gated"), 0.99)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", CHOSEN)
def test_planted_features_are_found(kind, seed):
    assert found(kind, seed, **CHOSEN[kind]) >= BOUND[kind]


@pytest.mark.parametrize("kind", CHOSEN)
def test_planted_features_are_found_from_the_first_seed(kind):
    assert found(kind, 0, **CHOSEN[kind]) >= BOUND[kind]


def test_of_shuffled_states_nothing_is_found_but_by_chance():
    planted = Planted(active=2)
    at_random = recovered(TopK(48, 64, k=2, seed=7), planted)
    assert abs(found("topk", 0, shuffled=True, **CHOSEN["topk"]) - at_random) < 0.1 and at_random < 0.5


def test_a_row_that_never_fires_finds_nothing():
    planted = Planted(active=2)
    one = Standard(48, 64)
    one.W_enc.data, one.W_dec.data = planted.rows.clone(), planted.rows.clone()
    one.b_enc.data.fill_(-0.3)
    assert recovered(one, planted) == pytest.approx(1.0, abs=1e-5)
    one.b_enc.data[:16] = -100
    assert recovered(one, planted) < 0.85
    torch.testing.assert_close(planted.codes(100).count_nonzero(1), torch.full((100,), 2))
