"""PRIMER 3.1.3: completeness, sensitivity, implementation invariance, linearity; captum and plain autograd agree."""

import warnings

import by_hand
import numpy as np
import pytest
import torch

import caseback as cb
import shelf
import zoo
from caseback.errors import CasebackError, OutOfRange, TargetError
from caseback.localize.inputs.gradients.gradients import gradient_x_input
from caseback.localize.inputs.gradients.integrated_gradients import integrated_gradients
from caseback.localize.inputs.gradients.quadrature import RULES
from caseback.model.prompts.baselines import baseline_embedding
from caseback.model.prompts.embedding_points import Points
from exact import exact

METRIC = cb.logit_diff(3, 5)
MIXTURES = ("mixtral", "gpt_oss", "deepseek_v3")


def difference(logits):
    return (logits[:, -1, 3] - logits[:, -1, 5]).sum()


@pytest.fixture(scope="module")
def stories(assets):
    return cb.load(assets / "models" / "stories3M")


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "cohere", "olmo2", "mixtral"])
def test_3_1_3_is_the_integral_by_plain_autograd(name):
    """Written out on ``inputs_embeds``, one point at a time."""
    model, prompt = shelf.model(name), shelf.ids((6,))
    with exact():
        end = by_hand.embeddings(model.hf, prompt)
        start = model.hf.get_input_embeddings()(torch.tensor([[9]])).detach().expand_as(end)
        middles = (torch.arange(20, dtype=torch.float64) + 0.5) / 20
        mean = sum(by_hand.gradient(model.hf, start + a * (end - start), difference) for a in middles) / 20
        scores = integrated_gradients(
            model, prompt, METRIC, baseline=9, steps=20, rule="riemann_middle", by_dimension=True
        )
    assert np.allclose(scores.values, ((end - start) * mean).numpy(), atol=1e-10)
    assert scores.attrs["baseline"] == "token 9" and scores.attrs["steps"] == [20]


@pytest.mark.parametrize("name", [name for name in shelf.FEW if name not in MIXTURES])
def test_3_1_3_completeness_the_gap_shrinks_with_the_steps(name):
    model, prompts = shelf.model(name), shelf.ids((6, 6), seed=1)
    with exact():
        gaps = []
        for steps in (4, 16, 128):
            scores = integrated_gradients(model, prompts, METRIC, steps=steps)
            told = np.array(scores.attrs["metric_value"]) - scores.attrs["baseline_value"]
            assert np.allclose(scores.values.sum(1) - told, scores.attrs["completeness_gap"], atol=1e-12)
            gaps.append(np.abs(scores.attrs["completeness_gap"]).max())
        clean = METRIC(model.run(prompts))
    assert np.allclose(scores.attrs["metric_value"], clean, atol=1e-12)
    assert gaps[2] < 0.2 * gaps[0] and gaps[2] < 0.05, gaps


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "mistral"])
def test_3_1_3_completeness_on_a_smooth_model_is_exact(name):
    model, prompt = shelf.model(name), shelf.ids((5,), seed=1)
    with exact():
        scores = integrated_gradients(model, prompt, METRIC, steps=300)
    assert abs(scores.attrs["completeness_gap"][0]) < 1e-8


@pytest.mark.parametrize("name", MIXTURES)
def test_3_1_3_completeness_of_a_mixture_holds_while_its_choice_of_experts_does(name):
    """Where the choice changes the output jumps, and no gradient sees a jump: there the gap stays."""
    model, prompt = shelf.model(name), shelf.ids((5,), seed=1)
    with exact():
        embedding = model.run(prompt, read=["embed"])["embed"]
        near, far = (
            integrated_gradients(model, prompt, METRIC, baseline=b, steps=64) for b in (0.999 * embedding, "mean")
        )
    change = near.attrs["metric_value"][0] - near.attrs["baseline_value"][0]
    assert abs(near.attrs["completeness_gap"][0]) < 1e-8 * abs(change) + 1e-12 and abs(change) > 1e-5
    assert abs(far.attrs["completeness_gap"][0]) > 1e-3


def test_3_1_3_sensitivity_only_what_differs_from_the_baseline_counts():
    model, prompt = shelf.model("llama"), shelf.ids((6,))
    with exact():
        baseline = model.run(prompt, read=["embed"])["embed"].clone()
        baseline[0, 2] = torch.randn(model.d_model, dtype=torch.float64)
        scores = integrated_gradients(model, prompt, METRIC, baseline=baseline, steps=200).values[0]
        changed = METRIC(model.run(prompt, edits=cb.Replace("embed", baseline)))
        change = float((METRIC(model.run(prompt)) - changed)[0])
    assert (scores[[0, 1, 3, 4, 5]] == 0).all() and abs(change) > 1e-3
    assert abs(scores[2] - change) < 1e-8


