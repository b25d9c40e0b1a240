"""What all techniques of context mixing share: one form, batches, padding on either side, and clear refusals."""

import warnings

import mixers
import numpy as np
import pytest
import torch

import caseback as cb
import shelf
import zoo
from caseback.errors import CasebackError, OutOfRange, UnknownSite
from caseback.localize import inputs
from caseback.organisms.compiled import build
from exact import exact


@pytest.fixture(scope="module")
def stories(assets):
    return cb.load(assets / "models" / "stories3M")


@pytest.fixture(scope="module")
def in_both_precisions():
    return [cb.load(zoo.tiny("llama", dtype)) for dtype in (torch.bfloat16, torch.float32)]


ENTRIES = {f"3.1.{n}" for n in range(12, 22)}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("technique", mixers.SCORES)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gptj"])
def test_padding_changes_no_score(name, technique, side):
    model, prompts = shelf.model(name), shelf.ids((8, 3), seed=2)
    with exact():
        both = technique(model, model.tokens(prompts, padding=side), cb.logit_diff([3, 9], 5))
        each = [technique(model, [p], cb.logit_diff([3, 9][row], 5)) for row, p in enumerate(prompts)]
    assert both.dims == ("batch", "pos") and both.name == technique.__name__
    for row, (prompt, alone) in enumerate(zip(prompts, each, strict=True)):
        assert np.allclose(both.values[row, : len(prompt)], alone.values[0], atol=1e-9)
    assert np.isnan(both.values[1, 3:]).all() and both.token.values[1].tolist()[3:] == [""] * 5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("maps", mixers.MAPS)
@pytest.mark.parametrize("name", ["llama", "bloom", "gemma2"])
def test_padding_changes_no_map(name, maps, side):
    model, prompts = shelf.model(name), shelf.ids((7, 4), seed=2)
    with exact():
        both = maps(model, model.tokens(prompts, padding=side))
        each = [maps(model, [p]) for p in prompts]
    for row, (prompt, alone) in enumerate(zip(prompts, each, strict=True)):
        n = len(prompt)
        assert np.allclose(both.values[row, :, :n, :n], alone.values[0], atol=1e-10)
    assert np.isnan(both.values[1, :, 4:]).all() and np.isnan(both.values[1, :, :, 4:]).all()
    assert both.query_token.values[1].tolist()[4:] == [""] * 3 == both.key_token.values[1].tolist()[4:]


@pytest.mark.parametrize("technique", mixers.SHARES)
@pytest.mark.parametrize("name", [n for n in shelf.FEW if n not in mixers.MIXTURES])
def test_shares_sum_to_one_and_later_tokens_have_none(name, technique):
    with exact():
        scores = technique(shelf.model(name), shelf.ids((7, 7)), cb.logit_diff(3, 5, pos=4))
    assert np.allclose(scores.sum("pos"), 1, atol=1e-10) and (scores.values >= 0).all()
    assert (scores.values[:, 5:] == 0).all()


@pytest.mark.parametrize("technique", mixers.SCORES)
def test_later_tokens_have_no_part(technique):
    scores = technique(shelf.model("gpt2"), shelf.ids((7,)), cb.logit_diff(3, 5, pos=3)).values[0]
    assert (scores[4:] == 0).all() and (scores[:4] != 0).any()


@pytest.mark.parametrize("technique", [t for t in mixers.SCORES if t not in mixers.DENSE])
@pytest.mark.parametrize("name", mixers.MIXTURES[:3])
def test_mixtures_of_experts_are_read_where_mlps_are_not_taken_apart(name, technique):
    scores = technique(shelf.model(name), shelf.ids((6,)), mixers.METRIC)
    assert np.isfinite(scores.values).all()


@pytest.mark.parametrize(
    "technique",
    [
        inputs.raw_attention,
        inputs.attention_norms,
        inputs.globenc,
        inputs.alti,
        inputs.value_zeroing,
        inputs.mlp_mixing,
    ],
)
def test_a_row_of_one_layer_of_the_mean_or_of_the_product(technique):
    model, prompt = shelf.model("llama"), shelf.ids((6,))
    with exact():
        layers = [technique(model, prompt, mixers.METRIC, across=i).values for i in (0, 1, -1)]
        mean = technique(model, prompt, mixers.METRIC, across="mean")
        rolled = technique(model, prompt, mixers.METRIC, across="rollout").values
    assert np.allclose(mean.values, np.mean(layers, 0), atol=1e-12) and mean.attrs["across"] == "mean"
    assert np.abs(rolled - mean.values).max() > 1e-4
    with pytest.raises(UnknownSite, match="layer 7 is out of range"):
        technique(model, prompt, mixers.METRIC, across=7)
    with pytest.raises(CasebackError, match="Did you mean rollout"):
        technique(model, prompt, mixers.METRIC, across="rolout")


@pytest.mark.parametrize("technique", mixers.SCORES)
def test_what_is_no_metric_of_one_position_is_refused(technique):
    model = shelf.model("gpt2")
    with pytest.raises(CasebackError, match="position"):
        technique(model, [1, 2, 3], cb.loss())
    with pytest.raises(CasebackError, match=r"cb\.logit"):
        technique(model, [1, 2, 3], lambda logits: logits[:, -1, 0])
    with pytest.raises(OutOfRange, match="position 9"):
        technique(model, [1, 2, 3], cb.logit(3, pos=9))


