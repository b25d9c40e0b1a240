"""A target without the leading space that the model would write is warned of, at every door that takes one.

How much likelier the spaced token is comes from plain transformers; so does which of the two is meant.
"""

import warnings

import pytest
import torch

import caseback as cb
from caseback import cli
from caseback.jobs.warned import heard
from caseback.localize.components import logit_attribution
from caseback.localize.components.ablation import ablate
from caseback.localize.components.patching import patch
from caseback.localize.inputs import input_methods, removal_curves
from caseback.model.running.targets import GUESS, SpaceForgotten, target_and_foil
from caseback.reports.attributions import compare_attributions
from caseback.reports.explain import explain

PROMPT = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and John went to the store, Mary gave a drink to"


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


def times_likelier(model, word, prompt=PROMPT):
    """How many times likelier the word is with a space before it, by plain transformers."""
    ids = model.tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        shares = model.hf(ids).logits[0, -1].double().softmax(-1)
    bare, spaced = (model.tokenizer(text, add_special_tokens=False).input_ids for text in (word, f" {word}"))
    assert len(bare) == len(spaced) == 1
    return float(shares[spaced[0]] / shares[bare[0]])


def in_words(times):
    """One digit that counts, and as many zeros as a reader can count."""
    if times > 1_000_000:
        return "millions of"
    zeros = len(str(int(times))) - 1
    return f"{round(times / 10**zeros) * 10**zeros:,}"


DOORS = {
    "a metric of a run": lambda model, t, f: cb.logit_diff(t, f)(model.run(PROMPT)),
    "a probability": lambda model, t, _: cb.prob(t)(model.run(PROMPT)),
    "sweep": lambda model, t, f: model.sweep(PROMPT, [[cb.Zero("mlp_out", layer=0)]], cb.logit_diff(t, f)),
    "ablate": lambda model, t, f: ablate(model, PROMPT, cb.logit_diff(t, f), components="mlps", kind="zero"),
    "patch": lambda model, t, f: patch(model, PROMPT, CORRUPT, cb.logit_diff(t, f), by=["layer"]),
    "logit_attribution": lambda model, t, f: logit_attribution(model, PROMPT, cb.logit_diff(t, f)),
    "removal_curves": lambda model, t, f: removal_curves(model, PROMPT, cb.logit_diff(t, f), torch.arange(15.0)[None]),
    "explain": lambda model, t, f: explain(model, PROMPT, target=t, foil=f, steps=1),
    "compare_attributions": lambda model, t, f: compare_attributions(
        model, PROMPT, ["gradient_x_input"], target=t, foil=f, chance=0
    ),
}


# what looks at attention alone measures no target
UNMEASURED = {
    *("raw_attention", "attention_norms", "attention_flow", "attention_rollout", "globenc", "alti", "value_zeroing"),
    "mlp_mixing",
}
OPTIONS = {
    "reagent": {"max_steps": 2},
    "sequential_integrated_gradients": {"steps": 2},
    "discretized_integrated_gradients": {"steps": 2},
    "exact_shapley": {"features": [[list(range(1, 9)), list(range(9, 15))]]},
}
DOORS |= {
    name: lambda model, t, f, method=method, name=name: method.function(
        model, PROMPT, cb.logit_diff(t, f), **OPTIONS.get(name, {})
    )
    for name, method in input_methods().items()
    if name not in UNMEASURED
}


def forgotten(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if issubclass(w.category, SpaceForgotten)]


@pytest.mark.parametrize("door", DOORS)
def test_every_door_warns_of_a_forgotten_space(meadow, door):
    assert times_likelier(meadow, "Mary") > 1000
    said = forgotten(lambda: DOORS[door](meadow, "Mary", " John"))
    assert said and all("'Mary' has no leading space" in text and "' Mary'" in text for text in said)
    assert f"is {in_words(times_likelier(meadow, 'Mary'))} times likelier" in said[0]
    assert not forgotten(lambda: DOORS[door](meadow, " Mary", " John"))


@pytest.mark.parametrize("name", sorted(UNMEASURED))
def test_scores_that_depend_on_no_target_warn_of_none(meadow, name):
    method = input_methods()[name].function
    scores = [method(meadow, PROMPT, cb.logit(word)).values for word in (" Mary", " the")]
    assert (scores[0] == scores[1]).all() and not forgotten(lambda: method(meadow, PROMPT, cb.logit("Mary")))


def test_foils_and_one_target_a_prompt_are_warned_of(meadow):
    assert times_likelier(meadow, "John") > 1000
    run = meadow.run([PROMPT, CORRUPT])
    assert forgotten(lambda: cb.logit_diff(" Mary", "John")(run))[0].startswith("foil 'John' has no leading space")
    said = forgotten(lambda: cb.logit([" Mary", "John"])(run))
    assert len(said) == 1 and f"is {in_words(times_likelier(meadow, 'John', CORRUPT))} times" in said[0]


@pytest.mark.parametrize("word", ["store", " store", ",", "."])
def test_nothing_is_said_where_the_spaced_token_is_not_far_likelier(meadow, word):
    if word == "store":
        assert 1 < times_likelier(meadow, word) < 1000, "likelier, but not by enough to think that it was meant"
    assert not forgotten(lambda: cb.logit(word)(meadow.run(PROMPT)))


def test_positions_of_each_prompt_are_warned_of_where_they_are_read(meadow):
    """Where the metric reads another position, that one's prediction says which token is likelier."""
    ids = meadow.tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        shares = meadow.hf(ids).logits[0].double().softmax(-1)
    bare, spaced = (meadow.tokenizer(text).input_ids[-1] for text in ("John", " John"))
    ratio = shares[:, spaced] / shares[:, bare]
    far, near = int(ratio.argmax()), int((ratio - 1).abs().argmin())
    assert ratio[far] > 1000 > ratio[near]
    run = meadow.run([PROMPT])
    assert forgotten(lambda: cb.logit("John", pos=torch.tensor([far]))(run))
    assert not forgotten(lambda: cb.logit("John", pos=near)(run))


def test_a_command_says_it_once_on_standard_error(capsys, monkeypatch):
    monkeypatch.setenv("CASEBACK_DEBUG", "0")
    with pytest.raises(SystemExit) as ended:
        cli.main(["ablate", PROMPT, "--target", "Mary", "--foil", " John", "--components", "mlps"])
    err = capsys.readouterr().err
    assert ended.value.code == 0 and err.count("target 'Mary' has no leading space") == 1


def test_a_first_choice_that_is_a_guess_is_warned_of_and_one_that_is_given_or_known_is_not(meadow):
    foreign = meadow.run("The Eiffel Tower is in").logits[0, -1].detach()
    assert float(foreign.double().softmax(-1).max()) < GUESS
    with heard() as lines:
        target, _ = target_and_foil(meadow, foreign)
    assert len(lines) == 1 and "meadow hardly knows how this text goes on" in lines[0]
    assert repr(meadow.token_text(target)) in lines[0] and "%" in lines[0]
    with heard() as lines:
        target_and_foil(meadow, foreign, " Paris")
        target_and_foil(meadow, meadow.run(PROMPT).logits[0, -1].detach())
    assert lines == []