def test_3_1_3_what_the_metric_cannot_see_gets_nothing():
    scores = integrated_gradients(shelf.model("gpt2"), shelf.ids((7,)), cb.logit_diff(3, 5, pos=3), steps=5)
    assert (scores.values[0, 4:] == 0).all() and (scores.values[0, :4] != 0).all()


def test_3_1_3_implementation_invariance():
    """The same function with its neurons in another order and another attention code has the same scores."""
    prompts = shelf.ids((6, 4))
    other = zoo.tiny("llama", attention="sdpa")
    shuffled = torch.randperm(zoo.tiny("llama").config.intermediate_size)
    for layer in other.model.layers:
        for rows in (layer.mlp.up_proj.weight, layer.mlp.gate_proj.weight):
            rows.data = rows.data[shuffled]
        layer.mlp.down_proj.weight.data = layer.mlp.down_proj.weight.data[:, shuffled]
    with exact():
        one, two = (integrated_gradients(m, prompts, METRIC, steps=8) for m in (shelf.model("llama"), cb.load(other)))
    # SDPA narrows nothing, eager's softmax would but for exact()
    assert np.allclose(one.values, two.values, atol=1e-8, equal_nan=True)


def test_3_1_3_linearity():
    model, prompts = shelf.model("gpt2"), shelf.ids((5, 5))
    each = [integrated_gradients(model, prompts, cb.logit(t), steps=7).values for t in (3, 5)]
    both = integrated_gradients(model, prompts, METRIC, steps=7).values
    assert np.allclose(both, each[0] - each[1], atol=1e-10)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "trapezoid"])
def test_3_1_2_equals_3_1_3_on_a_linear_model_with_a_zero_baseline(rule):
    model, prompt = by_hand.linear(), [4, 8, 15]
    scores = integrated_gradients(model, prompt, METRIC, baseline="zero", rule=rule, steps=1)
    assert np.allclose(scores.values, gradient_x_input(model, prompt, METRIC).values, atol=1e-12)
    assert abs(scores.attrs["completeness_gap"][0]) < 1e-12


@pytest.mark.parametrize("max_batch", [1, 3, 100])
def test_the_batch_does_not_change_the_scores(max_batch):
    model, prompts = shelf.model("llama"), shelf.ids((6, 3, 5))
    metric = cb.logit_diff([3, 4, 9], [5, 7, 1])
    with exact():
        padded = model.tokens(prompts, padding="left" if max_batch == 3 else "right")
        together = integrated_gradients(model, padded, metric, steps=7, max_batch=max_batch)
        for row, prompt in enumerate(prompts):
            alone = integrated_gradients(model, [prompt], cb.logit_diff([3, 4, 9][row], [5, 7, 1][row]), steps=7)
            assert np.allclose(together.values[row, : len(prompt)], alone.values[0], atol=1e-10)
            assert np.isnan(together.values[row, len(prompt) :]).all()
            gap = together.attrs["completeness_gap"][row]
            assert abs(gap - alone.attrs["completeness_gap"][0]) < 1e-10


def test_metrics_of_all_positions_are_explained_too():
    model, prompts = shelf.model("gpt2"), shelf.ids((5, 4))
    with exact():
        scores = integrated_gradients(model, prompts, cb.loss(), steps=200)
    assert np.abs(scores.attrs["completeness_gap"]).max() < 1e-6


def test_a_tolerance_doubles_the_steps_where_they_are_needed():
    model = shelf.model("gpt2")
    prompts = shelf.ids((5, 5, 5), seed=7)
    with exact():
        fixed = integrated_gradients(model, prompts, METRIC, steps=2).attrs["completeness_gap"]
        tolerance = sorted(map(abs, fixed))[1]
        found = integrated_gradients(model, prompts, METRIC, steps=2, tolerance=tolerance)
    said = found.attrs
    assert max(map(abs, said["completeness_gap"])) <= tolerance and said["tolerance_reached"] == [1, 1, 1]
    for before, steps in zip(fixed, said["steps"], strict=True):
        assert (steps == 2) == (abs(before) <= tolerance)
        assert steps in (2, 4, 8, 16, 32, 64, 128)
    assert found.to_netcdf() is not None


