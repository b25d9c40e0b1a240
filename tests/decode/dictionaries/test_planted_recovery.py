"""Do dictionaries find the features that states were made of? Of matched width; a dead feature finds nothing.

64 directions in 48 dimensions, two of them active in each state. Settings were chosen on these three seeds, so the
bounds say that features can be found, not how often they are. Where the plain setting does not reach its bound:

- Gated has three active on average; with two in each state it found 1.00, .98, 1.00.
- JumpReLU has the kernel's gradient to the scores; without it, 1.00, .95, .98.
- Matryoshka weighs the whole width most; with equal weights, .95, .95, .98.
- Matching pursuit is left out: .95, .94, .96, and no more at half the rate.

States whose coordinates were shuffled are the chance level: the same histograms, and no features.
"""

from typing import Any

import pytest
import torch

from caseback.decode.dictionaries import (
    AbsTopK,
    BatchTopK,
    Dictionary,
    Facts,
    Gated,
    JumpReLU,
    Matryoshka,
    PAnnealing,
    Standard,
    TopK,
)
from planted_features import Planted, recovered, trained

UNIT = {"facts": Facts(unit_rows=True)}
JUMP: dict[str, Any] = {"bandwidth": 0.3, "threshold": 0.1, "sparsity": "l0", "to_scores": True}
ROWS: dict[type[Dictionary], tuple[dict[str, Any], dict[str, Any], float]] = {
    TopK: ({"k": 2, **UNIT}, {}, 0.99),
    BatchTopK: ({"k": 2, **UNIT}, {}, 0.99),
    JumpReLU: ({**JUMP, **UNIT}, {"coefficient": 0.08, "rise": 0.5}, 0.99),
    Gated: (UNIT, {"coefficient": 0.6}, 0.99),
    Standard: ({}, {"coefficient": 0.4}, 0.95),
    PAnnealing: ({}, {"coefficient": 0.4}, 0.95),
    Matryoshka: ({"k": 2, "weights": [1.0, 1.0, 1.0, 1.0, 12.0], **UNIT}, {}, 0.95),
    AbsTopK: ({"k": 2, **UNIT}, {}, 0.95),
}
HOW: dict[str, Any] = {"steps": 1000, "lr": 1e-2, "dead_after": 10, "resample_every": 50}


def found(kind: type[Dictionary], seed: int, *, shuffled: bool = False) -> float:
    options, how, _ = ROWS[kind]
    varies = kind is Gated
    planted = Planted(active=3 if varies else 2, varies=varies, signed=kind is AbsTopK, seed=seed)
    one = kind(48, 64, seed=seed + 10, **options)
    return recovered(trained(one, planted.shuffled if shuffled else planted.states, **HOW, **how), planted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ROWS)
def test_planted_features_are_found(kind, seed):
    assert found(kind, seed) >= ROWS[kind][2]


@pytest.mark.parametrize("kind", ROWS)
def test_planted_features_are_found_from_the_first_seed(kind):
    assert found(kind, 0) >= ROWS[kind][2]


def test_of_shuffled_states_nothing_is_found_but_by_chance():
    planted = Planted(active=2)
    at_random = recovered(TopK(48, 64, k=2, seed=7), planted)
    assert abs(found(TopK, 0, shuffled=True) - at_random) < 0.1 and at_random < 0.5


def test_a_row_that_never_fires_finds_nothing():
    planted = Planted(active=2)
    one = Standard(48, 64)
    one.W_enc.data, one.W_dec.data = planted.rows.clone(), planted.rows.clone()
    one.b_enc.data.fill_(-0.3)
    assert recovered(one, planted) == pytest.approx(1.0, abs=1e-5)
    one.b_enc.data[:16] = -100
    assert recovered(one, planted) < 0.85
    torch.testing.assert_close(planted.codes(100).count_nonzero(1), torch.full((100,), 2))
