"""PRIMER 3.1.12, 3.1.13, 3.1.16, 3.1.17, 3.1.18, 3.1.21: what each map is made of sums to what the model computed."""

import mixers
import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import caseback as cb
import shelf
import zoo
from caseback.errors import SiteAbsent
from caseback.localize import inputs
from caseback.localize.inputs.mixing.alti import nearness
from caseback.localize.inputs.mixing.globenc import layer_vectors, reader_of
from caseback.localize.inputs.mixing.mlp_mixing import layer_parts, mean_activation, reads_of
from caseback.localize.inputs.mixing.source_blocks import SITES, measured_blocks, through
from caseback.localize.inputs.mixing.value_zeroing import changed_outputs, cosine_distance
from caseback.model.algebra.sources import head_sources
from caseback.model.running.passing import undisturbed
from caseback.model.running.undo import as_found
from caseback.model.sweeping.clean import record
from exact import exact

PLAIN = [name for name in shelf.DISTINCT if name not in mixers.MIXTURES]
POST_NORMS = ("gemma2", "gemma3_text", "olmo2", "glm4")


def block(model, run, layer, **options):
    """The vectors T of a layer, all at once."""
    return measured_blocks(model, run, layer, lambda rows: rows.parts, **options)


def rows_of(model, run, layer, measure):
    return measured_blocks(model, run, layer, measure)


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_3_1_12_rows_sum_to_one_and_are_causal(name):
    model, prompts = shelf.model(name), shelf.ids((7, 7))
    with exact():
        maps = inputs.attention_maps(model, prompts)
        each = inputs.attention_maps(model, prompts, heads="each")
        two = inputs.attention_maps(model, prompts, heads=[0, 2], layers=[-1]).values[:, 0]
    total = maps.sum("key").values
    if name in mixers.SINKS:
        assert (total < 1).all() and (total > 0).all()
    else:
        assert np.allclose(total, 1, atol=1e-12)
    assert (np.triu(maps.values, 1) == 0).all() and np.allclose(each.mean("head"), maps)
    assert np.allclose(two, each.values[:, -1, [0, 2]].mean(1), atol=1e-12)


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_3_1_13_the_vectors_sum_to_the_stream_behind_attention(name):
    model, prompts = shelf.model(name), shelf.ids((7, 7))
    with exact():
        run = model.run(prompts, read=SITES)
        for layer in range(model.n_layers):
            told = run["resid_pre", layer] + run["attn_out", layer]
            made = rows_of(model, run, layer, lambda r: r.parts.sum(2) + (0.0 if r.constant is None else r.constant))
            assert float((made - told).abs().max()) < 1e-11 * max(1, float(told.abs().max()))
            parts = block(model, run, layer, residual=False)
            norms = inputs.norm_maps(model, prompts, layers=[layer]).values[:, 0]
            assert np.allclose(norms, parts.norm(dim=-1), atol=1e-12) and norms.max() > 1e-3
            assert (np.triu(norms, 1) == 0).all()


@pytest.mark.parametrize("name", [name for name in shelf.FEW if name not in POST_NORMS])
def test_3_1_13_a_vector_is_what_attention_writes_less_without_that_value(name):
    model, prompt, layer = shelf.model(name), shelf.ids((6,), seed=3), 1
    with exact():
        run = model.run(prompt, read=SITES)
        parts = block(model, run, layer, residual=False)
        for j in (0, 3, 5):
            without = mixers.without_value(model, prompt, layer, j, "attn_out")
            assert torch.allclose(parts[:, :, j], run["attn_out", layer] - without, atol=1e-11)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "olmo2", "gptj", "gpt_oss"])
def test_3_1_13_of_each_head(name):
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    with exact():
        each = inputs.norm_maps(model, prompts, heads="each", layers=[1])
        heads = head_sources(model, prompts, 1)
        value = inputs.norm_maps(model, prompts, of="value", layers=[1])
        by_head = inputs.norm_maps(model, prompts, of="value", heads="each", layers=[1])
        run = model.run(prompts, read=["z", "v", "pattern"])
    assert np.allclose(each.values[:, 0], np.linalg.norm(heads.values, axis=-1), atol=1e-12)
    assert np.allclose(value, np.sqrt((by_head**2).sum("head")), atol=1e-12)
    first = run["z", 1][:, 0].norm(dim=-1)
    assert np.allclose(by_head.values[:, 0, :, 0, 0], first, atol=1e-12)


