"""Examples of interchanges: what they are drawn from, cut and joined."""

import planted_truth
import pytest
import torch
from planted_truth import OR, SUM, said

import caseback as cb
from caseback.errors import CasebackError, TargetError, TokensError
from caseback.localize.abstraction import CausalModel, Interchanges
from caseback.organisms.compiled import build


@pytest.fixture(scope="module")
def adder():
    return build("modular_addition", p=planted_truth.MODULUS, frequencies=1).model


def words(tokens):
    return [row[1:] for row in tokens.text]


def test_targets_are_the_causal_model_s(adder):
    data = planted_truth.sums(adder, ["a", "b"], 30, swap="any")
    for i in range(30):
        base, a, b = (words(t)[i] for t in (data.base, data.sources["a"], data.sources["b"]))
        told = [int(a[0] if data.on("a")[i] else base[0]), int(b[1] if data.on("b")[i] else base[1])]
        assert adder.token_text(data.target[i]) == str(sum(told) % 7)
        assert adder.token_text(data.base_target[i]) == str((int(base[0]) + int(base[1])) % 7)
        assert words(data.counterfactual)[i] == [str(told[0]), str(told[1]), "="]
    on = torch.stack([data.on("a"), data.on("b")], 1)
    assert on.any(1).all() and {tuple(row) for row in on.tolist()} == {(True, True), (True, False), (False, True)}
    one = planted_truth.sums(adder, ["a", "b"], 12, swap="one")
    assert (one.on("a") ^ one.on("b")).all()


def test_the_share_that_changes_is_kept_and_draws_follow_the_seed(adder):
    data = planted_truth.sums(adder, "a", 20, changing=0.3)
    assert int(data.changes.sum()) == 6
    same, other = planted_truth.sums(adder, "a", 20, changing=0.3), planted_truth.sums(adder, "a", 20, seed=1)
    assert torch.equal(data.base.ids, same.base.ids) and not torch.equal(data.base.ids, other.base.ids)
    assert planted_truth.sums(adder, "sum", 20).counterfactual is None


def test_parts_and_sums(adder):
    data = planted_truth.sums(adder, ["a", "b"], 10, swap="any")
    searched, kept = data.split(0.3, seed=2)
    assert len(searched) == 7 and len(kept) == 3
    rows = torch.cat(data.split_rows(0.3, seed=2))
    whole = searched + kept
    assert sorted(rows.tolist()) == list(range(10)) and torch.equal(whole.base.ids, data.base.ids[rows])
    assert torch.equal(whole.target, data.target[rows]) and torch.equal(whole.on("b"), data.on("b")[rows])
    assert whole.counterfactual.text == [data.counterfactual.text[i] for i in rows]


def test_prompts_of_two_lengths_are_joined_on_either_side():
    model = cb.load("meadow")
    short, long = "Mary gave the ball to", "Mary and John gave the ball to"
    for side in ("left", "right"):
        pair = [short, long]
        padded = Interchanges.of(
            model, model.tokens(pair, padding=side), model.tokens(pair, padding=side), " him", " her"
        )
        one = Interchanges.of(model, [long + " the"], [short], " him", " her")
        both = padded + one
        assert both.base.lengths.tolist() == [*padded.base.lengths.tolist(), one.base.lengths.item()]
        assert [row[m].tolist() for row, m in zip(both.base.ids, both.base.mask, strict=True)][:2] == [
            model.tokens(t).ids[0].tolist() for t in pair
        ]
        assert bool((both.base.first > 0).any()) == (side == "left")
        assert both.pos.tolist() == [-1, -1, -1]


def test_a_task_s_pairs_both_ways():
    pairs = cb.tasks.agreement().prompts(cb.load("meadow"), 5)
    data = Interchanges.of_pairs(pairs, variable="number")
    assert len(data) == 10 and data.variables == ("number",) and data.changes.all()
    assert torch.equal(data.target[:5], data.base_target[5:]) and torch.equal(
        data.base.ids[:5], data.sources["number"].ids[5:]
    )
    assert len(Interchanges.of_pairs(pairs, both_ways=False)) == 5


def test_bad_examples_are_refused(adder):
    def sample(variables="a", count=10, causal=SUM, **how):
        return Interchanges.sample(adder, causal, said, variables, count, **how)

    still = CausalModel(
        {"a": range(3), "b": range(3)}, {"zero": ("a", lambda a: 0), "sum": (["zero", "b"], lambda z, b: b)}
    )
    with pytest.raises(
        CasebackError, match="'zero' never differ between bases and sources in 10 examples.*counterfactual"
    ):
        sample("zero", causal=still)
    with pytest.raises(CasebackError, match="only 5 of 10 examples were found, of which 0.5 should change"):
        sample("a", changing=0.5, causal=CausalModel({"a": range(3), "b": range(3)}, {"sum": ("b", lambda b: b)}))
    with pytest.raises(CasebackError, match="no variable is called 'summ'. Did you mean sum"):
        sample("summ")
    with pytest.raises(CasebackError, match="at least one example"):
        sample(count=0)
    with pytest.raises(CasebackError, match="swap 'all', 'one' or 'any'"):
        sample(swap="two")
    with pytest.raises(TargetError, match="expected a token's text or id"):
        sample(answer=lambda value: None)
    data = sample()
    with pytest.raises(TokensError, match="9 targets for 10 base prompts"):
        Interchanges(data.base, data.sources, data.target[:9], data.base_target)
    with pytest.raises(CasebackError, match="swapped names 'b', which has no source"):
        Interchanges(data.base, data.sources, data.target, data.base_target, {"b": torch.ones(10)})
    with pytest.raises(CasebackError, match="needs a source"):
        Interchanges(data.base, {}, data.target, data.base_target)
    with pytest.raises(CasebackError, match="leaves a part empty"):
        data.split(0.01)
    with pytest.raises(CasebackError, match="expected the same variables"):
        data + sample("b")
    with pytest.raises(CasebackError, match="judged by one answer each"):
        Interchanges.of_pairs(cb.tasks.greater_than().prompts(cb.load("meadow"), 2))
    assert OR.run({"a": "0", "b": "1"})["or"] == "1"
