"""Edits of a module's output that follow from its input: beside a model whose weight was really changed."""

import copy

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import EditError
from caseback.model.anatomy.dense import weight_matrix
from exact import exact

PROMPTS = [[5, 1, 2, 3, 9], [8, 3, 4]]
FAMILIES = [name for name in shelf.FEW if name not in ("mixtral", "gpt_oss", "deepseek_v3")]
FAMILIES += ["olmo2", "granite", "gpt_neox", "crystal", "phi3", "stablelm_parallel"]


def written_by(model):
    """The first layer's MLP output matrix."""
    module = model.anatomy.layers[0].w_out
    assert module is not None
    return weight_matrix(module)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def path_of(model, layer):
    w_out = model.anatomy.layers[layer].w_out
    return next(name for name, module in model.hf.named_modules() if module is w_out) + ".output"


def changed(model, layer, delta):
    """A copy of a model with a matrix (out, in) added to the layer's output matrix."""
    other = cb.load(copy.deepcopy(model.hf))
    with torch.no_grad():
        weight_matrix(other.anatomy.layers[layer].w_out).add_(delta.T)
    return other


def term(model, layer, rank=2, seed=0):
    p = model.anatomy.layers[layer]
    n = weight_matrix(p.w_out).shape[0]
    left, right = normal(rank, model.d_model, seed=seed), 0.3 * normal(rank, n, seed=seed + 1)
    return cb.SideTerm(path_of(model, layer), left, right), left.T @ right


@pytest.mark.parametrize("name", FAMILIES)
def test_a_side_term_is_a_changed_weight(name):
    model = shelf.model(name)
    edit, delta = term(model, 1)
    with exact():
        other = changed(model, 1, delta)
        expected = other.run(PROMPTS).logits
        tokens = model.tokens(PROMPTS)
        run = model.run(PROMPTS, edits=edit)
        assert torch.allclose(run.logits[tokens.mask], expected[tokens.mask], atol=1e-10)
        assert not torch.allclose(run.logits[tokens.mask], model.run(PROMPTS).logits[tokens.mask], atol=1e-3)
        heads = [cb.Zero("z", layer=layer, head=0) for layer in range(model.n_layers)]
        swept = model.edited(edit).sweep(PROMPTS, heads, cb.logit(7)).values
        assert swept == pytest.approx(other.sweep(PROMPTS, heads, cb.logit(7)).values, abs=1e-9)
        variants = model.sweep(PROMPTS, [edit, [edit, heads[-1]]], cb.logit(7)).values
        assert variants[0] == pytest.approx(cb.logit(7)(other.run(PROMPTS)).numpy(), abs=1e-9)
        assert variants[1] == pytest.approx(swept[-1], abs=1e-9)


def test_terms_compose_and_leave_no_trace():
    model = shelf.model("llama")
    before = {name: x.clone() for name, x in model.hf.state_dict().items()}
    (first, one), (second, two) = term(model, 0), term(model, 0, rank=1, seed=5)
    with exact():
        both = model.edited(first).edited(second)
        expected = changed(model, 0, one + two).run(PROMPTS[0]).logits
        assert torch.allclose(both.run(PROMPTS[0]).logits, expected, atol=1e-10)
        gone = model.edited([first, cb.SideTerm(first.site, -first.left, first.right)])
        assert torch.allclose(gone.run(PROMPTS[0]).logits, model.run(PROMPTS[0]).logits, atol=1e-12)
    assert all(torch.equal(x, before[name]) for name, x in model.hf.state_dict().items())


def test_a_generation_and_some_positions():
    model = shelf.model("gpt2")
    edit, delta = term(model, 1)
    edit = cb.SideTerm(edit.site, 10 * edit.left, edit.right)
    with exact():
        other = changed(model, 1, 10 * delta)
        tokens = model.tokens(PROMPTS)
        ours, theirs = (m.generate(tokens, max_new_tokens=6, edits=e) for m, e in ((model, edit), (other, [])))
        assert torch.equal(ours.ids, theirs.ids)
        assert not torch.equal(ours.ids, model.generate(tokens, max_new_tokens=6).ids)
        some = model.run(PROMPTS, edits=cb.SideTerm(edit.site, edit.left, edit.right, pos=-1), read=[("mlp_out", 1)])
        plain, whole = (m.run(PROMPTS, read=[("mlp_out", 1)])["mlp_out", 1] for m in (model, other))
        ends = tokens.column(-1)
        assert torch.allclose(some["mlp_out", 1][[0, 1], ends], whole[[0, 1], ends])
        assert torch.equal(some["mlp_out", 1][:, 0], plain[:, 0])


def test_a_term_below_half_precision_still_acts():
    """An addition to bfloat16 weights below their last bit would be lost; beside them it is not."""
    model = cb.load(copy.deepcopy(shelf.model("llama").hf).to(torch.bfloat16))
    path, k = path_of(model, 0), model.run(PROMPTS[0], read=[("mlp_post", 0)])["mlp_post", 0][0, 2].float()
    weight = written_by(model).detach()
    right = 2.0**-11 * weight.float().abs().min(1).values.clamp_min(1e-6) * k.sign()
    left = torch.full((1, model.d_model), 1.0)
    lost = weight + (left.T @ right[None]).T.to(weight.dtype)
    assert torch.equal(lost, weight)
    out = model.run(PROMPTS[0], read=[path], edits=cb.SideTerm(path, 1e6 * left, right[None]))[path][0, 2]
    plain = model.run(PROMPTS[0], read=[path])[path][0, 2]
    assert torch.allclose(out.float() - plain.float(), 1e6 * (right @ k).expand(model.d_model), rtol=0.02, atol=0.1)


def test_a_codebook_answers_inside_its_balls_only():
    model = shelf.model("llama")
    path = path_of(model, 1)
    run = model.run(PROMPTS[0], read=[("mlp_post", 1), path])
    keys, values = run["mlp_post", 1][0, [2, 4]], normal(2, model.d_model)
    for radius, inside in ((1e-9, [2, 4]), (0.0, [2, 4]), (1e9, [0, 1, 2, 3, 4])):
        book = cb.Codebook(path, keys, values, torch.full((2,), radius))
        out = model.run(PROMPTS[0], read=[path], edits=book)[path][0]
        nearest = torch.cdist(run["mlp_post", 1][0], keys).argmin(-1)
        for pos in range(5):
            assert torch.equal(out[pos], values[nearest[pos]] if pos in inside else run[path][0, pos])


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m, path: cb.SideTerm("mlp_out", torch.ones(1, 32), torch.ones(1, 8), layer=0), "expected its path"),
        (lambda m, path: cb.SideTerm(path, torch.ones(1, 32), torch.ones(1, 3)), "width 3"),
        (lambda m, path: cb.SideTerm(path, torch.ones(1, 3), torch.ones(1, m.anatomy.d_mlp)), "left is of width 3"),
        (lambda m, path: cb.SideTerm(path, torch.ones(2, 3), torch.ones(1, 3)), "2 rows and right 1"),
        (lambda m, path: cb.SideTerm(path, torch.ones(3), torch.ones(1, 3)), "dimensions"),
        (lambda m, path: cb.Codebook(path, torch.ones(0, 3), torch.ones(0, 3), torch.ones(0)), "one at least"),
        (lambda m, path: cb.Codebook(path, torch.ones(1, 3), torch.ones(1, 3), torch.ones(1)), "width 3"),
    ],
)
def test_what_does_not_fit_is_refused(edit, words):
    model = shelf.model("llama")
    with pytest.raises(EditError, match=words):
        model.run(PROMPTS, edits=edit(model, path_of(model, 0)))
