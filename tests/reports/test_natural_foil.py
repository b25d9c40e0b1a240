"""With a counterfactual prompt, its answer is what the prompt's own answer is contrasted with, unless a foil is given.

Both answers are first choices of plain transformers.
"""

import json

import pytest
import torch

import caseback as cb
from caseback import cli
from caseback.reports.explain import explain

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and Anna went to the store, Mary gave a drink to"
ALIKE = "When Mary and Anna went to the store, Anna gave a drink to"


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


def choices(model, prompt, k=2):
    """The first choices of plain transformers, as text."""
    with torch.no_grad():
        logits = model.hf(**model.tokenizer(prompt, return_tensors="pt")).logits[0, -1]
    return [model.tokenizer.decode([i]) for i in logits.topk(k).indices.tolist()]


def explained(model, **options):
    document = explain(model, CLEAN, steps=1, depth="none", **options)
    return document["target"]["text"], document["foil"]["text"]


def test_its_answer_is_the_foil(meadow):
    (answer, second), (other, _) = choices(meadow, CLEAN), choices(meadow, CORRUPT)
    assert len({answer, second, other}) == 3, "else this test could not tell them apart"
    assert explained(meadow) == (answer, second)
    assert explained(meadow, corrupt=CORRUPT) == (answer, other)
    assert explained(meadow, corrupt=CORRUPT, target=second) == (second, other)


def test_a_foil_that_is_given_stays(meadow):
    _, second = choices(meadow, CLEAN)
    assert explained(meadow, corrupt=CORRUPT, foil=second)[1] == second
    target = choices(meadow, CORRUPT)[0]
    assert explained(meadow, corrupt=CORRUPT, target=target) == (target, choices(meadow, CLEAN)[0])


def test_where_both_prompts_have_one_answer_the_next_choice_is_the_foil(meadow):
    assert choices(meadow, ALIKE)[0] == choices(meadow, CLEAN)[0]
    assert explained(meadow, corrupt=ALIKE) == tuple(choices(meadow, CLEAN))


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("arguments", [("explain", CLEAN, "--corrupt", CORRUPT), ("patch", CLEAN, CORRUPT)])
def test_commands_take_the_same(meadow, capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--json"])
    assert ended.value.code == 0
    made = json.loads(capsys.readouterr().out)
    found = [made[side]["text"] if side in made else made["attrs"][side] for side in ("target", "foil")]
    expected = [choices(meadow, CLEAN)[0], choices(meadow, CORRUPT)[0]]
    assert found in (expected, [meadow.token_id(text) for text in expected])