def test_3_1_13_norms_are_weights_where_all_values_are_equally_long():
    """Every row of W_V zero and b_V the same: the value norm is the weight times one constant a head."""
    hf = zoo.tiny("gpt2")
    for part in hf.transformer.h:
        part.attn.c_attn.weight.data[:, 2 * zoo.D_MODEL :] = 0
    model, prompts = cb.load(hf), shelf.ids((6,))
    with exact():
        norms = inputs.norm_maps(model, prompts, heads="each")
        weights = inputs.attention_maps(model, prompts, heads="each")
    ratio = (norms / weights).values[:, :, :, np.tril_indices(6)[0], np.tril_indices(6)[1]]
    assert np.allclose(ratio, ratio[..., :1], rtol=1e-10) and ratio.min() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "olmo2", "bloom", "mixtral"])
def test_3_1_13_behind_the_norm_that_reads_next(name):
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    with exact():
        run = model.run(
            prompts, read=[*SITES, "mlp_in", *(["mlp_norm"] if "mlp_norm" not in model.anatomy.lacks else [])]
        )
        for layer, p in enumerate(model.anatomy.layers):

            def behind(r, p=p):
                made = through(p.mlp_norm, model, r.parts, r.whole).sum(2)
                return made if r.constant is None else made + through(p.mlp_norm, model, r.constant, r.whole)

            made = rows_of(model, run, layer, behind)
            norm = None if p.mlp_norm is None else model.anatomy.norms[p.mlp_norm]
            told = run["mlp_norm", layer] if norm is not None else run["mlp_in", layer]
            told = told if norm is None or norm.beta is None else told - norm.beta
            assert torch.allclose(made, told, atol=1e-10)
        norms = inputs.norm_maps(model, prompts, residual=True, norm=True)
        assert norms.attrs["holds_residual"] == 1 and (norms.values >= 0).all()
        own = inputs.mixing_ratio(model, prompts, norm=True)
    assert (own.values[..., 0] == 0).all() and ((own.values[..., 1:] > 0) & (own.values[..., 1:] < 1)).all()


def test_3_1_13_the_mixing_ratio_is_what_others_have_of_the_sum():
    model, prompts = shelf.model("llama"), shelf.ids((6, 6))
    with exact():
        run = model.run(prompts, read=SITES)
        for residual in (True, False):
            parts = block(model, run, 1, residual=residual)
            own = parts.diagonal(dim1=1, dim2=2).transpose(1, 2)
            mixed, kept = (parts.sum(2) - own).norm(dim=-1), own.norm(dim=-1)
            told = inputs.mixing_ratio(model, prompts, residual=residual, layers=[1]).values[:, 0]
            assert np.allclose(told[:, 1:], (mixed / (mixed + kept))[:, 1:], atol=1e-12)
        with_it, without = (
            inputs.mixing_ratio(model, prompts, residual=r).values[..., 1:].mean() for r in (True, False)
        )
    assert with_it < without


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_3_1_16_the_vectors_sum_to_the_layers_output_without_the_mlp(name):
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    with exact():
        run = model.run(prompts, read=[*SITES, "resid_post", "mlp_out"])
        for layer in range(model.n_layers):
            made = rows_of(model, run, layer, lambda r, at=layer: layer_vectors(model, run, at, r).sum(2))
            module, after = reader_of(model, layer), run["resid_post", layer]
            lost = run["mlp_out", layer]
            constant = rows_of(
                model, run, layer, lambda r: torch.zeros_like(r.whole) if r.constant is None else r.constant
            )
            norm = None if module is None else model.anatomy.norms[module]
            told = after if norm is None else norm(after) - (0.0 if norm.beta is None else norm.beta)
            told = told - through(module, model, lost + constant, after)
            assert float((made - told).abs().max()) < 1e-10 * max(1, float(told.abs().max()))
        maps = inputs.globenc_maps(model, prompts)
    assert np.allclose(maps.sum("key"), 1, atol=1e-12) and (np.triu(maps.values, 1) == 0).all()
    assert maps.attrs["empty_rows"] == 0


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_3_1_17_rows_sum_to_one_and_nothing_is_negative(name):
    model, prompts = shelf.model(name), shelf.ids((7, 7))
    with exact():
        maps = [inputs.alti_maps(model, prompts, **how) for how in ({}, {"p": 2.0}, {"measured_from": "farthest"})]
    for made in maps:
        assert np.allclose(made.sum("key"), 1, atol=1e-12) and (made.values >= 0).all()
        assert (np.triu(made.values, 1) == 0).all()
    assert np.allclose(maps[0].values[:, :, 0, 0], 1)


