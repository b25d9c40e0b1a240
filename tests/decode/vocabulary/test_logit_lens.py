"""PRIMER 4.3.1: the last layer's reading is the model, an earlier one is the model with the later layers skipped."""

from importlib import import_module

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary.lenses import lens_statistics as reading
from caseback.decode.vocabulary.lenses.logit_lens import logit_lens
from caseback.errors import OutOfRange, TargetError, UnknownSite
from caseback.model.anatomy.dense import weight_matrix
from caseback.model.running.verify import unembed
from exact import exact

# post-norms, soft-caps, logit scales, head biases, projections, parallel blocks, multipliers, experts
NAMES = tuple(dict.fromkeys((*shelf.FEW, *"opt_projected olmo2 cohere granite phi gpt_neox gemma3_text glm4".split())))

lens_module = import_module(
    "caseback.decode.vocabulary.lenses.logit_lens"
)  # its folder publishes the function under this name


@pytest.fixture(scope="module")
def stories(assets):
    return cb.load(assets / "models" / "stories3M")


def everything(model):
    """All tokens of the vocabulary as targets, so that the lens gives whole distributions."""
    return list(range(model.d_vocab))


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_4_3_1_the_last_layer_is_the_model(name):
    model, prompts = shelf.model(name), shelf.ids((7, 7))
    with exact():
        lens = logit_lens(model, prompts, targets=everything(model))
        logits = model.hf(torch.tensor(prompts)).logits.detach()
    last = lens["logit"].isel(layer=-1)
    assert np.abs(last.values - logits.numpy()).max() < 1e-10
    assert lens.attrs["last_layer_gap"] < 1e-10
    assert float(lens["kl"].isel(layer=-1).max()) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_4_3_1_an_earlier_layer_is_the_model_with_the_later_layers_skipped(name):
    model, prompts = shelf.model(name), shelf.ids((6, 6), seed=3)
    with exact():
        lens = logit_lens(model, prompts, targets=everything(model))
        for layers_kept in range(model.n_layers + 1):
            later = list(range(layers_kept, model.n_layers))
            silent = [cb.Zero(site, layer=later) for site in ("attn_out", "mlp_out")] if later else []
            logits = model.run(prompts, edits=silent).logits
            assert np.abs(lens["logit"].values[layers_kept] - logits.numpy()).max() < 1e-9


def test_4_3_1_statistics_are_those_of_the_whole_distribution():
    model, prompts = shelf.model("llama"), shelf.ids((5, 5), seed=1)
    with exact():
        lens = logit_lens(model, prompts, targets=everything(model), k=4)
        final = model.run(prompts).logits.double().log_softmax(-1)
    log_p = torch.from_numpy(lens["logit"].values).log_softmax(-1)
    assert np.allclose(lens["prob"], log_p.exp(), atol=1e-12)
    assert np.allclose(lens["entropy"], -(log_p.exp() * log_p).sum(-1), atol=1e-10)
    assert np.allclose(lens["kl"], (final.exp() * (final - log_p)).sum(-1), atol=1e-10)
    order = log_p.argsort(-1, descending=True)
    assert (lens["top_id"].values == order[..., :4].numpy()).all()
    assert np.allclose(lens["top_prob"], log_p.exp().sort(-1, descending=True).values[..., :4], atol=1e-12)
    ranked = lens["rank"].values
    assert (np.take_along_axis(ranked, order.numpy(), -1) == np.arange(1, model.d_vocab + 1)).all()


