"""Needles: scores are those of attention read prompt by prompt, whatever the padding; an untrained model has none."""

import json
from copy import deepcopy
from importlib import import_module

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors import needle_test
from caseback.errors import CasebackError, OutOfRange
from caseback.reports.concepts.needle import needle_document
from zoo import redraw


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow", dtype="float64")


@pytest.fixture(scope="module")
def found(meadow):
    return needle_test(meadow, lengths=[50, 90], depths=[0.0, 0.5, 1.0], count=8, draws=4)


def test_5_4_25_scores_are_those_of_attention_read_by_hand(meadow, found):
    """Prompt by prompt, with the whole map: the top key at the end is the word, and the word is said."""
    from caseback.tasks.standard.needle import needle

    hits, n = np.zeros((meadow.n_layers, meadow.n_heads)), 0
    for depth in (0.0, 0.5, 1.0):
        prompts = needle(length=50, depth=depth).prompts(meadow, 8)
        for row in range(0, len(prompts), 2):
            ids = prompts.clean.ids[row][prompts.clean.mask[row]]
            run = meadow.run([ids.tolist()], read=["pattern"])
            if int(run.logits[0, -1].argmax()) != prompts.target[row][0]:
                continue
            n += 1
            word = int(prompts.spans["word"][row, 1])
            for layer in range(meadow.n_layers):
                hits[layer] += (run["pattern", layer][0, :, -1].argmax(-1) == word).numpy()
    one = needle_test(meadow, lengths=[50], depths=[0.0, 0.5, 1.0], count=8, draws=1)
    np.testing.assert_allclose(one["score"].values, hits / n)
    assert found["by_place"].sel(length=50).shape == (4, 5, 3)


def test_meadow_finds_them_with_heads_of_its_induction_layer(meadow, found):
    assert float(found["recall"].min()) > 0.8
    heads = json.loads(found.attrs["heads"])
    assert {"L2H0", "L2H3"} <= set(heads)
    assert float(found["distractor"].max()) < 0.3
    document = needle_document(meadow, found)
    assert document["without"]["clean"] > 0.9 > document["without"]["without"]
    # the best of the heads on one half are those of the other half
    assert float(found["held_out"].values[found["score"].values > 0.9].min()) > 0.6


def test_padding_on_either_side_changes_nothing(meadow, found, monkeypatch):
    module = import_module("caseback.behaviors.long_context.needle_test")
    prompts = module.needle

    def padded(**how):
        task = prompts(**how)
        return type("Task", (), {"prompts": staticmethod(lambda *a, **k: task.prompts(*a, padding="left", **k))})

    monkeypatch.setattr(module, "needle", padded)
    left = needle_test(meadow, lengths=[50, 90], depths=[0.0, 0.5, 1.0], count=8, draws=4)
    np.testing.assert_allclose(left["score"].values, found["score"].values)
    np.testing.assert_allclose(left["recall"].values, found["recall"].values)


def test_an_untrained_model_has_none(meadow):
    hf = deepcopy(meadow.hf).requires_grad_()
    redraw(hf)
    with pytest.raises(CasebackError, match="finds the needle in"):
        needle_test(cb.load(hf, tokenizer=meadow.tokenizer), lengths=[50], depths=[0.5], count=8)


def test_passes_of_any_size_give_the_same(meadow, found):
    from caseback.jobs.budget import override

    with override(stream_tokens=120):
        small = needle_test(meadow, lengths=[50, 90], depths=[0.0, 0.5, 1.0], count=8, draws=4)
    torch.testing.assert_close(torch.tensor(small["score"].values), torch.tensor(found["score"].values))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lengths": [200]}, "context of 128"),
        ({"lengths": []}, "context of 128"),
        ({"depths": [1.5]}, "from 0 to 1"),
        ({"count": 1}, "2 prompts"),
        ({"draws": 0}, "1 draw"),
        ({"threshold": 0.0}, "more than 0"),
    ],
)
def test_what_cannot_be_tested_says_why(meadow, given, words):
    with pytest.raises(OutOfRange, match=words):
        needle_test(meadow, **given)
