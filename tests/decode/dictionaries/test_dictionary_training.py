"""Training: planted features come back, an interrupted training goes on bit for bit, and what is refused."""

import signal
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import caseback as cb
from caseback.decode.dictionaries import (
    Recipe,
    latent_scaling,
    load_dictionary,
    save_dictionary,
    train_dictionaries,
    train_end_to_end,
)
from caseback.decode.dictionaries.training.pools import GivenPools, ModelPools, StoredPools
from caseback.decode.dictionaries.training.trainer import Trainer
from caseback.errors import ArgumentError, CasebackError, LoadError, OutOfRange
from caseback.stream import collect
from caseback.stream.packing import rows_of

TEXTS = ["Mary went to the store and John gave a drink to Mary.", "The cat sat. The dogs run to the red house."] * 6
SITE = "resid_post.0"


def _planted(n: int, d: int, features: int, seed: int, active: int = 2):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(features, d, generator=draw)
    rows /= rows.norm(dim=1, keepdim=True)
    some = torch.rand(n, features, generator=draw).topk(active).indices
    on = torch.zeros(n, features).scatter(1, some, 1.0)
    return (on * (1 + torch.rand(n, features, generator=draw))) @ rows, rows


def _matched(found: torch.Tensor, rows: torch.Tensor) -> float:
    cosines = torch.nn.functional.normalize(found, dim=1) @ rows.T
    return float(cosines[linear_sum_assignment(-cosines.numpy())].mean())


def _recipe(**more: Any) -> Recipe:
    return Recipe(**{"site": SITE, "architecture": "topk", "options": {"k": 2}, "width": 48, "lr": 3e-3, **more})


def test_planted_features_come_back_and_those_of_shuffled_states_do_not():
    x, rows = _planted(60_000, 48, 48, 2)
    draw = torch.Generator().manual_seed(1)
    shuffled = torch.stack([column[torch.randperm(len(x), generator=draw)] for column in x.T], 1)
    options: Any = {"n_tokens": 900_000, "step_tokens": 512, "pool_tokens": 60_000}
    (one,) = train_dictionaries(None, {SITE: x}, _recipe(k_start=8), **options)
    (chance,) = train_dictionaries(None, {SITE: shuffled}, _recipe(k_start=8), **options)
    random = torch.randn(48, 48, generator=draw)
    assert _matched(one.dictionary.W_dec.detach(), rows) > 0.99
    assert _matched(chance.dictionary.W_dec.detach(), rows) < _matched(random, rows) + 0.1
    assert float(one.curve.sel(measure="explained")[-1]) > 0.75


@pytest.mark.parametrize("architecture", ["standard", "jump_relu"])
def test_the_coefficient_follows_a_target(architecture):
    x, _ = _planted(60_000, 32, 48, 0, active=6)
    recipe = _recipe(architecture=architecture, options={}, l0=4.0)
    (one,) = train_dictionaries(None, {SITE: x}, recipe, n_tokens=900_000, step_tokens=512, pool_tokens=60_000)
    active = (one.dictionary.encode(x) != 0).sum(1).double().mean()
    assert abs(float(active) / 4 - 1) < 0.1


def test_alone_as_many_features_are_active_as_in_a_batch():
    x, _ = _planted(60_000, 32, 48, 0, active=6)
    recipe = _recipe(architecture="batch_topk", options={"k": 4.5})
    (one,) = train_dictionaries(None, {SITE: x[:50_000]}, recipe, n_tokens=200_000, step_tokens=512, pool_tokens=50_000)
    active = (one.dictionary.encode(x[50_000:]) != 0).sum(1).double().mean()
    assert abs(float(active) / 4.5 - 1) < 0.03


def test_a_crosscoder_trains_on_several_sites_and_finds_what_is_of_one():
    x, _ = _planted(40_000, 32, 24, 0)
    own, _ = _planted(40_000, 32, 8, 1, active=1)
    states = {"base": 3 * x, "chat": 5 * (x + own)}
    recipe = Recipe(site=["base", "chat"], architecture="batch_topk_crosscoder", options={"k": 3}, width=32, lr=3e-3)
    (one,) = train_dictionaries(None, states, recipe, n_tokens=600_000, step_tokens=512, pool_tokens=40_000)
    crosscoder: Any = one.dictionary
    lengths = crosscoder.scale.flatten() * torch.stack([s.norm(dim=1).mean() for s in states.values()])
    torch.testing.assert_close(lengths, torch.full((2,), 32**0.5), rtol=1e-2, atol=0)
    assert float(one.curve.sel(measure="explained")[-1]) > 0.8
    pair = torch.stack(list(states.values()), 1)
    kinds = latent_scaling(crosscoder, pair, sources=["base", "chat"]).kind.values.tolist()
    assert kinds.count("only chat") >= 6 and kinds.count("shared") >= 16 and "only base" not in kinds


