"""Temporal dictionaries: their loss against its formula and differences, the token before each, a planted truth."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import caseback as cb
from caseback.decode.dictionaries import (
    Facts,
    Matryoshka,
    Recipe,
    Temporal,
    load_dictionary,
    save_dictionary,
    train_dictionaries,
    train_end_to_end,
)
from caseback.decode.dictionaries.architectures.temporal import Pairs
from caseback.decode.dictionaries.training.pools import BEFORE, GivenPools, ModelPools, StoredPools
from caseback.decode.dictionaries.training.trainer import Trainer
from caseback.errors import ArgumentError, OutOfRange
from caseback.stream import collect
from caseback.stream.packing import rows_of
from planted_features import Slow, recovered, trained_on_texts

TEXTS = ["Mary went to the store and John gave a drink to Mary.", "The cat sat. The dogs run to the red house."] * 6
D, F, HIGH = 12, 36, 10


def made(**more: Any) -> Any:
    options = {"k": 5, "prefixes": [HIGH, F], "contrast": 0.7, "temperature": 0.3, **more}
    one = Temporal(D, F, dtype=torch.float64, seed=1, **options)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in one.parameters():
            value += 0.1 * torch.randn(value.shape, generator=draw, dtype=torch.float64)
    return one


def states(n: int = 48, seed: int = 0) -> Tensor:
    return 2 * torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(n: int = 48) -> Pairs:
    token = torch.arange(1, n)[torch.arange(1, n) % 7 > 0]
    return Pairs(token, states(n, seed=4)[token])


def contrast_by_hand(one: Temporal, x: Tensor, before: Tensor) -> Tensor:
    """Dense, with loops over pairs."""
    high = []
    for some in (x, before):
        scores = (some - one.b_dec) @ one.W_enc[:HIGH].T + one.b_enc[:HIGH]
        high.append(torch.where(scores > one.threshold, scores, 0.0))
    total: Any = 0.0
    for own, other in ((high[0], high[1]), (high[1], high[0])):
        for i in range(len(own)):
            lengths = own[i].norm() * other.norm(dim=1)
            cosines = torch.where(lengths > 0, other @ own[i] / lengths.clamp_min(1e-20), 0.0)
            total = total - (cosines / one.temperature).log_softmax(0)[i]
    return total / (2 * len(x))


def test_the_contrast_is_that_of_its_formula():
    one, x = made(), states()
    alone = one.losses(x)
    losses = one.losses(x, pairs=pairs())
    wanted = 0.7 * D * contrast_by_hand(one, x[pairs().token], pairs().before)
    torch.testing.assert_close(losses.auxiliary - alone.auxiliary, wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(losses.total - losses.error - losses.auxiliary, torch.zeros((), dtype=torch.float64))
    high = one.encode(x[pairs().token])[:, :HIGH]
    assert bool((high == 0).all(1).any() & (high > 0).any())  # some states have no high-level code
    torch.testing.assert_close(losses.error, alone.error)


def test_without_its_contrast_it_is_a_matryoshka_of_two_prefixes():
    one, x = made(contrast=0.0), states()
    other = Matryoshka(D, F, k=5, prefixes=[HIGH, F], weights=[0.2, 0.8], dtype=torch.float64)
    other.load_state_dict(one.state_dict())
    for got, wanted in zip(one.losses(x, pairs=pairs()), other.losses(x), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    assert Temporal(D, 50, k=2).prefixes == [10, 50]


@pytest.mark.parametrize("by_norm", [False, True])
def test_gradients_are_those_of_differences(by_norm):
    """Of every parameter, along a random direction; what is active does not change within the step."""
    one, x, step = made(facts=Facts(by_norm=by_norm)), states(), 1e-6
    one.losses(x)
    one.threshold.mul_(0.9)  # where it is no score

    def loss() -> Tensor:
        held = one.threshold.clone(), one.batches.clone()
        total = one.losses(x, pairs=pairs()).total
        one.threshold.copy_(held[0])
        one.batches.copy_(held[1])
        return total

    loss().backward()
    draw = torch.Generator().manual_seed(8)
    for name, value in one.named_parameters():
        way, ends = torch.randn(value.shape, generator=draw, dtype=torch.float64), []
        for sign in (1, -1):
            with torch.no_grad():
                value += sign * step * way
                ends.append(float(loss()))
                value -= sign * step * way
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(float((value.grad * way).sum()), rel=1e-6, abs=1e-7), name


def test_gradients_are_those_of_the_dense_formula():
    one, x = made(), states()
    one.contrast_of(x[pairs().token], pairs().before).backward()
    got = {name: p.grad.clone() for name, p in one.named_parameters() if p.grad is not None}
    one.zero_grad()
    contrast_by_hand(one, x[pairs().token], pairs().before).backward()
    assert sorted(got) == ["W_enc", "b_dec", "b_enc"]
    for name, grad in got.items():
        torch.testing.assert_close(grad, one.get_parameter(name).grad, rtol=0, atol=1e-12)


def test_states_without_any_code_have_a_finite_gradient():
    one = made()
    one.b_enc.data[:HIGH] = -100
    losses = one.losses(states(), pairs=pairs())
    losses.total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in one.parameters())
    uniform = 0.7 * D * torch.tensor(float(len(pairs().token)), dtype=torch.float64).log()
    torch.testing.assert_close(losses.auxiliary.detach(), uniform)


@pytest.mark.parametrize("n", [0, 1])
def test_one_pair_tells_nothing(n):
    one, x = made(), states()
    few = Pairs(pairs().token[:n], pairs().before[:n])
    assert float(one.losses(x, pairs=few).auxiliary.detach()) == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [({"contrast": -0.1}, "contrast -0.1"), ({"temperature": 0.0}, "temperature 0.0"), ({"prefixes": [3]}, "prefixes")],
)
def test_what_cannot_be_is_refused(options, why):
    with pytest.raises(OutOfRange, match=why):
        Temporal(D, F, k=2, **options)


def test_files_have_all_of_it(tmp_path):
    one, x = made(), states()
    one.losses(x)
    save_dictionary(one, tmp_path / "a.safetensors")
    other: Any = load_dictionary(tmp_path / "a.safetensors")
    assert repr(other) == repr(one) and other.prefixes == [HIGH, F] and other.contrast == 0.7
    torch.testing.assert_close(other.losses(x, pairs=pairs()), one.losses(x, pairs=pairs()), rtol=0, atol=0)


# the token before each -----------------------------------------------------------------------------------------------


def test_a_pool_of_texts_knows_the_token_before_each():
    x = torch.arange(5 * 4 * 2.0).view(5, 4, 2)
    pools = GivenPools({"a": x, "b": 2 * x}, 12, seed=0, paired=True)
    pool = pools.pool(0)
    assert sorted(pool) == sorted(["a", "b", BEFORE]) and len(pool["a"]) == 12
    assert sorted(GivenPools({"a": x}, 12, seed=0).pool(0)) == ["a"]
    first = pool[BEFORE] < 0
    assert torch.equal(first, pool["a"][:, 0] % 8 == 0) and int(first.sum()) == 3
    assert torch.equal(pool["a"][pool[BEFORE][~first]], pool["a"][~first] - 2)
    torch.testing.assert_close(pool["b"], 2 * pool["a"])
    seen = torch.cat([pools.pool(i)["a"] for i in range(5)])[:, 0]
    assert seen.sort().values.tolist() == x[..., 0].flatten().repeat(3).sort().values.tolist()
    assert pool["a"][:4, 0].tolist() != sorted(pool["a"][:4, 0].tolist())


def _is_before(pool: dict[str, Tensor], rows: list[Tensor]) -> None:
    """Whether each state's predecessor is the one in its text, and only first ones have none."""
    x, before = pool["resid_post.1"].float(), pool[BEFORE]
    all_states = torch.cat(rows)
    begins = torch.cat([torch.arange(len(row)) == 0 for row in rows])
    at = torch.cdist(x.double(), all_states.double()).argmin(1)
    known = before >= 0
    wanted = all_states[at[known] - 1]
    torch.testing.assert_close(x[before[known]], wanted.float(), rtol=0, atol=1e-3)
    assert torch.equal(~known, begins[at]) and bool(known.any()) and not bool(known.all())


