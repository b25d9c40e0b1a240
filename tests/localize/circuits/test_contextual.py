"""Contextual decomposition beside code that carries both parts, one source at a time; linear models; organisms."""

import numpy as np
import pytest
import torch
from test_edge_attribution import linear_model

import caseback as cb
import shelf
from caseback.errors import CasebackError, SiteAbsent
from caseback.jobs import budget
from caseback.localize.circuits import cdt, contextual_decomposition, edge_roc, find_circuit
from caseback.localize.circuits.on_organisms import INPUTS, words
from caseback.model.circuit import Circuit
from caseback.organisms.compiled import build
from exact import exact

CLEAN, CORRUPT = shelf.ids((6, 6)), shelf.ids((6, 6), seed=1)
METRIC = cb.logit_diff([3, 8], [5, 11])


def shared(rel, irrel, bias, sizes=None):
    """Both parts with their shares of a bias."""
    a, b = (x.abs() for x in (sizes or (rel, irrel)))
    total = a + b
    of_rel = torch.where(total > 0, a / total, torch.zeros_like(a))
    of_irrel = torch.where(total > 0, b / total, torch.ones_like(b))
    return rel + bias * of_rel, irrel + bias * of_irrel


def linear(parts, weight, bias):
    rel, irrel = (x @ weight for x in parts)
    return (rel, irrel) if bias is None else shared(rel, irrel, bias)


def layer_norm(parts, module):
    rel, irrel = parts
    x = rel + irrel
    scale = (x.var(-1, unbiased=False, keepdim=True) + module.eps).sqrt()
    out = [(y - y.mean(-1, keepdim=True)) / scale * module.weight for y in parts]
    return shared(*out, module.bias, (rel, irrel))


def rms_norm(parts, module):
    scale = (sum(parts).pow(2).mean(-1, keepdim=True) + module.variance_epsilon).sqrt()
    return tuple(y / scale * module.weight for y in parts)


def activated(function, parts, way):
    """An activation of one or several pairs of parts."""
    rel, irrel = ([pair[i] for pair in parts] for i in (0, 1))
    both = [a + b for a, b in parts]
    whole, without = function(*both), function(*irrel)
    if way == "removed":
        return whole - without, without
    alone, nothing = function(*rel), function(*(torch.zeros_like(x) for x in rel))
    return ((whole - without) + (alone - nothing)) / 2, ((whole - alone) + (without + nothing)) / 2