def test_a_cross_layer_transcoder_trains_on_all_layers(tmp_path):
    model = cb.load("meadow")
    layers = range(model.n_layers)
    recipe = Recipe(
        site=[f"mlp_in.{i}" for i in layers],
        target=[f"mlp_out.{i}" for i in layers],
        architecture="cross_layer_batch_topk",
        options={"k": 16},
        expansion=2,
    )
    options: Any = {**OPTIONS, "n_tokens": 4000, "checkpoint": tmp_path / "training"}
    (one,) = train_dictionaries(model, TEXTS, recipe, **options)
    assert one.dictionary.n_features == 2 * 160 * model.n_layers and one.dictionary.facts.site == "mlp_in"
    assert float(one.curve.sel(measure="explained")[-1]) > float(one.curve.sel(measure="explained")[0])
    (again,) = train_dictionaries(model, TEXTS, recipe, **options)
    torch.testing.assert_close(one.dictionary.W_dec, again.dictionary.W_dec, rtol=0, atol=0)
    save_dictionary(one.dictionary, tmp_path / "clt.safetensors")
    assert load_dictionary(tmp_path / "clt.safetensors").facts.provenance["sites"] == list(recipe.sites)


def _recipes() -> list[Recipe]:
    return [
        _recipe(site="resid_post.1"),
        _recipe(site="resid_post.1", architecture="jump_relu", options={}, l0=3.0, resample_every=5),
        _recipe(site="mlp_in.1", target="mlp_out.1", architecture="batch_topk", skip=True),
    ]


OPTIONS: Any = {"n_tokens": 1200, "step_tokens": 40, "pool_tokens": 120, "report_every": 3}


@pytest.mark.parametrize("stop", [1, 2, 3, 11, 20])
def test_an_interrupted_training_goes_on_with_the_same_bits(tmp_path, monkeypatch, stop):
    model = cb.load("meadow")
    whole = train_dictionaries(model, TEXTS, _recipes(), **OPTIONS)
    for name in ("SAVE_EVERY", "SAVE_SHARE"):
        monkeypatch.setattr(f"caseback.decode.dictionaries.training.train.{name}", 0.0)
    step, steps = Trainer.step, []

    def interrupted(self, *given, **more):
        steps.append(1)
        if len(steps) == 3 * stop:
            raise KeyboardInterrupt
        return step(self, *given, **more)

    path = tmp_path / "training"
    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_dictionaries(model, TEXTS, _recipes(), checkpoint=path, **OPTIONS)
    monkeypatch.setattr(Trainer, "step", lambda *given, **more: (steps.append(1), step(*given, **more))[1])
    resumed = train_dictionaries(model, TEXTS, _recipes(), checkpoint=path, **OPTIONS)
    made = resumed[0].dictionary.facts.provenance["trained"]["steps"]
    assert len(steps) <= 3 * (made + 1)  # no more than the step that was interrupted is made again
    for one, other in zip(whole, resumed, strict=True):
        for name, value in one.dictionary.state_dict().items():
            assert torch.equal(value, other.dictionary.state_dict()[name]), name
        np.testing.assert_array_equal(one.curve, other.curve)