@pytest.mark.parametrize("maps", mixers.MAPS)
def test_layers_out_of_range_are_refused(maps):
    model, prompt = shelf.model("gpt2"), [1, 2, 3]
    with pytest.raises(UnknownSite, match="layer 3 is out of range: this model has layers 0 to 2"):
        maps(model, prompt, layers=[0, 3])
    assert maps(model, prompt, layers=[-1]).layer.values.tolist() == [2]


def test_options_that_do_not_exist_or_go_together_are_refused():
    model, prompt = shelf.model("gpt2"), [1, 2, 3]
    for call, match in (
        (lambda: inputs.norm_maps(model, prompt, of="outputs"), "Did you mean output"),
        (lambda: inputs.norm_maps(model, prompt, heads="all"), "heads='all'"),
        (lambda: inputs.norm_maps(model, prompt, p=0.5), "p is 0.5"),
        (lambda: inputs.norm_maps(model, prompt, of="value", residual=True), "residual=True"),
        (lambda: inputs.norm_maps(model, prompt, norm=True), "needs residual=True"),
        (lambda: inputs.mixing_ratio(model, prompt, residual=False, norm=True), "needs residual=True"),
        (lambda: inputs.attention_maps(model, prompt, heads="all"), "heads='all'"),
        (lambda: inputs.attention_maps(model, prompt, heads=[9]), "head 9 is out of range"),
        (lambda: inputs.attention_maps(model, prompt, heads=[]), "no head given"),
        (lambda: inputs.alti_maps(model, prompt, p=0), "p is 0"),
        (lambda: inputs.alti_maps(model, prompt, measured_from="nearest"), "measured_from='nearest'"),
        (lambda: inputs.value_zeroing_maps(model, prompt, distance="cosin"), "Did you mean cosine"),
        (lambda: inputs.value_zeroing_maps(model, prompt, token_budget=0), "token_budget=0"),
        (lambda: inputs.mlp_maps(model, prompt, steps=0), "steps is 0"),
        (lambda: inputs.attention_rollout(model, prompt, mixers.METRIC, residual=2), "residual is 2"),
    ):
        with pytest.raises(CasebackError, match=match):
            call()


@pytest.mark.parametrize("technique", [*mixers.SCORES, *mixers.MAPS])
def test_results_say_how_they_were_made_and_can_be_kept(technique):
    model = shelf.model("llama")
    given = (mixers.METRIC,) if technique in mixers.SCORES else ()
    made = technique(model, [1, 2, 3], *given)
    assert made.attrs["technique"] == technique.technique.name == f"localize.inputs.{technique.__name__}"
    assert made.attrs["family"] == "llama" and set(made.attrs["entry"].split(", ")) <= ENTRIES
    assert made.to_netcdf() is not None


@pytest.mark.parametrize("technique", mixers.SCORES)
def test_in_half_precision_scores_are_near(in_both_precisions, technique):
    near, told = (technique(m, shelf.ids((6, 4)), mixers.METRIC) for m in in_both_precisions)
    assert near.dtype == np.float32
    off, size = np.nanmax(np.abs(near.values - told.values)), np.nanmax(np.abs(told.values))
    assert off < 0.15 * size, (off, size)


@pytest.mark.parametrize("technique", mixers.SCORES)
def test_on_a_trained_model(stories, technique):
    """Shares sum to 1, decompositions to the logit, all in the model's own float32."""
    prompts = ["Once upon a time there was a little girl named Lily. She", "Tom had a"]
    scores = technique(stories, prompts, cb.logit(stories.tokens(" was", bos=False).ids[0, -1].item()))
    if technique in mixers.SHARES:
        assert np.allclose(scores.sum("pos"), 1, atol=1e-5)
    if "gap" in scores.attrs and technique is not inputs.mlp_mixing:
        assert np.abs(scores.attrs["gap"]).max() < 1e-3
        assert np.allclose(scores.sum("pos") + scores.attrs["bias_share"], scores.attrs["metric_value"], atol=1e-3)
    assert np.isfinite(scores.values[0]).all() and (scores.values[0] != 0).any()


def test_nothing_of_the_model_is_changed():
    model = shelf.model("gpt2")
    before = shelf.tensors(model.anatomy)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())
    logits = model.run([1, 2, 3]).logits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for technique in mixers.SCORES:
            technique(model, [1, 2, 3], mixers.METRIC)
    assert all((before[name] == value).all() for name, value in shelf.tensors(model.anatomy).items())
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())
    assert (model.run([1, 2, 3]).logits == logits).all()


@pytest.mark.parametrize("technique", [inputs.decompx, inputs.alti_logit, inputs.gradient_rollout])
def test_the_true_source_comes_first_on_a_written_model(technique):
    """Key-value recall: after ``p a q b … q`` the prediction b was copied from b's place."""
    organism = build("recall", max_length=9)
    prompts = [words.split() for words in ("p a q b r c q", "q d p a s b q", "s b q a r d q")]
    for prompt in prompts:
        answer = organism.function(prompt)[-1]
        scores = technique(organism.model, organism.tokens([prompt]), cb.logit(answer)).values[0, 1:]
        # what is asked is the last word; among the others the value itself leads
        assert prompt[int(scores[:-1].argmax())] == answer