def attended(model, layer, pattern, value, weight, bias, source):
    """What attention writes of both parts, the source's head's difference moved from one to the other."""
    heads, kv = model.n_heads, model.n_kv_heads
    z = []
    for part in value:
        v = part.unflatten(-1, (kv, -1)).repeat_interleave(heads // kv, 2)
        z.append(torch.einsum("bhqk,bkhe->bqhe", pattern, v).flatten(-2))
    out = list(linear(z, weight, bias))
    return [out[0] + source, out[1] - source]


def naive(model, kind, layer_of, index, way):
    """Both parts of the last normed stream for one source, checked against the model's own states at every layer."""
    runs = [
        model.run(x, read=["resid_pre", "resid_mid", "pattern", "z", "mlp_out", ("resid_post", -1)])
        for x in (CLEAN, CORRUPT)
    ]
    clean, other = runs
    gpt2 = model.anatomy.model_type == "gpt2"
    zero = torch.zeros_like(clean["resid_pre", 0])
    start = clean["resid_pre", 0] - other["resid_pre", 0] if kind == "embed" else zero
    parts = [start, clean["resid_pre", 0] - start]
    for i, block in enumerate(model.hf.transformer.h if gpt2 else model.hf.model.layers):
        norms = (block.ln_1, block.ln_2) if gpt2 else (block.input_layernorm, block.post_attention_layernorm)
        norm = layer_norm if gpt2 else rms_norm
        read = norm(parts, norms[0])
        if gpt2:
            d = model.d_model
            value = linear(read, block.attn.c_attn.weight[:, 2 * d :], block.attn.c_attn.bias[2 * d :])
            out = block.attn.c_proj.weight, block.attn.c_proj.bias
        else:
            value = linear(read, block.self_attn.v_proj.weight.T, None)
            out = block.self_attn.o_proj.weight.T, None
        source = zero
        if (kind, layer_of) == ("head", i):
            width = out[0].shape[0] // model.n_heads
            own = out[0][width * index : width * (index + 1)]
            source = (clean["z", i] - other["z", i])[:, :, index] @ own
        written = attended(model, i, clean["pattern", i], value, *out, source)
        parts = [a + b for a, b in zip(parts, written, strict=True)]
        torch.testing.assert_close(sum(parts), clean["resid_mid", i])
        read = norm(parts, norms[1])
        if gpt2:
            pre = [linear(read, block.mlp.c_fc.weight, block.mlp.c_fc.bias)]
            post = activated(block.mlp.act, pre, way)
            written = list(linear(post, block.mlp.c_proj.weight, block.mlp.c_proj.bias))
        else:
            pre = [linear(read, m.weight.T, None) for m in (block.mlp.gate_proj, block.mlp.up_proj)]
            post = activated(lambda gate, up, act=block.mlp.act_fn: act(gate) * up, pre, way)
            written = list(linear(post, block.mlp.down_proj.weight.T, None))
        if (kind, layer_of) == ("mlp", i):
            source = clean["mlp_out", i] - other["mlp_out", i]
            written = [written[0] + source, written[1] - source]
        parts = [a + b for a, b in zip(parts, written, strict=True)]
    torch.testing.assert_close(sum(parts), clean["resid_post", -1])
    final = layer_norm(parts, model.hf.transformer.ln_f) if gpt2 else rms_norm(parts, model.hf.model.norm)
    rows = model.hf.lm_head.weight
    return [((part[:, -1] * (rows[[3, 8]] - rows[[5, 11]])).sum(-1)).detach().numpy() for part in final]


@pytest.mark.parametrize("way", ["removed", "shapley"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_b_41_effects_are_those_of_both_parts_carried_apart(name, way):
    model = shelf.model(name)
    with exact():
        parts = contextual_decomposition(model, CLEAN, CORRUPT, METRIC, activation=way)
        value = METRIC(model.run(CLEAN)).detach().numpy()
        for writer in parts.writer.values.tolist():
            node = cb.model.circuit.Node.parse(writer)
            rel, irrel = naive(model, node.kind, node.layer, node.index, way)
            np.testing.assert_allclose(rel + irrel, value, rtol=1e-9, atol=1e-10)
            np.testing.assert_allclose(parts.effect.sel(writer=writer), rel, rtol=1e-8, atol=1e-11, err_msg=writer)
            share = abs(rel) / (abs(rel) + abs(irrel))
            np.testing.assert_allclose(parts.relevance.sel(writer=writer, reader="logits"), share, rtol=1e-7)


def test_on_a_linear_model_an_effect_is_the_patch_of_the_node():
    model, metric = linear_model(), cb.logit_diff([3, 5], [7, 2])
    pair = [[1, 2, 3], [4, 4, 9]], [[4, 5, 6], [1, 2, 3]]
    parts = contextual_decomposition(model, *pair, metric, batch_size=1)
    clean, other = (model.run(x, read=["head_out", "mlp_out", ("resid_pre", 0)]) for x in pair)
    whole = metric(clean)
    for writer in parts.writer.values.tolist():
        node = cb.model.circuit.Node.parse(writer)
        if node.kind == "embed":
            edit = cb.Replace("resid_pre", other["resid_pre", 0], layer=0)
        elif node.kind == "head":
            edit = cb.Replace(
                "head_out", other["head_out", node.layer][:, :, node.index], layer=node.layer, head=node.index
            )
        else:
            edit = cb.Replace("mlp_out", other["mlp_out", node.layer], layer=node.layer)
        lost = (whole - metric(model.run(pair[0], edits=edit))).detach().numpy()
        np.testing.assert_allclose(parts.effect.sel(writer=writer), lost, rtol=1e-9, atol=1e-12, err_msg=writer)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_direct_parts_sum_to_what_the_logits_read_of_the_change(name):
    """Through the clean run's final norm, which has no bias here, and no norm stands behind a branch."""
    model = shelf.model(name)
    with exact():
        parts = contextual_decomposition(model, CLEAN, CORRUPT, METRIC)
        clean, other = (
            model.run(x, read=[("resid_post", -1)])["resid_post", -1][:, -1].detach() for x in (CLEAN, CORRUPT)
        )
        norm, rows = model.anatomy.norms[model.anatomy.final_norm], model.weights.W_U.T
        change = norm.frozen(clean - other, norm.scale(clean))
        expected = (change * (rows[[3, 8]] - rows[[5, 11]])).sum(-1).detach().numpy() * model.anatomy.logit_scale
    np.testing.assert_allclose(parts.effect_direct.sum("writer"), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["gemma2", "gpt_neox", "olmo2", "falcon"])
def test_prompts_and_sources_do_not_meet(name):
    """Parallel blocks, norms behind branches, shared keys and values: how many are followed at a time is no matter."""
    model, ragged = shelf.model(name), shelf.ids((6, 4))
    other = shelf.ids((6, 4), seed=1)
    with exact():
        whole = contextual_decomposition(model, ragged, other, METRIC)
        with budget.override(circuit_numbers=1):
            parts = contextual_decomposition(model, ragged, other, METRIC, batch_size=1)
    for key in whole:
        np.testing.assert_allclose(parts[key], whole[key], rtol=1e-8, atol=1e-11, err_msg=key)
    shares = whole.relevance.values[np.isfinite(whole.relevance.values)]
    assert shares.min() >= 0 and shares.max() <= 1 and (shares > 0).mean() > 0.9


def test_edges_of_known_circuits_are_before_others():
    for name, least in (("previous_token", 0.95), ("superposition", 0.95), ("copy_suppression", 0.95)):
        organism = build(name)
        clean, corrupt = (organism.tokens(words(organism, 8, part)) for part in (0, 1))
        first, second = organism.model.run(clean).logits[:, -1].topk(2).indices.T.tolist()
        scores = cdt(organism.model, clean, corrupt, cb.logit_diff(first, second), inputs=INPUTS)
        truth = Circuit(organism.circuit.at_all_positions().edges)
        roc = edge_roc(organism.model, scores, truth, reduce="mean_of_abs", without=("pos_embed",))
        assert roc.attrs["auroc"] >= least, name


def test_it_is_a_finder_and_says_what_it_cannot_do():
    model = cb.load("meadow")
    ioi = cb.tasks.ioi().prompts(model, 4)
    pair = ioi.clean, ioi.corrupt, ioi.metric
    circuit = find_circuit(model, *pair, method="cdt", edges=60, how="greedy")
    assert 0 < len(circuit) <= 60 and circuit.about["found_by"] == "cdt"
    zero = contextual_decomposition(model, ioi.clean, None, ioi.metric)
    assert zero.attrs["patch"] == "zero" and np.isfinite(zero.effect).all()
    with pytest.raises(CasebackError, match="activation 'shap'"):
        cdt(model, *pair, activation="shap")
    with pytest.raises(CasebackError, match="not linear"):
        cdt(model, ioi.clean, ioi.corrupt, cb.log_prob(" Mary"))
    with pytest.raises(SiteAbsent):
        cdt(shelf.model("mixtral"), CLEAN, CORRUPT, METRIC)