def test_a_tolerance_that_is_not_reached_is_said():
    model = shelf.model("gpt2")
    with pytest.warns(UserWarning, match="after 8 steps the completeness gap is"):
        found = integrated_gradients(model, shelf.ids((5,)), METRIC, steps=2, tolerance=1e-15, max_steps=8)
    assert found.attrs["tolerance_reached"] == [0] and found.attrs["steps"] == [8]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "cohere"])
def test_the_adaptive_rule_is_complete_and_says_the_same_as_many_steps(name):
    model, prompts = shelf.model(name), shelf.ids((5, 3), seed=1)
    with exact():
        of = {"baseline": "mean", "by_dimension": True}
        found = integrated_gradients(model, prompts, METRIC, rule="adaptive", tolerance=1e-3, **of)
        many = integrated_gradients(model, prompts, METRIC, steps=300, **of)
    said = found.attrs
    assert max(map(abs, said["completeness_gap"])) <= 1e-3 and said["tolerance_reached"] == [1, 1]
    assert said["evaluations"] == said["steps"] and said["rule"] == "adaptive"
    off = np.nansum(np.abs(found.values - many.values).sum(-1), axis=1)
    assert (off <= np.array(said["score_error"]) + 1e-6).all() and off.max() < 0.05
    change = np.array(said["metric_value"]) - said["baseline_value"]
    assert np.allclose(np.nansum(found.values, axis=(1, 2)) - change, said["completeness_gap"], atol=1e-10)


def test_the_adaptive_rule_needs_fewer_than_doubling_and_counts_what_it_needs(stories, monkeypatch):
    prompt, metric = "Tom and Lily went to the park. Lily gave the ball to", cb.logit_diff(" Tom", " Lily")
    counted = []
    gradients = Points.gradients

    def count(self, prompts, at):
        counted.append(len(prompts))
        return gradients(self, prompts, at)

    monkeypatch.setattr(Points, "gradients", count)
    doubled = integrated_gradients(stories, prompt, metric, steps=4, tolerance=0.02)
    by_doubling = sum(counted)
    counted.clear()
    found = integrated_gradients(stories, prompt, metric, rule="adaptive", tolerance=0.02)
    assert sum(counted) == found.attrs["evaluations"][0] < by_doubling == doubled.attrs["evaluations"][0]
    assert abs(found.attrs["completeness_gap"][0]) <= 0.02


