"""PRIMER 3.1.9: efficiency, symmetry, dummy, linearity; every route to Shapley and Owen values against enumeration."""

import itertools

import linear_models
import numpy as np
import pytest
import torch
from linear_models import close

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.inputs.perturbation.kernel_shap import kernel_shap
from caseback.localize.inputs.perturbation.occlusion import occlusion
from caseback.localize.inputs.perturbation.partition_shap import partition_shap
from caseback.localize.inputs.perturbation.shapley import every_coalition, exact_shapley, shapley_of, shapley_sampling
from caseback.model.prompts.granularity import features_of, grouped
from exact import exact

METRIC = cb.logit_diff(3, 5)
PAIRS = [[0, 1], [2, 3], [4]]
EVERY = (exact_shapley, shapley_sampling, kernel_shap, partition_shap)


def told(technique, model, prompts, metric=METRIC, **how):
    """A technique without a tokenizer at hand, drawing little."""
    how = {"levels": (), **how} if technique is partition_shap else how
    how = {"permutations": 6, **how} if technique is shapley_sampling else how
    return technique(model, prompts, metric, **how)


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "gemma2", "mixtral"])
def test_3_1_9_exact_is_the_mean_over_all_orders(name):
    model, ids = shelf.model(name), shelf.ids((5,))[0]
    value = torch.randn(model.d_model, dtype=torch.float64)
    with exact():
        by_hand, v = linear_models.shapley_by_hand(model, ids, PAIRS, value, METRIC)
        scores = exact_shapley(model, [ids], METRIC, features=PAIRS, baseline=value)
    assert close(scores.values[0], by_hand, atol=1e-11)
    assert close(scores.attrs["baseline_value"][0], v[False, False, False], atol=1e-11)
    assert close(scores.attrs["metric_value"][0], v[True, True, True], atol=1e-11)


@pytest.mark.parametrize("technique", EVERY)
@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "gemma2", "deepseek_v3"])
def test_3_1_9_efficiency(technique, name):
    with exact():
        scores = told(technique, shelf.model(name), shelf.ids((6, 4)))
    change = np.array(scores.attrs["metric_value"]) - scores.attrs["baseline_value"]
    assert close(np.nansum(scores, 1), change, atol=1e-11)
    assert close(scores.attrs["completeness_gap"], 0, atol=1e-11) and np.abs(change).min() > 1e-3


@pytest.mark.parametrize("technique", [exact_shapley, kernel_shap])
def test_3_1_9_symmetry(technique):
    """Where the last token alone attends, evenly, to all before it, equal tokens are alike, wherever they stand."""
    model, prompt = linear_models.additive(layers=1), [[7, 9, 7, 4, 9, 2]]
    with exact():
        scores = technique(model, prompt, cb.prob(3)).values[0]
        alone = occlusion(model, prompt, cb.prob(3)).values[0]
    assert close(scores[[1, 0]], scores[[4, 2]], atol=1e-12)
    assert abs(scores[0] - scores[1]) > 1e-3 and not close(scores, alone, 1e-3)


@pytest.mark.parametrize("technique", EVERY)
def test_3_1_9_dummy(technique):
    """A token at its baseline, and one behind the position that is read, never matter."""
    model, ids = shelf.model("llama"), shelf.ids((6,))[0]
    with exact():
        embeds = model.run([ids], read=["embed"])["embed"]
        baseline = torch.zeros_like(embeds)
        baseline[:, 2] = embeds[:, 2]
        scores = told(technique, model, [ids], cb.logit_diff(3, 5, pos=4), baseline=baseline).values[0]
    assert abs(scores[2]) < 1e-12 and scores[5] == 0 and np.abs(scores[[0, 1, 3, 4]]).min() > 1e-3


@pytest.mark.parametrize("technique", EVERY)
def test_3_1_9_linearity(technique):
    """The scores of a difference of metrics are the difference of the scores."""
    model, prompt = shelf.model("gpt2"), shelf.ids((6,))
    with exact():
        both, first, second = (told(technique, model, prompt, m) for m in (METRIC, cb.logit(3), cb.logit(5)))
    assert close(both, first - second, atol=1e-11)


@pytest.mark.parametrize("technique", EVERY)
def test_3_1_9_all_agree_with_occlusion_on_an_additive_game(technique):
    model, prompt = linear_models.additive(), shelf.ids((6,))
    with exact():
        assert close(told(technique, model, prompt), occlusion(model, prompt, METRIC), atol=1e-11)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "gpt_neox"])