def test_pools_of_a_model_and_of_a_store_know_the_token_before_each(tmp_path):
    model = cb.load("meadow")
    rows = list(rows_of(model, cb.stream.documents(TEXTS[:2]), length=9))
    run = model.run([row.ids for row in rows], read=["resid_post.1"])
    wanted = [run["resid_post", 1][i, row.front : len(row.ids)] for i, row in enumerate(rows)]
    assert len(rows) > 2  # texts are cut, and what stands in another row is not before
    _is_before(ModelPools(model, rows, ["resid_post.1"], 60, seed=0, sink=None, paired=True).pool(0), wanted)
    found = collect(model, TEXTS[:2], activations=["resid_post.1"], folder=tmp_path / "states", length=9)
    stores = {"resid_post.1": found.store("resid_post.1")}
    _is_before(StoredPools(stores, 64, seed=0, sink=None, paired=True).pool(0), wanted)


def test_what_was_left_out_is_before_nothing():
    from caseback.decode.dictionaries.training.pools import mixed

    x = torch.tensor([1.0, 1.0, 500.0, 1.0, 1.0])[:, None] + 1e-3 * torch.arange(5.0)[:, None]
    pool = mixed({"a": x}, 10.0, [0, 0], torch.tensor([True, False, False, False, False]))
    places = {round(1e3 * (float(v) - 1)): int(b) for v, b in zip(pool["a"], pool[BEFORE], strict=True)}
    order = [round(1e3 * (float(v) - 1)) for v in pool["a"]]
    assert places == {0: -1, 1: order.index(0), 3: -1, 4: order.index(3)}


