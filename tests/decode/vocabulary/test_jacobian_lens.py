"""The Jacobian lens is the mean Jacobian; seen through random directions it is so on average."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import fit_jacobian_lens, merge_jacobian_lenses, read_lens
from caseback.errors import CasebackError, OutOfRange
from exact import exact


def by_hand(model, prompt, row, skip):
    """mean over t of sum over u >= t of the Jacobian, one entry of the final stream at a time."""
    valid = slice(skip, len(prompt) - 1)
    site = ("resid_pre", row) if row < model.n_layers else ("resid_post", row - 1)
    run = model.run([prompt], read=[site, ("resid_post", model.n_layers - 1)], grad=True)
    end = run["resid_post", model.n_layers - 1][0]
    rows = []
    for i in range(model.d_model):
        (g,) = torch.autograd.grad(end[valid, i].sum(), run[site], retain_graph=True)
        rows.append(g[0, valid].mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("copies", [5, 64])
def test_it_is_the_mean_jacobian(name, copies):
    model, prompts = shelf.model(name), shelf.ids((7, 9), seed=1)
    with exact():
        lens = fit_jacobian_lens(model, prompts, skip=2, copies=copies, rows=range(model.n_layers + 1))
        for row in range(model.n_layers + 1):
            expected = sum(by_hand(model, p, row, 2) for p in prompts) / len(prompts)
            assert torch.allclose(lens.weight[row].T.double(), expected, atol=1e-9), row
    assert torch.allclose(lens.weight[-1], torch.eye(model.d_model, dtype=lens.weight.dtype), atol=1e-12)
    assert lens.provenance["prompts"] == len(prompts)


def test_random_directions_settle_on_it():
    model, prompts = shelf.model("gpt2"), shelf.ids((8,), seed=1) * 60
    whole = fit_jacobian_lens(model, prompts[:1], skip=2)
    few = fit_jacobian_lens(model, prompts[:6], skip=2, directions=4)
    many = fit_jacobian_lens(model, prompts, skip=2, directions=4)
    gap = lambda lens: float((lens.weight - whole.weight).norm() / whole.weight.norm())  # noqa: E731
    # errors of independent prompts average out: a tenth of the variance, so about a third of the error
    assert gap(many) < 0.5 * gap(few)
    assert torch.allclose(
        fit_jacobian_lens(model, prompts[:1], skip=2, directions=model.d_model).weight, whole.weight, atol=1e-6
    )


def test_parts_merge_to_the_whole():
    model, prompts = shelf.model("llama"), shelf.ids((7, 6, 8), seed=1)
    parts = [fit_jacobian_lens(model, some, skip=1) for some in (prompts[:1], prompts[1:])]
    merged, whole = merge_jacobian_lenses(parts), fit_jacobian_lens(model, prompts, skip=1)
    assert (
        torch.allclose(merged.weight.double(), whole.weight.double(), atol=1e-6) and merged.provenance["prompts"] == 3
    )
    with pytest.raises(CasebackError, match="no lens"):
        merge_jacobian_lenses([])
    with pytest.raises(CasebackError, match="cannot be merged"):
        merge_jacobian_lenses([whole, fit_jacobian_lens(model, prompts, skip=1, rows=[1])])


def test_it_reads_like_any_lens():
    model = cb.load("meadow")
    lens = fit_jacobian_lens(
        model, ["When Mary and John went to the store, John gave a drink to Mary."], skip=1, rows=[2, 3]
    )
    read = read_lens(model, "the cat and the dog", lens, targets=" dog")
    assert read.layer.values.tolist() == ["1", "2", "3"]
    assert float(read["kl"].sel(layer="3").max()) < 1e-6
    assert lens.low_rank(5).weight[0].double().svd().S[5] < 1e-4


def test_what_cannot_be_fitted_is_refused():
    model = shelf.model("gpt2")
    with pytest.raises(CasebackError, match="no text has 18 tokens"):
        fit_jacobian_lens(model, [[1, 2, 3]])
    for wrong in ({"directions": 0}, {"copies": 0}, {"skip": -1}, {"rows": [99]}, {"rows": []}):
        with pytest.raises(OutOfRange):
            fit_jacobian_lens(model, [[1, 2, 3]], **wrong)