@pytest.mark.parametrize("stop", [2, 11])
def test_ctrl_c_waits_for_the_step_and_saves_it(tmp_path, monkeypatch, stop):
    model, path = cb.load("meadow"), tmp_path / "training"
    whole = train_dictionaries(model, TEXTS, _recipes(), **OPTIONS)
    step, steps = Trainer.step, []

    def interrupted(self, *given, **more):
        steps.append(1)
        if len(steps) == 3 * stop - 1:  # in the middle of a step of three dictionaries
            signal.raise_signal(signal.SIGINT)
        return step(self, *given, **more)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(Trainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_dictionaries(model, TEXTS, _recipes(), checkpoint=path, **OPTIONS)
        assert len(steps) == 3 * stop and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    resumed = train_dictionaries(model, TEXTS, _recipes(), checkpoint=path, **OPTIONS)
    made = resumed[0].dictionary.facts.provenance["trained"]["steps"]
    assert len(steps) == 3 * made  # none is made again
    for one, other in zip(whole, resumed, strict=True):
        for name, value in one.dictionary.state_dict().items():
            assert torch.equal(value, other.dictionary.state_dict()[name]), name
        np.testing.assert_array_equal(one.curve, other.curve)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_pool_that_was_being_read_goes_on_from_the_batch_that_it_stopped_at(tmp_path, monkeypatch, damaged):
    model, path = cb.load("meadow"), tmp_path / "training"
    monkeypatch.setattr("caseback.decode.dictionaries.training.reading.EVERY", 0.0)
    monkeypatch.setattr("caseback.decode.dictionaries.training.pools.limit", lambda *_: 16)  # several batches a pool
    small = train_dictionaries(model, TEXTS, _recipes(), **OPTIONS)
    states, reads = ModelPools._states, []

    def interrupted(self, *given):
        reads.append(1)
        if len(reads) == 6:
            raise KeyboardInterrupt
        return states(self, *given)

    monkeypatch.setattr(ModelPools, "_states", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_dictionaries(model, TEXTS, _recipes(), checkpoint=path, **OPTIONS)
    pieces = sorted(file.name for file in tmp_path.iterdir())
    assert pieces == [f"training-pool-0-{i}" for i in range(5)]
    if damaged:
        (tmp_path / pieces[3]).write_bytes(b"no piece")
    again = []
    monkeypatch.setattr(ModelPools, "_states", lambda self, *given: (again.append(1), states(self, *given))[1])
    resumed = train_dictionaries(model, TEXTS, _recipes(), checkpoint=path, **OPTIONS)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["training"]
    whole_reads = []
    monkeypatch.setattr(ModelPools, "_states", lambda self, *given: (whole_reads.append(1), states(self, *given))[1])
    train_dictionaries(model, TEXTS, _recipes(), **OPTIONS)
    assert len(again) == len(whole_reads) - (3 if damaged else 5)
    for one, other in zip(small, resumed, strict=True):
        for name, value in one.dictionary.state_dict().items():
            assert torch.equal(value, other.dictionary.state_dict()[name]), name


def test_another_training_does_not_go_on_from_a_checkpoint(tmp_path):
    x, _ = _planted(500, 8, 12, 0)
    options: Any = {"n_tokens": 500, "step_tokens": 50, "pool_tokens": 250, "checkpoint": tmp_path / "training"}
    recipe = _recipe(width=12)
    train_dictionaries(None, {SITE: x}, recipe, **options)
    with pytest.raises(LoadError, match=r"what differs: options"):
        train_dictionaries(None, {SITE: x}, _recipe(width=12, lr=0.01), **options)
    with pytest.raises(LoadError, match=r"what differs: states"):
        train_dictionaries(None, {SITE: x + 1}, recipe, **options)


def test_many_on_one_stream_are_each_what_they_are_alone():
    model = cb.load("meadow")
    together = train_dictionaries(model, TEXTS, [_recipe(), _recipe(seed=1), _recipe(site="z.1")], **OPTIONS)
    (alone,) = train_dictionaries(model, TEXTS, [_recipe(seed=1)], **{**OPTIONS})
    # sinks are left out of all sites together, of which this model has none
    torch.testing.assert_close(together[1].dictionary.W_dec, alone.dictionary.W_dec, rtol=1e-4, atol=1e-5)
    assert together[2].dictionary.d_in == model.anatomy.n_heads * model.anatomy.d_head


def test_a_pool_has_each_token_of_its_rows_once_and_none_in_front():
    model = cb.load("meadow")
    rows = list(rows_of(model, cb.stream.documents(TEXTS[:2])))
    pools = ModelPools(model, rows, ["resid_post.2", "embed"], 10_000, seed=0, sink=None)
    run = model.run([row.ids for row in rows], read=["resid_post.2"])
    wanted = run["resid_post", 2][run.tokens.mask & (run.tokens.mask.cumsum(1) > 1)]
    once = pools.block(0)
    assert sorted(once.document.tolist())[: len(rows)] and len(once) >= len(rows)
    got = pools.pool(0)["resid_post.2"]
    n = len(wanted)
    nearest = torch.cdist(got.double(), wanted.double())
    assert float(nearest.min(1).values.max()) < 1e-3
    counts = nearest.argmin(1).bincount(minlength=n)
    assert int(counts.min()) >= len(got) // n and int(counts.max()) <= len(got) // n + 1


def test_stored_states_train_as_those_of_a_model(tmp_path):
    model = cb.load("meadow")
    found = collect(model, TEXTS, activations=["resid_post.1"], folder=tmp_path / "states", shard_tokens=64)
    store = found.store("resid_post.1")
    pools = StoredPools({"resid_post.1": store}, 64, seed=0, sink=None)
    assert pools.at_once == 1
    shards = [store.shard(i)[store.shard(i, name="pos") > 0] for i in range(store.n_shards)]
    whole = torch.cat(shards)
    got = torch.cat([pools.pool(i)["resid_post.1"] for i in range(store.n_shards)])
    torch.testing.assert_close(got.sum(0), whole.sum(0), rtol=1e-4, atol=1e-3)
    recipe = _recipe(site="resid_post.1")
    (one,) = train_dictionaries(model, {"resid_post.1": store}, recipe, n_tokens=400, step_tokens=50, pool_tokens=128)
    assert one.dictionary.facts.model == model.name


def test_given_states_come_once_an_epoch():
    x = torch.arange(10.0)[:, None]
    pools = GivenPools({SITE: x}, 4, seed=0)
    seen = torch.cat([pools.pool(i)[SITE] for i in range(5)]).flatten().tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]


def test_the_last_share_lets_codes_grow_back():
    """A penalty shrinks codes; with the encoder at rest and no penalty, rows grow until nothing is gained."""
    x, _ = _planted(40_000, 32, 48, 0)
    options: Any = {"n_tokens": 600_000, "step_tokens": 512, "pool_tokens": 40_000}
    bias = []
    for finish in (0.0, 0.3):
        recipe = _recipe(architecture="standard", options={}, l0=2.0, finish=finish)
        (one,) = train_dictionaries(None, {SITE: x}, recipe, **options)
        y = one.dictionary(x).detach()
        bias.append(float(y.square().sum() / (y * x).sum()))
    assert bias[0] < 0.9 and abs(bias[1] - 1) < 0.03


def test_resampled_features_learn_again():
    x, rows = _planted(40_000, 32, 48, 0)
    recipe = _recipe(architecture="standard", options={}, l0=2.0, dead_after=5_000)
    trainer = Trainer(recipe, recipe.start(32, 32), 100_000)
    trainer.begin(x, x)
    trainer.step(x[:512])
    trainer.clock[:10] = 10_000
    with torch.no_grad():
        trainer.dictionary.b_enc[:10] = -100.0
    assert trainer.resample(x, None, 0) == 10
    assert not trainer.dead.any()
    fired = trainer.step(x).fired
    assert bool((fired[:10] > 0).any())
    moments = trainer.optimizer.state[trainer.dictionary.W_enc]["exp_avg"]
    assert moments[:10].abs().sum() > 0


def test_a_loss_that_is_not_finite_stops_and_says_where_it_began(tmp_path, monkeypatch):
    x, _ = _planted(4000, 8, 12, 0)
    monkeypatch.setattr("caseback.decode.dictionaries.training.train.SAVE_EVERY", 0.0)
    step = Trainer.step

    def broken(self, states, *given, **more):
        return step(self, states * (float("nan") if self.moved == 17 else 1.0), *given, **more)

    monkeypatch.setattr(Trainer, "step", broken)
    options: Any = {"n_tokens": 4000, "step_tokens": 100, "pool_tokens": 1000, "report_every": 10}
    with pytest.raises(CasebackError, match=r"not finite from step 17 on.*holds the training before it"):
        train_dictionaries(None, {SITE: x}, _recipe(width=12), checkpoint=tmp_path / "training", **options)
    monkeypatch.setattr(Trainer, "step", step)
    (one,) = train_dictionaries(None, {SITE: x}, _recipe(width=12), checkpoint=tmp_path / "training", **options)
    assert bool(one.dictionary.W_dec.isfinite().all())


def test_what_cannot_be_trained_is_refused():
    x, _ = _planted(500, 8, 12, 0)
    with pytest.raises(ArgumentError, match=r"its options are k, relu"):
        train_dictionaries(None, {SITE: x}, _recipe(options={"kk": 2}), n_tokens=100)
    with pytest.raises(OutOfRange, match=r"k is 99: expected 1 to 48"):
        train_dictionaries(None, {SITE: x}, _recipe(options={"k": 99}), n_tokens=100)
    with pytest.raises(ArgumentError, match=r"there are no states of z\.0"):
        train_dictionaries(None, {SITE: x}, _recipe(site="z.0"), n_tokens=100)
    with pytest.raises(ArgumentError, match="two recipes are called"):
        train_dictionaries(None, {SITE: x}, [_recipe(), _recipe()], n_tokens=100)
    with pytest.raises(CasebackError, match="NaN"):
        train_dictionaries(None, {SITE: x * float("nan")}, _recipe(), n_tokens=100)
    with pytest.raises(CasebackError, match="corpus is empty"):
        train_dictionaries(cb.load("meadow"), [], _recipe(), n_tokens=100)
    with pytest.raises(ArgumentError, match="topk reads one site, and 2 are given"):
        train_dictionaries(None, {SITE: x, "other": x}, _recipe(site=[SITE, "other"]), n_tokens=100)
    with pytest.raises(ArgumentError, match="l0 and coefficient are both given"):
        _recipe(l0=2.0, coefficient=1.0)


def _tokens_read(model: cb.Model, work: Any) -> int:
    """The tokens that pass through a model's first layer while something is done."""
    passed: list[int] = []
    hook = model.hf.transformer.h[0].register_forward_pre_hook(
        lambda _, given, options: passed.append((given[0] if given else options["hidden_states"])[..., 0].numel()),
        with_kwargs=True,
    )
    try:
        work()
    finally:
        hook.remove()
    return sum(passed)


def test_the_model_reads_no_more_than_a_training_needs_and_a_row_of_a_pool_once():
    model = cb.load("meadow")
    many = [f"Mary went to the store and gave {a} drinks to {b}." for a in range(20) for b in ("John", "Anna", "Tom")]
    rows = list(rows_of(model, cb.stream.documents(many)))
    whole = sum(len(row.ids) for row in rows)
    options: Any = {"n_tokens": 200, "step_tokens": 50}
    read = _tokens_read(model, lambda: train_dictionaries(model, many, _recipe(), **options))
    assert read < 2 * 200 < whole  # with pools of 131,072 tokens, some hundred epochs
    read = _tokens_read(model, lambda: train_dictionaries(model, TEXTS, _recipe(), **options | {"n_tokens": 5000}))
    assert read < 2 * sum(len(row.ids) for row in rows_of(model, cb.stream.documents(TEXTS)))


def test_rows_that_a_pool_repeats_have_the_states_that_they_have_alone():
    model = cb.load("meadow")
    rows = list(rows_of(model, cb.stream.documents(TEXTS[:2] + ["the old dog"])))
    pools = ModelPools(model, rows, ["resid_post.1"], 150, seed=0, sink=None)
    run = model.run([rows[i].ids for i in pools.drawn(0)], read=["resid_post.1"])
    wanted = run["resid_post", 1][run.tokens.mask & (run.tokens.mask.cumsum(1) > 1)]
    got = pools.pool(0)["resid_post.1"]
    assert len(pools.drawn(0)) > 2 * len(rows) and got.shape == wanted.shape
    order = [x[x[:, 0].argsort(stable=True)] for x in (got, wanted)]
    torch.testing.assert_close(*order, rtol=0, atol=1e-4)


def test_no_score_of_the_training_stands_on_the_threshold():
    """A corpus may have a state again, whose score is then the same but for rounding: on the threshold it would flip."""
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)).relu().repeat(4, 1)
    (one,) = train_dictionaries(
        None, {SITE: x}, _recipe(architecture="batch_topk", width=16), n_tokens=4000, step_tokens=100, pool_tokens=1000
    )
    own: Any = one.dictionary
    off = (own.ranked(own.scores(x)).detach().double() - own.threshold).abs()
    assert float(off.min()) > 1e-5 * float(own.threshold)