def test_3_1_17_is_its_formula_written_out():
    model, prompt = shelf.model("falcon"), shelf.ids((5,))
    with exact():
        run = model.run(prompt, read=SITES)
        maps = inputs.alti_maps(model, prompt).values[0]
        for layer in range(model.n_layers):
            parts = block(model, run, layer)[0]
            whole = (run["resid_pre", layer] + run["attn_out", layer])[0]
            for i in range(5):
                near = [max(0.0, float(whole[i].abs().sum() - (whole[i] - parts[i, j]).abs().sum())) for j in range(5)]
                assert np.allclose(maps[layer, i], np.array(near) / sum(near), atol=1e-12)


def test_3_1_17_a_part_that_is_the_whole_has_all_the_weight():
    whole = torch.randn(8, dtype=torch.float64)
    near = nearness(torch.stack([torch.zeros(8), whole, torch.zeros(8)]).double(), whole)
    assert (near / near.sum()).tolist() == [0, 1, 0]
    assert nearness(torch.stack([-whole, 3 * whole]), whole).tolist() == [0, 0]


@pytest.mark.parametrize("name", shelf.FEW)
def test_3_1_18_equals_a_whole_edited_run_for_each_position(name):
    model, prompt = shelf.model(name), shelf.ids((7,), seed=2)
    with exact():
        for layer in range(model.n_layers):
            made = inputs.value_zeroing_maps(model, prompt, layers=[layer], normalise=False).values[0, 0]
            told = mixers.value_zeroing(model, prompt, layer)
            assert np.allclose(made, told, rtol=1e-8, atol=1e-14)
            assert (made[np.triu_indices(7, 1)] == 0).all() and made.max() > 1e-8


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_3_1_18_a_run_with_nothing_zeroed_is_the_layers_own_output(name):
    model, tokens = shelf.model(name), shelf.model(name).tokens(shelf.ids((6, 4)))

    def nothing(layer, pos):
        return cb.Scale("v", 1.0, layer=layer, pos=pos)

    def largest(a, b):
        return (a - b).abs().amax(-1)

    @as_found
    def run():
        with undisturbed(model.anatomy, grad=False):
            clean = record(model.anatomy, tokens)
            for layer in range(model.n_layers):
                off = changed_outputs(model, clean, layer, nothing, largest, 16)
                assert float(off.max()) < 1e-10 * float(clean.stream[layer + 1].abs().max())

    with exact():
        run()


def test_3_1_18_a_value_that_nobody_looks_at_changes_nothing():
    """Mistral's window is 4: position 6 sees 3 to 6."""
    model, prompt = shelf.model("mistral"), shelf.ids((8,))
    with exact():
        maps = inputs.value_zeroing_maps(model, prompt).values[0]
        seen = inputs.attention_maps(model, prompt).values[0] > 0
    assert (~seen[:, 6, :3]).all() and np.abs(maps[~seen]).max() < 1e-20 and (maps[:, 6, 3:7] > 1e-8).all()


def test_3_1_18_distances():
    a, b = torch.randn(2, 5, 8, dtype=torch.float64)
    told = 1 - torch.cosine_similarity(a, b, dim=-1)
    assert torch.allclose(cosine_distance(a, b), told, atol=1e-14)
    near = normalize(a, dim=-1)
    assert float(cosine_distance(near, near + 1e-9).max()) < 1e-17
    model = shelf.model("gpt2")
    far = inputs.value_zeroing_maps(model, shelf.ids((5,)), distance="euclidean", token_budget=7)
    assert np.allclose(far.sum("key"), 1)


@pytest.mark.parametrize("name", PLAIN)
def test_3_1_21_the_vectors_sum_to_the_layers_output(name):
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    with exact():
        maps = inputs.mlp_maps(model, prompts, steps=3)
        size = float(model.run(prompts, read=["resid_post"])["resid_post"].abs().max())
    assert maps.attrs["gap"] < 1e-11 * max(1.0, size) and np.allclose(maps.sum("key"), 1, atol=1e-12)
    assert (np.triu(maps.values, 1) == 0).all()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "phi3", "falcon_sequential"])