def test_3_1_9_kernel_shap_with_all_coalitions_is_exact(name):
    model, prompts = shelf.model(name), shelf.ids((7, 1, 2))
    with exact():
        kernel, true = kernel_shap(model, prompts, METRIC), exact_shapley(model, prompts, METRIC)
    assert close(kernel, true, atol=1e-11) and float(kernel.std_error.max()) == 0


def test_3_1_9_all_orders_are_exact():
    model, prompt = shelf.model("llama"), shelf.ids((4,))
    orders = np.array(list(itertools.permutations(range(4))))
    with exact():
        sampled = shapley_sampling(model, prompt, METRIC, orders=orders)
        assert close(sampled, exact_shapley(model, prompt, METRIC), atol=1e-12)


@pytest.mark.parametrize(
    "technique, how",
    [(kernel_shap, {"samples": 80}), (shapley_sampling, {}), (shapley_sampling, {"antithetic": True})],
)
def test_what_is_sampled_centres_on_the_truth_and_knows_its_spread(technique, how):
    model, prompt = shelf.model("gpt2"), shelf.ids((8,))
    true = exact_shapley(model, prompt, METRIC).values[0]
    drawn = [technique(model, prompt, METRIC, seed=s, **how) for s in range(30)]
    values = np.array([one.values[0] for one in drawn])
    said = np.sqrt((np.array([one.std_error.values[0] for one in drawn]) ** 2).mean(0))
    actual = values.std(0, ddof=1)
    assert (np.abs(values.mean(0) - true) < 4 * actual / len(drawn) ** 0.5).all()
    assert 0.8 < np.median(actual / said) < 1.25, actual / said
    assert np.array_equal(values[0], technique(model, prompt, METRIC, seed=0, **how).values[0])
    assert not np.array_equal(values[0], values[1])


def test_one_order_has_no_spread():
    scores = shapley_sampling(shelf.model("gpt2"), shelf.ids((4,)), METRIC, permutations=1)
    assert np.isnan(scores.std_error).all() and not np.isnan(scores).any()


@pytest.mark.parametrize("technique", EVERY)
def test_padding_and_batch_change_nothing(technique):
    model, prompts = shelf.model("gemma2"), shelf.ids((6, 4))
    tokens = model.tokens(prompts)
    with exact():
        scores = told(technique, model, tokens, keep=0)
        left = told(technique, model, tokens.padded_on("left"), keep=0, token_budget=11)
        alone = told(technique, model, [prompts[1]], keep=0)
    assert close(scores, left, atol=1e-11) and np.isnan(scores.values[:, 0]).all()
    assert close(scores.values[1, 1:4], alone.values[0, 1:], atol=1e-11)


def owen_by_hand(values, tree, n):
    """Mean marginal contribution over the orders in which every branch's leaves come one after another."""

    def orders(branch):
        if isinstance(branch, int):
            return [(branch,)]
        parts = [orders(b) for b in branch]
        return [sum(picked, ()) for p in itertools.permutations(parts) for picked in itertools.product(*p)]

    total = np.zeros(n)
    every = orders(tree)
    for order in every:
        here = 0
        for i in order:
            total[i] += values[here | 1 << i] - values[here]
            here |= 1 << i
    return total / len(every)


@pytest.mark.parametrize("tree", [((0, 1), (2, (3, 4))), (0, (1, (2, (3, 4)))), (((3, 0), 1), (4, 2))])
def test_3_1_9_partition_shap_is_the_owen_value(tree):
    model, ids = shelf.model("llama"), shelf.ids((5,))[0]
    groups = [[p] for p in range(5)]
    zero = torch.zeros(model.d_model, dtype=torch.float64)
    with exact():
        scores = partition_shap(model, [ids], METRIC, baseline=zero, tree=tree)
        values = [
            linear_models.value_by_hand(model, ids, groups, there, zero, METRIC)
            for there in every_coalition(5).tolist()
        ]
    assert close(scores.values[0], owen_by_hand(values, tree, 5), atol=1e-11)
    calls = scores.attrs["calls"][0]
    assert calls <= 2**5
    partition_shap(model, [ids], METRIC, tree=tree, max_calls=calls)
    with pytest.raises(CasebackError, match=f"takes {calls} calls"):
        partition_shap(model, [ids], METRIC, tree=tree, max_calls=calls - 1)


