"""What a sweep does not compute: projections of rows that enter a layer untouched, and GELU in eight passes."""

import pytest
import torch
from transformers.activations import NewGELUActivation

import caseback as cb
import shelf
import zoo
from caseback.model.sweeping.fused_activations import fused
from caseback.model.sweeping.reused_projections import projections
from exact import exact

METRIC = cb.logit_diff(5, 9)


def projected(model, layer, job):
    """Rows that pass each of a layer's projections while a job runs, the clean run's own first."""
    seen, handles = [], []
    for module in projections(model.anatomy.layers[layer]):
        own = module.forward

        def forward(x, own=own):
            seen.append(x.shape[-2])
            return own(x)

        module.forward = forward
        handles.append(module)
    try:
        job()
    finally:
        for module in handles:
            del module.forward
    return seen


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox", "falcon"])
def test_only_edited_rows_are_projected_where_a_suffix_enters(name):
    model = shelf.model(name)
    tokens = shelf.ids((8,), seed=1)
    edits = [cb.Zero("resid_pre", layer=1, pos=p) for p in (2, 5)]
    with exact():
        seen = projected(model, 1, lambda: model.sweep(tokens, edits, METRIC))
        swept = model.sweep(tokens, edits, METRIC)
        for edit, value in zip(edits, swept.values, strict=True):
            run = model.run(tokens, edits=edit)
            assert torch.allclose(METRIC(run).double().cpu(), torch.as_tensor(value), atol=1e-12)
    times = len(projections(model.anatomy.layers[1]))
    assert seen[:times] == [8] * times
    assert seen[times:] == [2] * times


def test_an_edit_behind_the_projections_needs_none_of_them():
    model = shelf.model("llama")
    edits = [cb.Zero("z", layer=1, head=h) for h in range(model.n_heads)]
    seen = projected(model, 1, lambda: model.sweep(shelf.ids((8,), seed=1), edits, METRIC))
    assert seen == [8, 8, 8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_is_the_activation(dtype):
    model = cb.load(zoo.tiny("gpt2").to(dtype))
    module = next(m for m in model.hf.modules() if type(m) is NewGELUActivation)
    x = torch.linspace(-9, 9, 4001, dtype=dtype)
    written_out = module(x)
    with fused(model.anatomy):
        kernel = module(x)
    assert torch.allclose(kernel, written_out, rtol=0, atol=10 * torch.finfo(dtype).eps)
    assert "forward" not in vars(module)


def test_narrow_types_and_replaced_activations_are_left_alone():
    model = cb.load(zoo.tiny("gpt2"))
    module = next(m for m in model.hf.modules() if type(m) is NewGELUActivation)
    replaced = module.forward
    module.forward = replaced
    with pytest.raises(ZeroDivisionError), fused(model.anatomy):
        assert module.forward is replaced
        raise ZeroDivisionError
    assert vars(module)["forward"] is replaced
    del module.forward
    model.hf.to(torch.bfloat16)
    with fused(model.anatomy):
        assert "forward" not in vars(module)