def test_no_more_logits_than_asked_for_are_formed(monkeypatch):
    model, prompts = shelf.model("gpt2"), shelf.ids((9, 5))
    whole = logit_lens(model, prompts, targets=[1, 2])
    formed = []

    def counting(anatomy, resid):
        made = real(anatomy, resid)
        formed.append(made.numel())
        return made

    real = lens_module.unembed
    monkeypatch.setattr(lens_module, "unembed", counting)
    most = 3 * model.d_vocab
    pieces = logit_lens(model, prompts, targets=[1, 2], max_logits=most)
    assert max(formed) <= most and sum(formed) == 14 * model.d_vocab * (model.n_layers + 1)
    for name in whole:
        if whole[name].dtype.kind == "f":
            assert np.allclose(whole[name], pieces[name], atol=1e-10, equal_nan=True)
        else:
            assert (whole[name].values == pieces[name].values).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    model, prompts = shelf.model("llama"), shelf.ids((8, 3), seed=2)
    with exact():
        both = logit_lens(model, model.tokens(prompts, padding=side), targets=[[4, 5]])
        each = [logit_lens(model, [prompt], targets=[4 + row]) for row, prompt in enumerate(prompts)]
    for row, (prompt, alone) in enumerate(zip(prompts, each, strict=True)):
        n = len(prompt)
        for name in ("entropy", "kl", "prob", "rank", "top_id"):
            assert np.allclose(both[name].values[:, row, :n], alone[name].values[:, 0], atol=1e-9)
    assert both["entropy"].isel(batch=1, pos=slice(3, None)).isnull().all()
    assert (both["top_text"].values[:, 1, 3:] == "").all() and (both.token.values[1, 3:] == "").all()
    assert both["vocab_text"].values.tolist() == [["4"], ["5"]]


@pytest.mark.parametrize("pos", [-1, 1])
def test_one_position_is_that_of_all(pos):
    model, prompts = shelf.model("llama"), shelf.ids((6, 4))
    with exact():
        one = logit_lens(model, model.tokens(prompts, padding="left"), targets=7, pos=pos)
        alone = [logit_lens(model, [prompt], targets=7) for prompt in prompts]
    assert one["rank"].dims == ("layer", "batch", "vocab")
    for row, (prompt, every) in enumerate(zip(prompts, alone, strict=True)):
        assert np.allclose(one["kl"].values[:, row], every["kl"].values[:, 0, pos], atol=1e-10)
        assert one.token.values[row] == str(prompt[pos])


def test_other_streams_are_read_and_edits_hold():
    model, prompt = shelf.model("llama"), shelf.ids((5,))
    writes = logit_lens(model, prompt, targets=[3], site="mlp_out")
    assert writes.layer.values.tolist() == ["0", "1", "2"] and "last_layer_gap" not in writes.attrs
    resid = model.run(prompt, read=[("mlp_out", 1)])["mlp_out", 1]
    expected = model.hf.lm_head(model.hf.model.norm(resid))[..., 3].detach()
    assert np.allclose(writes["logit"].values[1, ..., 0], expected, atol=1e-10)
    silenced = logit_lens(model, prompt, targets=[3], edits=[cb.Zero("resid_post", layer=0)])
    assert np.allclose(silenced["logit"].sel(layer="0"), 0)


def test_a_token_that_the_model_rules_out_counts_as_nothing_and_a_broken_logit_is_not_hidden():
    final = torch.tensor([[0.0, 1.0, -torch.inf], [0.0, 1.0, 2.0]]).log_softmax(-1)
    logits = torch.tensor([[1.0, 0.0, -torch.inf], [0.0, torch.nan, 2.0]])
    wanted, next_id = torch.tensor([[0], [0]]), torch.tensor([[1], [1]])
    found = dict(reading._summed_up(logits[None], final, wanted, next_id, 1, ["kl", "entropy"]))
    p, q = final[0, :2].exp(), logits[0, :2].softmax(-1)
    assert torch.allclose(found["kl"][0, 0], (p * (p / q).log()).sum())
    assert found["kl"][0, 1].isnan() and found["entropy"][0, 1].isnan()


def test_without_targets_there_is_nothing_of_them():
    lens = logit_lens(shelf.model("gpt2"), [1, 2, 3], k=1000)
    assert {"prob", "rank", "logit"}.isdisjoint(lens) and lens.sizes["k"] == shelf.model("gpt2").d_vocab
    assert np.allclose(lens["top_prob"].sum("k"), 1)


def test_what_cannot_be_read_is_refused():
    model = shelf.model("gpt2")
    for site in ("z", "embed", "resid_post.1", "pattern"):
        with pytest.raises(UnknownSite, match="resid_post"):
            logit_lens(model, [1, 2], site=site)
    with pytest.raises(TargetError, match="no tokenizer"):
        logit_lens(model, [1, 2], targets=" Mary")
    with pytest.raises(OutOfRange, match="prompt 0 has 2 tokens"):
        logit_lens(model, [1, 2], pos=2)
    for wrong in ({"k": 0}, {"max_logits": 0}):
        with pytest.raises(OutOfRange, match="at least 1"):
            logit_lens(model, [1, 2], **wrong)


