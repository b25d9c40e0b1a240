"""Decompositions of an edited model beside the same of a copy whose weights were changed to the same effect."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary.lenses.attention_lens import fit_attention_lens
from caseback.decode.vocabulary.lenses.causal_basis import causal_basis
from caseback.decode.vocabulary.lenses.future_prompt import fit_future_prompt
from caseback.decode.vocabulary.lenses.lens import read_lens
from caseback.decode.vocabulary.lenses.tuned_lens import fit_tuned_lens
from caseback.errors import CasebackError, EditError, SiteAbsent
from caseback.localize.circuits import cdt, contextual_decomposition, flow_routes
from caseback.localize.components import logit_attribution, self_repair
from caseback.localize.inputs.mixing.alti import alti, alti_maps
from caseback.localize.inputs.mixing.alti_logit import alti_logit
from caseback.localize.inputs.mixing.attention_norms import attention_norms, norm_maps
from caseback.localize.inputs.mixing.decompx import decompx, decompx_logits, decompx_maps
from caseback.localize.inputs.mixing.globenc import globenc
from caseback.localize.inputs.mixing.mlp_mixing import mlp_maps, mlp_mixing
from caseback.model.algebra.decompose import stream_parts
from caseback.model.algebra.folding import Folded
from caseback.model.algebra.promoted import promoted
from caseback.model.algebra.sources import head_sources, source_parts
from caseback.model.algebra.under_edits import pulled_through_end, pushed_through_end
from caseback.model.anatomy.dense import weight_matrix
from caseback.model.anatomy.sites import Site
from caseback.model.running.affine import Codebook
from caseback.model.running.verify import under_edits
from caseback.reports.graphs.flow import flow_graph_document
from caseback.stream import collect
from caseback.stream.tables.attention.direct import HeadDirect
from caseback.stream.tables.attention.predicted import AttentionPredicted
from exact import exact

PROMPTS, METRIC = [[5, 1, 2, 3, 9], [8, 3, 4]], cb.logit_diff(5, 7)
TEXTS: list[Any] = [[5, 1, 2, 3, 9, 4, 6, 2], [8, 3, 4, 1, 2, 9, 9, 1]]
FAMILIES = ["gpt2", "llama", "gemma2", "olmo2", "gpt_neox"]
ENDS = ("attn_out", "resid_post")
FEW_STEPS: dict[str, Any] = {"steps": 2, "batch": 2, "length": 8}
READINGS = {
    "alti": lambda m: alti(m, PROMPTS, METRIC),
    "alti_logit": lambda m: alti_logit(m, PROMPTS, METRIC),
    "globenc": lambda m: globenc(m, PROMPTS, METRIC),
    "attention_norms": lambda m: attention_norms(m, PROMPTS, METRIC, residual=True),
    "norms of heads": lambda m: norm_maps(m, PROMPTS, heads="each"),
    "decompx": lambda m: decompx(m, PROMPTS, METRIC),
    "decompx_maps": lambda m: decompx_maps(m, PROMPTS),
    "decompx_logits": lambda m: decompx_logits(m, PROMPTS, [5, 7]),
    "mlp_mixing": lambda m: mlp_mixing(m, PROMPTS, METRIC),
    "flow_routes": lambda m: flow_routes(m, PROMPTS, threshold=0.01).to_array(),
    "flow_graph_document": lambda m: flow_graph_document(m, PROMPTS[:1])["edges"]["weight"],
    "contextual_decomposition": lambda m: contextual_decomposition(m, PROMPTS, None, METRIC)["relevance"],
    "cdt": lambda m: cdt(m, PROMPTS, None, METRIC),
    "self_repair": lambda m: self_repair(m, PROMPTS, METRIC, kind="zero")["self_repair"],
    "logit_attribution": lambda m: logit_attribution(m, PROMPTS, METRIC),
    "source_parts": lambda m: source_parts(m, PROMPTS, [5, 7]),
    "head_sources": lambda m: head_sources(m, PROMPTS[:1], 0),
    "stream_parts": lambda m: (x := stream_parts(m, PROMPTS, normed=True))[(x.kind != "bias").values],
    "fit_tuned_lens": lambda m: fit_tuned_lens(m, TEXTS, tokens_per_step=8, **FEW_STEPS).weight,
    "fit_attention_lens": lambda m: fit_attention_lens(m, TEXTS, layer=0, tokens_per_step=8, **FEW_STEPS).weight,
    "low rank": lambda m: fit_attention_lens(m, TEXTS, layer=0, rank=2, tokens_per_step=8, **FEW_STEPS).up,
    "fit_future_prompt": lambda m: fit_future_prompt(m, TEXTS, row=1, states_per_step=4, **FEW_STEPS).vectors,
    "head_direct": lambda m: collect(m, TEXTS, [HeadDirect(skip=1)])["head_direct"]["own"],
    "attention_predicted": lambda m: collect(m, TEXTS, [AttentionPredicted(skip=1)])["attention_predicted"][
        "attention"
    ],
    "promoted": lambda m: promoted(m, *(m.run(TEXTS[:1], read=["attn_out", "resid_post"])[x, -1][0] for x in ENDS)),
    "causal_basis": lambda m: causal_basis(m, TEXTS, row=1, directions=1, iterations=3, length=8)["influence"],
}


def zeroed_head(model, other):
    p = other.anatomy.layers[0]
    weight_matrix(p.o)[p.d_z : 2 * p.d_z] = 0
    return cb.Zero("z", layer=0, head=1)


def side_term(model, other):
    w_out = other.anatomy.layers[0].w_out
    path = next(name for name, module in other.hf.named_modules() if module is w_out)
    draw = torch.Generator().manual_seed(0)
    left = 0.5 * torch.randn(1, model.d_model, generator=draw, dtype=torch.float64)
    right = torch.randn(1, len(weight_matrix(w_out)), generator=draw, dtype=torch.float64)
    weight_matrix(w_out).add_(right.T @ left)
    return cb.SideTerm(f"{path}.output", left, right)


def scaled_end(model, other):
    norm, module = other.weights.final_norm, other.anatomy.final_norm
    of_one = float(not torch.equal(norm.gamma.to(module.weight), module.weight))  # Gemma stores the gain less 1
    module.weight.copy_(0.5 * (module.weight + of_one) - of_one)
    if getattr(module, "bias", None) is not None:
        module.bias.mul_(0.5)
    return cb.Scale("final_norm", 0.5)


def numbers(result):
    return np.asarray(result.detach() if isinstance(result, torch.Tensor) else result, dtype=float)


@pytest.fixture(scope="module", params=[zeroed_head, side_term, scaled_end], ids=lambda change: change.__name__)
def change(request):
    return request.param


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, change):
    with exact(), torch.no_grad():
        model = shelf.model(request.param)
        hf = copy.deepcopy(model.hf)
        edit = change(model, cb.load(hf, tokenizer=model.tokenizer))
        return model.edited(edit), cb.load(hf, tokenizer=model.tokenizer)


@pytest.mark.parametrize("name", READINGS)
def test_an_edited_model_is_the_copy_with_changed_weights(pair, name):
    edited, other = pair
    with exact():
        try:
            expected = numbers(READINGS[name](other))
        except SiteAbsent:
            pytest.skip("not of this family")
        found = numbers(READINGS[name](edited))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


NOT_FOLLOWED = {
    cb.Replace("z", 0.5, layer=0, head=1): "alti alti_logit globenc attention_norms decompx mlp_mixing flow_routes cdt",
    cb.Zero("z", layer=0, unit=1): "alti decompx cdt flow_graph_document source_parts",
    cb.Scale("attn_out", 0.5, layer=0): "alti globenc attention_norms decompx_maps mlp_mixing flow_routes cdt",
    cb.Add("resid_mid", 0.5, layer=0): "alti decompx mlp_mixing flow_routes cdt",
    cb.Add("mlp_post", 0.5, layer=0): "decompx decompx_logits mlp_mixing cdt",
    cb.Scale("attn_norm", 0.5, layer=1): "globenc decompx cdt",
    cb.Apply("final_norm", torch.tanh): "alti_logit decompx self_repair cdt fit_tuned_lens causal_basis",
    cb.Scale("final_norm", 0.5, pos=-1): "alti_logit decompx self_repair fit_tuned_lens fit_attention_lens",
    cb.Scale("logits", 0.5): "alti_logit decompx self_repair cdt fit_tuned_lens fit_attention_lens fit_future_prompt",
}


@pytest.mark.parametrize(
    ("edit", "name"),
    [(e, n) for e, names in NOT_FOLLOWED.items() for n in names.split()],
    ids=lambda part: part if isinstance(part, str) else part.describe(),
)
def test_what_is_not_followed_is_refused(edit, name):
    with pytest.raises(EditError, match="copy with other weights|edit of all positions"):
        READINGS[name](shelf.model("gpt2").edited(edit))


def test_heads_are_followed_where_they_are_edited():
    """A head that is scaled at one position of one prompt, in a padded batch: what it brings sums to what it writes."""
    edits = [cb.Scale("z", -0.5, layer=0, head=1, pos=-1), cb.Zero("z", layer=1, head=0, prompt=1)]
    with exact():
        model = shelf.model("llama").edited(edits)
        for layer in (0, 1):
            assert head_sources(model, PROMPTS, layer).attrs["gap"] < 1e-10
        assert max(map(abs, decompx(model, PROMPTS, METRIC).attrs["gap"])) < 1e-10
        assert max(map(abs, alti_logit(model, PROMPTS, METRIC).attrs["gap"])) < 1e-10
        assert mlp_maps(model, PROMPTS).attrs["gap"] < 1e-10
        assert not np.allclose(alti_maps(model, PROMPTS), alti_maps(shelf.model("llama"), PROMPTS), equal_nan=True)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_directions_pass_affine_edits_of_the_final_norm(family):
    """E(x) u = x J^T u + E(0) u, and addends behind E sum to E of their sum but for E(0)."""
    d = shelf.model(family).d_model
    draw = torch.Generator().manual_seed(1)
    x, u, basis = (torch.randn(n, d, generator=draw, dtype=torch.float64) for n in (4, 3, 2))
    edits: list[Any] = [
        cb.Project("final_norm", basis),
        cb.Scale("final_norm", 0.5, unit=[0, 2]),
        cb.Add("final_norm", u[0]),
    ]
    edits.append(cb.Replace("final_norm", 0.3, unit=1))
    with exact():
        model = shelf.model(family).edited(edits)
        anatomy, end = model.anatomy, Site("final_norm")
        pulled, constant = pulled_through_end(anatomy, u)
        assert constant is not None
        assert torch.allclose(under_edits(anatomy, end, x) @ u.T, x @ pulled.T + constant, atol=1e-12)
        whole = under_edits(anatomy, end, x.sum(0, keepdim=True)) - under_edits(anatomy, end, 0 * x[:1])
        assert torch.allclose(pushed_through_end(anatomy, x).sum(0), whole[0], atol=1e-12)
        for scores in (decompx(model, PROMPTS, METRIC), alti_logit(model, PROMPTS, METRIC)):
            assert max(map(abs, scores.attrs["gap"])) < 1e-10
        assert stream_parts(model, PROMPTS, normed=True).attrs["gap"] < 1e-10


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "granite"])
def test_weights_hold_side_terms_and_edits_of_the_final_norm(family):
    """Whether units are mixed or not: the last stream through the weights gives the edited model's logits."""
    model = shelf.model(family)
    draw = torch.Generator().manual_seed(1)
    u, basis = (torch.randn(n, model.d_model, generator=draw, dtype=torch.float64) for n in (1, 2))
    alone: list[Any] = [cb.Scale("final_norm", 0.5, unit=[0, 2]), cb.Add("final_norm", u[0])]
    for edits in (alone, [*alone, cb.Project("final_norm", basis)]):
        with exact():
            edited = model.edited(edits)
            run = edited.run(PROMPTS, read=["resid_post"])
            for weights in (edited.weights, edited.weights.folded()):
                norm = weights.final_norm
                assert norm is not None
                logits = norm(run["resid_post", -1]) @ weights.W_U + weights.b_U
                logits = logits if isinstance(weights, Folded) else logits * model.anatomy.logit_scale
                cap = model.anatomy.logit_softcap
                logits = logits if cap is None else torch.tanh(logits / cap) * cap
                own = run.tokens.mask
                torch.testing.assert_close(logits[own], run.logits[own], rtol=1e-9, atol=1e-9)
    copied = cb.load(copy.deepcopy(model.hf))
    with torch.no_grad():
        edit = side_term(model, copied)
    torch.testing.assert_close(model.edited(edit).weights.W_out[0], copied.weights.W_out[0])
    with pytest.raises(EditError, match="edit of all positions"):
        _ = model.edited(cb.Scale("final_norm", 0.5, pos=-1)).weights.final_norm