def test_3_1_9_nested_orders_sample_the_owen_value(meadow):
    tokens = meadow.tokens("Mary went out. John stayed.", bos=False)
    words = features_of(meadow, tokens, "word")
    assert [len(row) for row in words.groups] == [7]
    tree = ((0, 1, 2, 3), (4, 5, 6))
    with exact():
        drawn = [
            shapley_sampling(
                meadow, tokens, cb.logit(" The"), features="word", nested=("sentence",), permutations=40, seed=s
            )
            for s in range(6)
        ]
        zero = exact_shapley(meadow, tokens, cb.logit(" The"), features="word")
    from caseback.localize.inputs.perturbation.coalitions import game_of

    made = game_of(meadow, tokens, cb.logit(" The"), features="word")
    values = made.values(every_coalition(7)[:, None])[:, 0]
    true = owen_by_hand(values, tree, 7)
    mean = np.mean([d.values[0] for d in drawn], 0)
    error = np.sqrt(np.mean([d.std_error.values[0] ** 2 for d in drawn], 0) / len(drawn))
    assert (np.abs(mean - true) < 4 * error).all()
    # sentences are a game of two, so what each gets is the same whichever way its words share it
    two = exact_shapley(meadow, tokens, cb.logit(" The"), features="sentence").values[0]
    assert close([true[:4].sum(), true[4:].sum()], two, atol=1e-4)
    assert not close(true, zero.values[0], atol=1e-2)


def test_3_1_9_tokens_add_up_to_words_and_words_to_sentences(meadow):
    tokens = meadow.tokens(["Mary went to the farmhouse. John stayed", "Mary! No."])
    metric = cb.logit(" The")
    scores = partition_shap(meadow, tokens, metric)
    for level in ("word", "sentence"):
        levels = ("sentence", "word")[: 2 if level == "word" else 1]
        coarse = partition_shap(meadow, tokens, metric, features=level, levels=levels)
        assert close(grouped(scores, features_of(meadow, tokens, level)), coarse, atol=1e-4)


def test_exact_shapley_of_known_games():
    majority = np.array([bin(c).count("1") >= 2 for c in range(8)], dtype=float)
    assert close(shapley_of(majority), 1 / 3)
    glove = np.array([(c & 1) and (c & 6) != 0 for c in range(8)], dtype=float)  # one left glove, two right ones
    assert close(shapley_of(glove), [2 / 3, 1 / 6, 1 / 6])


def test_bad_input():
    model, prompt = shelf.model("gpt2"), shelf.ids((20,))
    for technique, bad, kind, said in (
        (
            exact_shapley,
            {},
            CasebackError,
            r"20 features take 2\*\*20 = 1,048,576 calls.*kernel_shap or partition_shap",
        ),
        (exact_shapley, {"keep": slice(0, 20)}, CasebackError, "no token to perturb"),
        (exact_shapley, {"features": [[1], []]}, CasebackError, "feature 1 of prompt 0 is empty"),
        (kernel_shap, {"samples": 0}, OutOfRange, "samples is 0"),
        (kernel_shap, {"samples": 4}, CasebackError, "take more samples"),
        (kernel_shap, {"masks": np.ones((5, 3))}, CasebackError, r"expected \(samples, 20\)"),
        (shapley_sampling, {"permutations": 0}, OutOfRange, "permutations is 0"),
        (shapley_sampling, {"orders": np.zeros((2, 20), int)}, CasebackError, "expected permutations of 0 to 19"),
        (shapley_sampling, {"nested": ("words",)}, CasebackError, "Did you mean word"),
        (shapley_sampling, {"nested": ("word",)}, CasebackError, "no tokenizer"),
        (partition_shap, {"levels": (), "max_calls": 100}, CasebackError, "20 features takes 300 calls, more than"),
        (partition_shap, {"tree": ((0, 1), 2)}, CasebackError, "expected each of 0 to 19 once"),
        (partition_shap, {"tree": ((0, ()), 2)}, CasebackError, "empty branch"),
        (partition_shap, {"levels": ("phrase",)}, CasebackError, "levels has 'phrase'"),
    ):
        with pytest.raises(kind, match=said):
            technique(model, prompt, METRIC, **bad)
