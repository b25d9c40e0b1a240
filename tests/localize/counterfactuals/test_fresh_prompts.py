"""Prompts of a pattern: aligned pairs, each answered as expected by plain runs, none of them twice."""

import pytest

import caseback as cb
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.counterfactuals import fresh_prompts
from caseback.organisms.compiled import build

IOI = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


def test_each_pair_is_answered_as_expected(meadow):
    prompts = fresh_prompts(meadow, IOI, 6)
    texts = meadow.text(prompts.clean)
    assert texts[0] == IOI and len({*texts}) == len(prompts) == 6
    clean, corrupt = (prompts.metric(meadow.run(tokens)) for tokens in (prompts.clean, prompts.corrupt))
    assert (clean > 0).all() and (corrupt < 0).all()
    differs = prompts.clean.ids != prompts.corrupt.ids
    assert (differs == differs[:1]).all()  # the same places everywhere
    assert prompts.clean.mask.all()


def test_the_same_seed_draws_the_same(meadow):
    one, same, other = (fresh_prompts(meadow, IOI, 5, seed=seed).clean.ids for seed in (0, 0, 1))
    assert (one == same).all() and (one != other).any()


def test_where_no_other_prompt_has_the_pattern_it_says_so():
    with pytest.raises(CasebackError, match="no other prompt of the pattern"):
        fresh_prompts(build("or_gate").model, "1 1 =", 3)  # there are no other bits


def test_bad_input_is_refused(meadow):
    with pytest.raises(OutOfRange):
        fresh_prompts(meadow, IOI, 1)