def test_a_codebook_inside_an_mlp_is_followed_by_what_reads_the_mlps_write():
    """With a ball that holds every key the MLP writes one value: a matrix of zeros, and that value as its bias."""
    model = shelf.model("gpt2")
    other = cb.load(copy.deepcopy(model.hf))
    w_out: Any = other.anatomy.layers[0].w_out
    value = torch.linspace(-1.0, 1.0, model.d_model, dtype=torch.float64)
    with torch.no_grad():
        weight_matrix(w_out).zero_()
        w_out.bias.copy_(value)
    path = next(name for name, module in other.hf.named_modules() if module is w_out)
    keys = torch.zeros(1, len(weight_matrix(w_out)), dtype=torch.float64)
    edited = model.edited(Codebook(f"{path}.output", keys, value[None], torch.tensor([1e6]).double()))
    with exact():
        for name in (
            "alti",
            "alti_logit",
            "globenc",
            "attention_norms",
            "norms of heads",
            "flow_routes",
            "source_parts",
        ):
            found, expected = (numbers(READINGS[name](m)) for m in (edited, other))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
        for name in ("mlp_mixing", "decompx", "cdt"):
            with pytest.raises(EditError, match="copy with other weights"):
                READINGS[name](edited)


def test_a_lens_knows_the_edits_that_its_model_stood_under():
    model = shelf.model("llama")
    edited = model.edited(cb.Zero("z", layer=0, head=1))
    with exact():
        for one, other in ((model, edited), (edited, model), (edited, model.edited(cb.Zero("z", layer=0, head=0)))):
            lens = fit_tuned_lens(one, TEXTS, tokens_per_step=8, **FEW_STEPS)
            assert read_lens(one, PROMPTS, lens)["kl"].notnull().any()
            with pytest.raises(CasebackError, match="under other edits"):
                read_lens(other, PROMPTS, lens)
        heads = fit_attention_lens(model, TEXTS, layer=0, tokens_per_step=8, **FEW_STEPS)
        with pytest.raises(CasebackError, match="not fitted for .* under Zero z L0H1"):
            heads.expect(edited)