def test_a_site_without_its_layer_is_refused_in_words():
    with pytest.raises(ArgumentError, match=r"resid_post is in 4 layers: name one of them, such as resid_post\.3"):
        train_dictionaries(cb.load("meadow"), TEXTS, _recipe(site="resid_post"), n_tokens=100, step_tokens=50)


def test_a_dictionary_says_what_it_was_trained_on(tmp_path):
    model = cb.load("meadow")
    (one,) = train_dictionaries(model, TEXTS, _recipe(seed=3), n_tokens=200, step_tokens=50, seed=7)
    (tuned,) = train_end_to_end(
        model, TEXTS, _recipe(seed=3), start=[one.dictionary], beside="error", n_tokens=60, step_tokens=30
    )
    save_dictionary(tuned.dictionary, tmp_path / "one.safetensors")
    facts = load_dictionary(tmp_path / "one.safetensors").facts
    trained = facts.provenance["trained"]
    assert facts.tokens == "without what stands in front of rows and states beyond 10 median norms"
    assert trained["tokens"] >= 200 and trained["steps"] >= 4 and trained["seed"] == [7, 3]
    assert facts.provenance["trained end to end"]["tokens"] >= 60
    (given,) = train_dictionaries(None, {SITE: torch.randn(100, 8)}, _recipe(width=16), n_tokens=100, step_tokens=50)
    assert given.dictionary.facts.tokens == "" and given.dictionary.facts.provenance["trained"]["tokens"] >= 100
