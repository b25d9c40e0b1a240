"""PRIMER 3.1.28: what survives the randomisation of all parameters does not explain the model."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.inputs import randomisation_test
from caseback.localize.inputs.trust.randomisation import randomized
from caseback.model.prompts.per_token import token_scores

PROMPTS = [[7, 2, 9, 4, 8, 6, 1, 3], [5, 6, 3, 1, 2, 4, 9, 8]]
METRIC = cb.logit_diff(3, 5)


def by_place(model, tokens, metric):
    """An attribution that ignores the model: later tokens count more."""
    places = torch.arange(tokens.ids.shape[1]).double().expand(len(tokens), -1)
    return token_scores(places, model, tokens, metric, technique=None, name="by_place")


def all_alike(model, tokens, metric):
    """An attribution without any order."""
    return token_scores(torch.ones(tokens.ids.shape), model, tokens, metric, technique=None, name="all_alike")


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_3_1_28_what_ignores_the_model_is_flagged_and_what_reads_it_is_not(order):
    model = shelf.model("llama")
    methods = [by_place, all_alike, "gradient_x_input", "integrated_gradients"]
    found = randomisation_test(
        model, PROMPTS, METRIC, methods, order=order, options={"integrated_gradients": {"steps": 5}}
    )
    assert found.flagged.values.tolist() == [1, 1, 0, 0]
    assert found.variant.values.tolist() == ["original", "unembed", *(f"layer {i}" for i in (2, 1, 0)), "embed"]
    assert (found.similarity.values[0] == 1).all() and (found.change.values[:2] == 0).all()
    assert (found.similarity.values[2:, 0] == 1).all()
    assert (found.change.values[2:, 1:] > 0).all(), "every stage matters to a gradient"


@pytest.mark.parametrize("name", ["gpt2", "llama_tied", "mixtral", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("draw", ["normal", "shuffle"])
def test_a_cascade_ends_with_nothing_learnt_and_the_model_is_left_alone(name, draw):
    model = shelf.model(name)
    before, output = shelf.tensors(model.anatomy), model.run(PROMPTS).logits
    tied = model.hf.get_output_embeddings().weight is model.hf.get_input_embeddings().weight
    with randomized(model, order="cascading", draw=draw, seed=0) as stages:
        for stage, fresh in stages:
            if stage == "unembed" and tied:
                assert torch.equal(fresh.hf.get_input_embeddings().weight, model.hf.get_input_embeddings().weight)
            last = fresh
        now = dict(last.hf.named_parameters())
        for key, value in model.hf.named_parameters():
            assert not torch.equal(now[key], value) or bool((value == value.flatten()[0]).all()), key
            if draw == "shuffle":
                assert torch.equal(now[key].flatten().sort().values, value.flatten().sort().values)
    after = shelf.tensors(model.anatomy)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert torch.equal(model.run(PROMPTS).logits, output)
    assert tied == (model.hf.get_output_embeddings().weight is model.hf.get_input_embeddings().weight)


def test_independent_stages_change_one_part_each():
    model = shelf.model("llama")
    own = dict(model.hf.named_parameters())
    with randomized(model, order="independent", draw="normal", seed=0) as stages:
        for stage, fresh in stages:
            changed = {key for key, value in fresh.hf.named_parameters() if not torch.equal(value, own[key])}
            part = {"unembed": ("lm_head", "model.norm"), "embed": ("model.embed",)}.get(
                stage, (f"model.layers.{stage.removeprefix('layer ')}.",)
            )
            assert changed and all(key.startswith(part) for key in changed), stage


def test_the_edits_of_an_edited_model_stand_in_every_stage():
    edit = cb.Replace("logits", 2.5, unit=3)
    with randomized(shelf.model("llama").edited(edit), order="independent", draw="shuffle", seed=0) as stages:
        seen = [fresh.run([[1, 2]]).logits[0, -1, 3].item() for _, fresh in stages]
    assert len(seen) > 4 and set(seen) == {2.5}


def test_the_same_seed_gives_the_same_draw_and_another_another():
    model = shelf.model("llama")
    one, same, other = (
        randomisation_test(model, PROMPTS, METRIC, "gradient_norm", seed=seed).similarity.values for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_in_the_bundled_model_gradients_depend_on_what_was_learnt():
    model = cb.load("meadow")
    prompts = [
        "When Mary and John went to the store, John gave a drink to",
        "When Anna and Paul went to the park, Paul gave a ball to",
    ]
    found = randomisation_test(
        model, prompts, cb.logit_diff([" Mary", " Anna"], [" John", " Paul"]), ["gradient_x_input", by_place]
    )
    assert found.flagged.values.tolist() == [0, 1]


def test_bad_input_is_told():
    model = shelf.model("llama")
    for options, said in (
        ({"order": "cascade"}, "order 'cascade' is unknown. Did you mean cascading"),
        ({"draw": "uniform"}, "draw 'uniform' is unknown"),
        ({"similarity": "cosine"}, "similarity 'cosine' is unknown"),
    ):
        with pytest.raises(CasebackError, match=said):
            randomisation_test(model, PROMPTS, METRIC, "gradient_norm", **options)
    with pytest.raises(OutOfRange, match="limit is 3"):
        randomisation_test(model, PROMPTS, METRIC, "gradient_norm", limit=3)
