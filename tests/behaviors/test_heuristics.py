"""A bag of heuristics: written rules are found in their neurons and carry the sums that they hold for; chance is not."""

from copy import deepcopy

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors.arithmetic import arithmetic_heuristics
from caseback.behaviors.arithmetic.rules import every_rule, places, rules, shares
from caseback.errors import CasebackError, OutOfRange
from caseback.organisms.compiled.draft import SHARP, Draft
from zoo import redraw

LARGEST = 8
SUMS = range(2, 2 * LARGEST + 1)
TEMPLATE = "{a} {b} ="
RULES = {
    **{f"result in {lo} to {min(lo + 3, SUMS[-1])}": [lo <= s < lo + 4 for s in SUMS] for lo in (2, 6, 10)},
    **{f"result mod 4 = {m}": [s % 4 == m for s in SUMS] for m in range(4)},
}
"""The first range and remainder of a sum are together its own; 14 to 16 is what no range claims."""


@pytest.fixture(scope="module")
def bag():
    """Heads bring both operands, the first MLP has a neuron for every pair, the second one for every rule."""
    numbers, results = [str(i) for i in range(1, LARGEST + 1)], [str(s) for s in SUMS]
    words = [str(i) for i in range(1, SUMS[-1] + 1)]
    of = Draft(
        [*words, "="], 4,
        {"number": LARGEST, "is =": 1, "place": 2, "a": LARGEST, "b": LARGEST, "sum": len(SUMS), "answer": len(SUMS)},
    )  # fmt: skip
    of.embed("number", numbers)
    of.embed("is =", ["="])
    of.place("place", [1, 2])
    for i, part in enumerate("ab"):
        of.head(0, [(of["is ="], of["place"][:, [i]], SHARP)], [(of["number"], of.into(part))])
    pairs = [(i, j) for i in range(LARGEST) for j in range(LARGEST)]
    reads = torch.stack([of["a"][:, i] + of["b"][:, j] for i, j in pairs], 1)
    of.neurons(0, reads, -torch.ones(len(pairs)), torch.stack([of.into("sum")[i + j] for i, j in pairs]))
    masks = torch.tensor(list(RULES.values()), dtype=torch.float32)
    of.neurons(1, of["sum"] @ masks.T, torch.zeros(len(masks)), 6 * masks @ of.into("answer"))
    of.unembed("answer", results)
    model = of.model(layers=2)
    return cb.load(model.hf.double(), tokenizer=model.tokenizer)


@pytest.fixture(scope="module")
def table(bag):
    return arithmetic_heuristics(bag, TEMPLATE, largest=LARGEST, layers=[1], draws=4)


def test_5_4_10_written_rules_are_found_in_their_neurons(table):
    assert table.attrs["answered"] == table.attrs["pairs"] == LARGEST**2
    for n, rule in enumerate(RULES):
        if rule in table.heuristic.values:
            at = table.sel(heuristic=rule, component=f"L1N{n}")
            total = LARGEST**2 // 2
            assert at["matched"] == 1, rule
            np.testing.assert_allclose(at["score"], 1 - at["support"] / total)
            assert at["score"] == table["score"].sel(component=f"L1N{n}").max(), rule
    assert "result mod 4 = 1" in table.heuristic.values and "result in 6 to 9" in table.heuristic.values


def test_5_4_10_sums_that_a_rule_holds_for_need_its_neurons(table):
    known = table["satisfied"].sel(measure="log_prob", variant="as it is").notnull().values
    judged = table.isel(heuristic=np.flatnonzero(known))
    lost = {}
    for name in ("satisfied", "others"):
        of = judged[name].sel(measure="log_prob")
        lost[name] = of.sel(variant="as it is") - of.sel(variant="without its neurons")
        assert bool((judged[name].sel(measure="right", variant="as it is") == 1).all())
    own = [rule for rule in RULES if rule in judged.heuristic.values]
    assert own
    for rule in own:
        random = judged["satisfied"].sel(measure="log_prob", heuristic=rule)
        assert lost["satisfied"].sel(heuristic=rule) > lost["others"].sel(heuristic=rule) + 0.3, rule
        assert random.sel(variant="without its neurons") < random.sel(variant="without others"), rule


def test_shares_are_those_of_the_first_k_pairs_counted_one_by_one():
    rng = np.random.default_rng(0)
    a, b = rng.integers(1, 13, (2, 60))
    masks = rules(a, b, a + b, np.arange(60) % 2 == 0)
    values = torch.from_numpy(rng.normal(size=(3, 60)))
    ours = shares(places(values, rng), torch.from_numpy(np.stack(list(masks.values()))))
    for h, mask in enumerate(masks.values()):
        for n, row in enumerate(values.numpy()):
            assert float(ours[h, n]) == mask[np.argsort(-row)[: mask.sum()]].mean()


def test_equal_values_have_no_order():
    """A silent neuron follows no rule: its pairs are not ranked as they are listed."""
    rng = np.random.default_rng(0)
    place = places(torch.zeros(400, 50), rng)
    assert sorted(place[0].tolist()) == list(range(50))
    mask = torch.arange(50)[None] < 10
    assert abs(float(shares(place[:1], mask)) - 0.2) < 0.4
    orders = [float(shares(places(torch.zeros(1, 50), rng), mask)) for _ in range(200)]
    assert abs(np.mean(orders) - 0.2) < 0.03


def test_rules_say_what_their_names_say():
    a, b = (x.ravel() for x in np.meshgrid(np.arange(1, 31), np.arange(1, 31)))
    every = dict(every_rule(a, b, a + b))
    np.testing.assert_array_equal(every["result mod 7 = 3"], (a + b) % 7 == 3)
    np.testing.assert_array_equal(every["a has tens 2"], [str(x).zfill(2)[-2] == "2" for x in a])
    np.testing.assert_array_equal(every["result ends in 4"], [str(x)[-1] == "4" for x in a + b])
    np.testing.assert_array_equal(every["a = b"], a == b)


def test_permuted_maps_hardly_match(table):
    assert float(table["by_chance"].mean()) < 0.5


def test_an_untrained_model_has_nothing_to_look_at(bag):
    hf = deepcopy(bag.hf).requires_grad_()  # loading froze it
    redraw(hf)
    with pytest.raises(CasebackError, match="what is not answered has no heuristics"):
        arithmetic_heuristics(cb.load(hf, tokenizer=bag.tokenizer), TEMPLATE, largest=LARGEST)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"operator": "/"}, CasebackError, "unknown"),
        ({"template": "{a} + ="}, CasebackError, "{b}"),
        ({"largest": 3}, OutOfRange, "5 or more"),
        ({"layers": [9]}, OutOfRange, "layers"),
        ({"threshold": 0.0}, OutOfRange, "threshold"),
        ({"draws": 0}, OutOfRange, "draws"),
    ],
)
def test_what_cannot_be_looked_for_says_why(bag, given, error, words):
    with pytest.raises(error, match=words):
        arithmetic_heuristics(bag, **{"template": TEMPLATE, "largest": LARGEST, **given})