def test_on_a_real_model_the_answer_comes_with_depth(stories):
    lens = logit_lens(stories, "Tom and Lily went to the park. Lily gave the ball to", targets=[" Tom", " Lily"])
    assert lens.attrs["last_layer_gap"] == 0
    assert lens["top_text"].isel(layer=-1, batch=0, pos=-1, k=0) == " Tom"
    rank = lens["rank"].isel(batch=0, pos=-1, vocab=0).values
    assert rank[-1] == 1 and rank[0] > 50
    assert lens.to_netcdf() is not None and lens.attrs["entry"] == "4.3.1"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_up_in_float32(assets, dtype):
    model = cb.load(assets / "models" / "stories260K", dtype=dtype)
    lens = logit_lens(model, "Once upon a time", targets=" there")
    assert lens["prob"].dtype == np.float32 and lens.attrs["last_layer_gap"] == 0
    assert np.isfinite(lens["kl"]).all()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_heads_and_neurons_are_read_as_if_each_were_the_stream(name):
    model, prompts = shelf.model(name), shelf.ids((6, 4), seed=1)
    with exact():
        heads = logit_lens(model, prompts, site="head_out", targets=everything(model), max_logits=3 * model.d_vocab)
        written = model.run(prompts, read=["head_out"])["head_out"]
        for layer in range(model.n_layers):
            expected = reading_of(model, written[layer][1, 2])
            assert np.allclose(heads["logit"].values[layer, 1, 2], expected, atol=1e-9)
        neurons = logit_lens(model, prompts, site="mlp_post", units=[3, 0], pos=-1, targets=everything(model))
        acts = model.run(prompts, read=[("mlp_post", 1), ("mlp_out", 1)])
        part = model.anatomy.layers[1]
        write = acts["mlp_post", 1][0, -1, 3] * weight_matrix(part.w_out)[3]
        if part.mlp_post_norm is not None:
            norm = model.anatomy.norms[part.mlp_post_norm]
            write = norm.frozen(write, norm.scale(acts["mlp_post", 1][0, -1] @ weight_matrix(part.w_out)))
        assert np.allclose(neurons["logit"].values[1, 0, 0], reading_of(model, write), atol=1e-9)
    assert neurons["neuron"].values.tolist() == [3, 0] and heads.sizes["head"] == model.n_heads


def reading_of(model, x):
    return unembed(model.anatomy, x).detach().numpy()


def test_divergence_and_surprise_by_their_definitions():
    model, prompts = shelf.model("llama"), shelf.ids((5, 3), seed=1)
    with exact():
        lens = logit_lens(model, prompts, targets=everything(model))
        final = model.run(prompts).logits.softmax(-1).detach()
    q, p = torch.tensor(lens["prob"].values[1, 0]), final[0]
    middle = (p + q) / 2
    expected = ((p * (p / middle).log()).sum(-1) + (q * (q / middle).log()).sum(-1)) / 2
    assert np.allclose(lens["js"].values[1, 0], expected, atol=1e-10)
    surprise = lens["surprise"].values[1]
    assert np.allclose(surprise[0, :-1], [-float(q[i, t].log()) for i, t in enumerate(prompts[0][1:])], atol=1e-10)
    assert np.isnan(surprise[0, -1]) and np.isnan(surprise[1, 2:]).all() and not np.isnan(surprise[1, :2]).any()


def test_units_that_are_not_there_are_refused():
    model = shelf.model("gpt2")
    with pytest.raises(OutOfRange, match="too many to read"):
        logit_lens(model, [1, 2], site="mlp_post")
    with pytest.raises(OutOfRange, match="heads of a layer"):
        logit_lens(model, [1, 2], site="head_out", units=[99])
    with pytest.raises(OutOfRange, match="has none"):
        logit_lens(model, [1, 2], units=[0])