def test_3_1_21_each_neuron_is_shared_out_by_integrated_gradients(name):
    """Against the integral itself: the MLP differentiated on the straight way from no pre-activation at all."""
    model, prompt, layer = shelf.model(name), shelf.ids((5,)), 1
    p, weights, n = model.anatomy.layers[layer], model.weights, 400
    with exact():
        run = model.run(prompt, read=reads_of(model, [layer]))
        made = rows_of(
            model,
            run,
            layer,
            lambda r: (
                layer_parts(model, run, layer, r, 40)
                - torch.cat(
                    [r.parts, torch.zeros_like(r.parts[:, :, :1]) if r.constant is None else r.constant[:, :, None]], 2
                )
            ),
        )
        read = rows_of(model, run, layer, lambda r: through(p.mlp_norm, model, r.parts, r.whole))[0]
        gated = p.w_gate is not None or p.gate_up is not None
        v = run["mlp_pre", layer][0]
        u = run["mlp_gate", layer][0] if gated else None
        total_v, total_u = torch.zeros_like(v), torch.zeros_like(v)
        for k in range(n):
            at = (k + 0.5) / n
            a, b = ((at * x).detach().requires_grad_() for x in (v, v if u is None else u))
            value = p.act(b) * a if gated else p.act(a)
            grads = torch.autograd.grad(value.sum(), [a, b] if gated else [a])
            total_v += grads[0] / n
            total_u += grads[1] / n if gated else 0
        shares = torch.einsum("ijd,dm->ijm", read, weights.W_in[layer]) * total_v[:, None]
        if gated:
            shares = shares + torch.einsum("ijd,dm->ijm", read, weights.W_gate[layer]) * total_u[:, None]
        told = (shares @ weights.W_out[layer])[None]
        if p.mlp_post_norm is not None:
            told = through(p.mlp_post_norm, model, told, mlp_before(model, run, layer))
    assert torch.allclose(made[:, :, :-1], told.detach(), atol=1e-4), float((made[:, :, :-1] - told).abs().max())
    assert float(told.abs().max()) > 0.05


def mlp_before(model, run, layer):
    """What the norm behind an MLP reads."""
    return run["mlp_post", layer] @ model.weights.W_out[layer] + model.weights.b_out[layer]


def test_3_1_21_the_mean_of_an_activation():
    model = shelf.model("llama")
    gate = torch.linspace(-6, 6, 25, dtype=torch.float64)
    fine = torch.stack([torch.nn.functional.silu(gate * (k + 0.5) / 20000) for k in range(20000)]).mean(0)
    with exact():
        assert torch.allclose(mean_activation(model, 0, gate, 20), fine, atol=1e-7)


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "gpt_oss"])
def test_what_takes_mlps_apart_refuses_mixtures_by_name(name):
    for technique in mixers.DENSE[:2]:
        with pytest.raises(SiteAbsent, match="mixtures of experts"):
            technique(shelf.model(name), shelf.ids((4,)), mixers.METRIC)


@pytest.mark.parametrize("name", ["gptj", "gpt_neox", "falcon", "cohere"])
def test_no_norm_reads_between_parallel_branches(name):
    with pytest.raises(SiteAbsent, match="parallel"):
        inputs.norm_maps(shelf.model(name), shelf.ids((4,)), residual=True, norm=True)


@pytest.mark.parametrize("name", ["bitnet", "afmoe"])
def test_heads_behind_a_gate_or_a_norm_are_refused_by_what_stands_there(name):
    with exact():
        model = shelf.model(name)
        for maps in (inputs.norm_maps, inputs.globenc_maps, inputs.alti_maps):
            with pytest.raises(SiteAbsent, match=r"a (gate|norm) stands between"):
                maps(model, shelf.ids((4,)))
        assert np.allclose(inputs.attention_maps(model, shelf.ids((4,))).sum("key"), 1)


@pytest.mark.parametrize("maps", [m for m in mixers.MAPS if m is not inputs.decompx_maps])
def test_tokens_that_are_alike_have_like_parts(maps):
    """Without positions two tokens that are the same enter the first layer alike, and mix alike into what follows."""
    hf = zoo.tiny("gpt2")
    hf.transformer.wpe.weight.data.zero_()
    with exact():
        first = maps(cb.load(hf), [[4, 9, 4, 7]], layers=[0]).values[0, 0]
    assert np.isclose(first[3, 0], first[3, 2], rtol=1e-9) and not np.isclose(first[3, 0], first[3, 1], rtol=1e-3)


@pytest.mark.parametrize("name", ["bitnet", "afmoe", "minicpm3"])
def test_3_1_18_needs_nothing_but_values(name):
    model, prompt = shelf.model(name), shelf.ids((6,), seed=2)
    with exact():
        made = inputs.value_zeroing_maps(model, prompt, layers=[1], normalise=False).values[0, 0]
        assert np.allclose(made, mixers.value_zeroing(model, prompt, 1), rtol=1e-8, atol=1e-14)


def test_latent_attention_is_refused_where_values_are_taken_back_to_tokens_and_nowhere_else():
    model, prompt = shelf.model("minicpm3"), shelf.ids((5,))
    with exact():
        assert inputs.mlp_maps(model, prompt).attrs["gap"] < 1e-10
        assert abs(inputs.alti_logit(model, prompt, mixers.METRIC).attrs["gap"][0]) < 1e-10
        with pytest.raises(SiteAbsent, match="latent"):
            inputs.decompx(model, prompt, mixers.METRIC)