def test_the_adaptive_rule_finds_what_equal_steps_step_over(stories):
    """Beside a zero baseline RMSNorm jumps to its full size within a millionth of the way."""
    prompt, metric = "Lily gave the ball to", cb.logit_diff(" Tom", " Lily")
    torn = integrated_gradients(stories, prompt, metric, baseline="zero", steps=100)
    found = integrated_gradients(stories, prompt, metric, baseline="zero", rule="adaptive", tolerance=0.3)
    assert abs(torn.attrs["completeness_gap"][0]) > 1 > 0.3 >= abs(found.attrs["completeness_gap"][0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_adaptive_rule_takes_each_prompt_by_itself(side):
    model, prompts = shelf.model("llama"), shelf.ids((5, 3), seed=3)
    with exact():
        tokens = model.tokens(prompts, padding=side)
        both = integrated_gradients(model, tokens, METRIC, rule="adaptive", max_batch=3)
        for row, prompt in enumerate(prompts):
            alone = integrated_gradients(model, [prompt], METRIC, rule="adaptive")
            assert both.attrs["steps"][row] == alone.attrs["steps"][0]
            assert np.allclose(both.values[row, : len(prompt)], alone.values[0], atol=1e-10)
            change = alone.attrs["metric_value"][0] - alone.attrs["baseline_value"][0]
            assert abs(alone.attrs["completeness_gap"][0]) <= 0.01 * abs(change)


def test_the_adaptive_rule_that_does_not_reach_says_so():
    with pytest.warns(UserWarning, match="steps the completeness gap is"):
        found = integrated_gradients(
            shelf.model("gpt2"), shelf.ids((5,)), METRIC, rule="adaptive", tolerance=1e-15, max_steps=20
        )
    assert found.attrs["tolerance_reached"] == [0] and found.attrs["steps"][0] <= 20


def test_no_more_points_run_at_once_than_the_batch_and_none_past_the_metric(monkeypatch):
    model, seen = shelf.model("gpt2"), []
    handle = model.hf.transformer.wte.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    try:
        integrated_gradients(model, shelf.ids((9, 9)), cb.logit_diff(3, 5, pos=3), steps=7, max_batch=4)
    finally:
        handle.remove()
    assert max(rows for rows, _ in seen) == 4
    assert {columns for rows, columns in seen if rows == 4} == {4}


@pytest.mark.parametrize("name", ["gpt2", "bloom", "opt_projected", "gemma2", "granite"])
def test_baselines_are_what_the_embedding_writes(name):
    """A token's baseline is what a run of that token reads at ``embed``; the mean is the mean of those."""
    model = shelf.model(name)
    written = model.run([[t] for t in range(model.d_vocab)], read=["embed"])["embed"][:, 0].detach()
    like = written[:2, None].expand(-1, 3, -1)
    assert torch.allclose(baseline_embedding(model, 7, like)[1, 2], written[7], atol=1e-12)
    assert torch.allclose(baseline_embedding(model, "mean", like)[0, 1], written.mean(0), atol=1e-12)
    assert not baseline_embedding(model, "zero", like).any()
    given = torch.randn(3, model.d_model)
    assert torch.equal(baseline_embedding(model, given, like)[1], given.double())


def test_baselines_that_are_none_are_refused(stories):
    model = shelf.model("gpt2")
    with pytest.raises(CasebackError, match="no tokenizer"):
        integrated_gradients(model, [1, 2], METRIC, baseline="pad")
    with pytest.raises(CasebackError, match="its tokenizer has none"):
        integrated_gradients(stories, "Once upon", cb.logit(3), baseline="mask")
    with pytest.raises(CasebackError, match="Did you mean zero"):
        integrated_gradients(model, [1, 2], METRIC, baseline="zeros")
    with pytest.raises(CasebackError, match=r"shape \(5, 32\) does not fit .* \(1, 2, 32\)"):
        integrated_gradients(model, [1, 2], METRIC, baseline=torch.zeros(5, 32))
    with pytest.raises(CasebackError, match="baseline id 100 is outside"):
        integrated_gradients(model, [1, 2], METRIC, baseline=100)


def test_settings_that_make_no_sense_are_refused():
    model = shelf.model("gpt2")
    few = {"rule": "adaptive", "max_steps": 8}
    for wrong in ({"steps": 0}, {"max_batch": 0}, {"tolerance": 0.0}, {"rule": "trapezoid", "steps": 1}, few):
        with pytest.raises(OutOfRange):
            integrated_gradients(model, [1, 2], METRIC, **wrong)
    with pytest.raises(CasebackError, match="Did you mean gauss_legendre"):
        integrated_gradients(model, [1, 2], METRIC, rule="gausslegendre")
    with pytest.raises(TargetError, match="target and foil of prompt 0 are the same token"):
        integrated_gradients(model, [1, 2], cb.logit_diff(3, 3))
    with pytest.raises(CasebackError, match="cb.logit_diff"):
        integrated_gradients(model, [1, 2], difference)


def test_on_a_real_model_the_mean_baseline_is_complete_where_zero_is_not(stories):
    """Without positions or biases the stream at zero is zero, and RMSNorm lets it jump right beside it."""
    prompt = "Tom and Lily went to the park. Lily gave the ball to"
    metric = cb.logit_diff(" Tom", " Lily")
    complete = integrated_gradients(stories, prompt, metric, tolerance=0.05)
    assert abs(complete.attrs["completeness_gap"][0]) < 0.05 and complete.attrs["steps"][0] <= 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torn = integrated_gradients(stories, prompt, metric, baseline="zero", steps=100)
    assert abs(torn.attrs["completeness_gap"][0]) > 1


@pytest.mark.peers
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_captum_says_the_same(name):
    attr = pytest.importorskip("captum.attr", reason="captum is not installed (extra: peers)")
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    with exact():
        layer = attr.LayerIntegratedGradients(
            lambda ids: model.hf(ids).logits[:, -1, 3], model.hf.get_input_embeddings()
        )
        theirs, delta = layer.attribute(
            torch.tensor(prompts),
            baselines=torch.full((2, 6), 9),
            n_steps=50,
            method="gausslegendre",
            return_convergence_delta=True,
        )
        ours = integrated_gradients(model, prompts, cb.logit(3), baseline=9, steps=50, by_dimension=True)
    # captum keeps its nodes and weights in float32
    assert np.allclose(ours.values, theirs.detach().numpy(), atol=1e-5)
    assert np.allclose(ours.attrs["completeness_gap"], delta.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3", "bloom", "gpt_neox"])
def test_a_constant_baseline_makes_all_positions_the_first_unless_that_one_is_kept(name):
    """The derivation of ``mean_after_first``, by plain transformers: no position embedding, no position."""
    model, prompt = shelf.model(name), shelf.ids((6,))
    with exact():
        embedding = by_hand.embeddings(model.hf, prompt)
        constant = embedding.new_ones(embedding.shape) * torch.linspace(-1, 1, embedding.shape[-1])
        kept = torch.cat([embedding[:, :1], constant[:, 1:]], 1)
        states = [
            model.hf(inputs_embeds=x.detach(), output_hidden_states=True).hidden_states[-1] for x in (constant, kept)
        ]
    same, apart = ((x - x[:, :1]).abs()[:, 1:].amax(-1) for x in states)
    assert float(same.detach().max()) < 1e-9 < 1e-3 < float(apart.detach().min())


@pytest.mark.parametrize(
    ("name", "baseline"), [("llama", "mean_after_first"), ("bloom", "mean_after_first"), ("gpt2", "mean")]
)
def test_the_usual_baseline_keeps_the_first_token_where_positions_are_not_embedded(name, baseline):
    model, prompts = shelf.model(name), shelf.ids((5, 3))
    with exact():
        for side in ("left", "right"):
            found = integrated_gradients(model, model.tokens(prompts, padding=side), METRIC, max_steps=9)
            assert found.attrs["baseline"] == baseline
            assert ((found.values[:, 0] == 0) == (baseline != "mean")).all() and (found.values[:, 1] != 0).all()
        one = integrated_gradients(model, [[7]], METRIC, max_steps=9)
    assert one.attrs["baseline"] == "mean" and (one.values != 0).all()


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_a_baseline_that_keeps_the_first_token_removes_the_others_alike_everywhere(name):
    """Also for what removes tokens rather than walking a path: each prompt's own first token, on either side's padding."""
    from caseback.localize.inputs import occlusion

    model, prompts = shelf.model(name), shelf.ids((5, 3))
    with exact():
        for side in ("left", "right"):
            kept, mean = (
                occlusion(model, model.tokens(prompts, padding=side), METRIC, baseline=b).values
                for b in ("mean_after_first", "mean")
            )
            assert np.allclose(kept[:, 0], 0, atol=1e-12) and (np.abs(mean[:, 0]) > 1e-6).all()
            assert np.allclose(kept[:, 1:], mean[:, 1:], atol=1e-12, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "target", "foil"),
    [
        ("When Mary and John went to the store, John gave a drink to", " Mary", " the"),
        ("When Mary and John went to the store, John gave a drink to", " Mary", " John"),
        ("The Eiffel Tower is located in the city of", " Paris", " Rome"),
        ("The keys to the cabinet", " are", " is"),
        ("The opposite of hot is", " cold", " warm"),
        ("Once upon a time there was a little girl who lived in a", " small", " village"),
    ],
)
def test_on_a_language_model_the_usual_path_is_complete_in_64_points(smollm, prompt, target, foil):
    """The change is that of plain transformers between the path's ends; the constant mean misses it by far more."""
    ids = smollm.tokenizer(prompt, return_tensors="pt")["input_ids"]
    two = [smollm.tokenizer(word)["input_ids"][0] for word in (target, foil)]
    table = smollm.hf.get_input_embeddings().weight.detach()
    end = table[ids]
    start = torch.cat([end[:, :1], table.double().mean(0).float().expand_as(end[:, 1:])], 1)
    with torch.no_grad():
        at_end, at_start = (smollm.hf(inputs_embeds=x).logits[0, -1, two].tolist() for x in (end, start))
    change = (at_end[0] - at_end[1]) - (at_start[0] - at_start[1])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "integrated gradients: after .* the completeness gap", UserWarning)
        found = integrated_gradients(smollm, prompt, cb.logit_diff(target, foil))
    assert found.attrs["evaluations"][0] <= 64
    assert abs(float(found.sum()) - change) <= 0.05 * abs(change)


def test_a_path_that_is_too_steep_says_where(stories):
    prompt, metric = "Lily gave the ball to", cb.logit_diff(" Tom", " Lily")
    with pytest.warns(UserWarning, match=r"the metric changes by \S+ between 0 and \S+ of the way; raise max_steps"):
        found = integrated_gradients(stories, prompt, metric, baseline="zero", max_steps=32)
    low, high, change = found.attrs["steepest"]
    assert found.attrs["tolerance_reached"] == [0] and (low, high < 0.1) == (0, True) and abs(change) > 0.1
