"""A command that is told nothing computes what the Python function that it calls computes when it is told nothing."""

import importlib
import inspect
import json
from typing import get_args

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from caseback import cli
from caseback.localize.components.patching import patch
from caseback.localize.components.tracing import causal_trace
from caseback.reports.attributions import compare_attributions
from caseback.reports.explain import explain
from caseback.reports.training_texts import bearing_scores

pytestmark = pytest.mark.usefixtures("plain")

COMMANDS = {command.__name__: command for command in cli.COMMANDS}
# the function behind each command, and its parameters that the command's options are called differently from
BEHIND = {
    "attribute": (compare_attributions, {"features": "level"}),
    "explain": (explain, {}),
    "patch": (patch, {}),
    "trace": (causal_trace, {}),
    "influence": (bearing_scores, {}),
}
# an option that is one text and the parameter that it is read as
WRITTEN = {("influence", "parts"): ("attn,mlp", ("attn", "mlp"))}


@pytest.mark.parametrize("name", BEHIND)
def test_an_option_has_the_default_of_the_parameter_that_it_sets(name):
    function, renamed = BEHIND[name]
    options = inspect.signature(COMMANDS[name]).parameters
    pairs = {
        p.name: (options[option].default, p.default)
        for p in inspect.signature(function).parameters.values()
        if p.default is not p.empty and (option := renamed.get(p.name, p.name)) in options
    }
    assert len(pairs) >= 4
    assert {n: pair for n, pair in pairs.items() if pair[0] != pair[1] and WRITTEN.get((name, n)) != pair} == {}


def attributed(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["attribute", *arguments, "--json"])
    assert ended.value.code == 0
    return json.loads(capsys.readouterr().out)


def test_attributed_paths_are_complete_on_a_model_without_position_embeddings(capsys, small):
    """The scores add up to what plain transformers loses on the way to a prompt of which the first token is left."""
    prompt, target, foil = "Once upon a", " time", " f"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(small), AutoTokenizer.from_pretrained(small)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    table = model.get_input_embeddings().weight.detach()
    clean = table[ids]
    start = torch.cat([clean[:, :1], table.double().mean(0).to(table).expand_as(clean[:, 1:])], 1)
    document = attributed(capsys, prompt, "-m", small, "--target", target, "--foil", foil)
    t, f = document["target"]["id"], document["foil"]["id"]
    with torch.no_grad():
        ends = [model(inputs_embeds=x).logits[0, -1] for x in (clean, start)]
    change = float((ends[0][t] - ends[0][f]) - (ends[1][t] - ends[1][f]))
    path = next(method for method in document["methods"] if method["name"] == "integrated_gradients")
    assert path["said"]["baseline"] == "mean_after_first" and path["said"]["steps"] <= 64
    assert abs(sum(path["scores"]) - change) <= 0.05 * abs(change) and abs(change) > 0.5


def test_the_baseline_option_is_of_removed_tokens_and_no_methods(capsys, small):
    """What its help says: faithfulness is measured with it, scores stay what they were."""
    by_default, zero = (
        attributed(capsys, "Once upon a time there was a little", "-m", small, *more)
        for more in ((), ("--baseline", "zero"))
    )
    assert [m["scores"] for m in by_default["methods"]] == [m["scores"] for m in zero["methods"]]
    assert (by_default["comparison"]["baseline"], zero["comparison"]["baseline"]) == ("mean", "zero")
    assert by_default["comparison"]["deletion"] != zero["comparison"]["deletion"]
    words = inspect.signature(COMMANDS["attribute"]).parameters["baseline"].annotation.__metadata__[0].help
    assert "faithfulness" in words and "methods keep their own" in words


@pytest.mark.parametrize(("name", "module"), [("learner", "in_context_learner"), ("world", "world_model")])
def test_the_smallest_count_that_is_enough_is_in_the_help(name, module):
    least = importlib.import_module(f"caseback.behaviors.mechanisms.{module}").LEAST
    _, option = get_args(inspect.signature(COMMANDS[name]).parameters["count"].annotation)
    assert f"{least} or more" in option.help
