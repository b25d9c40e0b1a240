"""What rounding does to a sweep is measured beside it, and the largest effects can be had without it."""

import copy

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import OutOfRange
from caseback.model.running.measure import measured
from exact import exact

ROWS = shelf.ids((7, 5))
METRIC = cb.logit_diff(3, 5)


def half(name="llama", dtype=torch.bfloat16):
    return cb.load(copy.deepcopy(shelf.model(name).hf).to(dtype))


def heads(model):
    return [cb.Zero("z", layer=i, head=h) for i in range(model.n_layers) for h in range(model.n_heads)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_noise_floor_is_what_a_variant_without_an_edit_misses(dtype):
    model = half(dtype=dtype)
    swept = model.sweep(ROWS, heads(model), METRIC, token_budget=16)
    floor = swept.attrs["noise_floor"]
    nothing = model.sweep(ROWS, [cb.Add("resid_post", 0.0, layer=0)] * 8, METRIC, token_budget=16)
    off = abs(nothing.values - nothing["clean"].values).max()
    assert 0 <= floor < 0.05 and off < 0.05
    assert "noise_floor" not in shelf.model("llama").sweep(ROWS, heads(model), METRIC).attrs


def test_a_sweep_that_goes_on_keeps_the_noise_of_its_first_part(tmp_path):
    model = half()
    path = tmp_path / "sweep.safetensors"
    whole = model.sweep(ROWS, heads(model), METRIC, token_budget=16, checkpoint=path)
    again = model.sweep(ROWS, heads(model), METRIC, token_budget=16, checkpoint=path)
    assert again.attrs["noise_floor"] == whole.attrs["noise_floor"]
    kept_in_folder = model.sweep(ROWS, heads(model), METRIC, folder=tmp_path / "job")
    assert kept_in_folder.attrs["noise_floor"] == model.sweep(ROWS, heads(model), METRIC).attrs["noise_floor"]


def test_columns_of_the_metric_are_unembedded_in_float32():
    model = half()
    values = measured(model.anatomy, model.tokens(ROWS), METRIC)[1]
    last = model.run(ROWS, read=["final_norm"])["final_norm"].float()
    weight = model.hf.lm_head.weight.float()
    ends = last[torch.arange(2), model.tokens(ROWS).column(-1)]
    with exact():
        expected = ends @ (weight[3] - weight[5])
    torch.testing.assert_close(values.float(), expected, rtol=1e-5, atol=1e-6)
    assert (model.sweep(ROWS, heads(model)[:1], METRIC)["clean"].values == values.double().numpy()).all()


def test_the_largest_effects_again_in_float32():
    model = half()
    wide = cb.load(copy.deepcopy(model.hf).float())
    corrupt = [[t + 1 for t in row] for row in ROWS]
    swept = {}
    for one in (model, wide):
        source = one.run(corrupt, read=["z"])
        variants = [cb.Resample("z", source, layer=i, head=h) for i in range(2) for h in range(one.n_heads)]
        swept[one] = one.sweep(ROWS, variants, METRIC, **({"recheck": 3} if one is model else {}))
    rough, true = swept[model], swept[wide] - swept[wide]["clean"]
    largest = abs((rough - rough["clean"]).mean("batch")).argsort(kind="stable").values[::-1][:3]
    checked = rough.in_float32
    assert sorted(checked.notnull().all("batch").values.nonzero()[0]) == sorted(largest)
    torch.testing.assert_close(
        torch.tensor(checked.values[largest]), torch.tensor(true.values[largest]).double(), rtol=1e-4, atol=1e-5
    )
    assert model.hf.dtype == torch.bfloat16 and "in_float32" not in swept[wide].coords
    with pytest.raises(OutOfRange, match="recheck=0"):
        model.sweep(ROWS, variants, METRIC, recheck=0)