# training ------------------------------------------------------------------------------------------------------------

SOME: Any = {"n_tokens": 1200, "step_tokens": 40, "pool_tokens": 120, "report_every": 3}


def _recipes() -> list[Recipe]:
    small: Any = {"site": "resid_post.1", "width": 60, "options": {"k": 4}}
    return [Recipe(architecture="temporal", **small), Recipe(architecture="matryoshka", **small)]


def test_an_interrupted_training_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    model = cb.load("meadow")
    whole = train_dictionaries(model, TEXTS, _recipes(), **SOME)
    monkeypatch.setattr("caseback.decode.dictionaries.training.train.SAVE_EVERY", 0.0)
    step, steps = Trainer.step, []

    def interrupted(self, *given, **more):
        steps.append(1)
        if len(steps) == 22:
            raise KeyboardInterrupt
        return step(self, *given, **more)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_dictionaries(model, TEXTS, _recipes(), checkpoint=tmp_path / "training", **SOME)
    monkeypatch.setattr(Trainer, "step", step)
    resumed = train_dictionaries(model, TEXTS, _recipes(), checkpoint=tmp_path / "training", **SOME)
    for one, other in zip(whole, resumed, strict=True):
        for name, value in one.dictionary.state_dict().items():
            assert torch.equal(value, other.dictionary.state_dict()[name]), name
        np.testing.assert_array_equal(one.curve, other.curve)
    assert float(whole[0].curve.sel(measure="auxiliary")[1]) > float(whole[1].curve.sel(measure="auxiliary")[1])


def test_a_store_trains_it_and_others_see_what_they_see_alone(tmp_path):
    model = cb.load("meadow")
    found = collect(model, TEXTS, activations=["resid_post.1"], folder=tmp_path / "states", shard_tokens=64)
    stores = {"resid_post.1": found.store("resid_post.1")}
    temporal, other = train_dictionaries(model, stores, _recipes(), **SOME)
    (alone,) = train_dictionaries(model, stores, _recipes()[1], **SOME)
    assert torch.equal(other.dictionary.W_dec, alone.dictionary.W_dec)
    assert isinstance(temporal.dictionary, Temporal) and temporal.dictionary.n_high == 12


def test_states_of_no_order_and_end_to_end_are_refused():
    recipe = Recipe(site="resid_post.1", architecture="temporal", width=32)
    with pytest.raises(ArgumentError, match="which token was before which"):
        train_dictionaries(None, {"resid_post.1": torch.randn(100, 8)}, recipe, n_tokens=100)
    with pytest.raises(ArgumentError, match="needs the token before each"):
        train_end_to_end(cb.load("meadow"), TEXTS, recipe, n_tokens=100)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_features_that_stay_are_high_level_unless_nothing_stays(seed):
    planted = Slow(seed)
    one = trained_on_texts(planted, seed)
    slow, fast = planted.high(one)
    assert slow > 0.9 and fast < 0.1 and recovered(one, planted) > 0.95
    for other in (
        trained_on_texts(planted, seed, in_any_order=True),
        trained_on_texts(planted, seed, options={"contrast": 0.0}),
    ):
        assert planted.high(other)[0] < 0.6  # a third are high-level
