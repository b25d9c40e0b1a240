"""PRIMER 3.2.34: the search finds the subspace that was planted, and no other does."""

import planted_truth
import pytest
import torch
from planted_truth import overlap

import shelf
from caseback.errors import CasebackError, EditError, LoadError, OutOfRange
from caseback.localize.abstraction import At, Interchanges, das, das_map, interchange_accuracy
from caseback.model.algebra.rotation import Rotation, random_rows

HERE = At("resid_post", layer=0, pos=-1)
END = At("resid_mid", layer=0, pos=-1)
FAST = {"lr": 0.03, "epochs": 12, "batch_size": 16}


@pytest.mark.parametrize("seed", [0, 1])
def test_3_2_34_a_planted_direction_is_found_where_no_neuron_is_it(seed):
    """A sign, along a random direction of a stream that holds other things in all others."""
    model, truth, data = planted_truth.directly(1, 240, seed=seed, gain=2.0)
    found = das(model, data, HERE, seed=seed, lr=0.03, epochs=6, batch_size=8)
    assert overlap(found.values, truth["a"]) >= 0.99
    assert found.attrs["held_out_accuracy"] >= 0.98 and found.attrs["held_out_accuracy_where_changed"] >= 0.98
    assert found.attrs["random_accuracy"] < 0.7 and found.attrs["no_swap_accuracy"] < 0.7
    assert found.attrs["loss_curve"][0] > found.attrs["loss_curve"][-1] and len(found.attrs["held_out_curve"]) == 6
    assert found.dims == ("k", "d_model") and found["variable"].values.tolist() == ["a"]
    localist = [
        interchange_accuracy(model, data, {"a": HERE.holding(torch.eye(model.d_model)[[i]])}).attrs["accuracy"]
        for i in range(model.d_model)
    ]
    assert max(localist) < 0.9


def test_3_2_34_a_planted_plane_of_rotations_is_found():
    model, truth = planted_truth.modular()
    found = das(model, planted_truth.sums(model, "a", 150, changing=0.8), END, k=2, **FAST)
    assert overlap(found.values, truth["a"]) >= 0.99 and found.attrs["held_out_accuracy"] >= 0.98
    assert found.attrs["random_accuracy"] < 0.5 and found.attrs["full_accuracy"] < 0.5
    rows = torch.tensor(found.values)
    assert torch.allclose(rows @ rows.T, torch.eye(2).double(), atol=1e-9)


def test_3_2_34_several_variables_share_one_rotation():
    """Each from a source of its own, swapped together or alone; the subspaces come out orthogonal and right."""
    model, truth = planted_truth.modular()
    data = planted_truth.sums(model, ["a", "b"], 250, swap="any")
    found = das(model, data, END, k={"a": 2, "b": 2}, **FAST)
    assert found.attrs["held_out_accuracy"] >= 0.98
    for name in "ab":
        mine = found.values[found["variable"].values == name]
        assert overlap(mine, truth[name]) >= 0.98
    at = {name: END.holding(found, name) for name in "ab"}
    assert interchange_accuracy(model, data, at).attrs["accuracy"] >= 0.98


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox"])
def test_3_2_34_at_a_head_of_any_family_it_does_better_than_chance(name):
    """A random model has no variable, but its own answers under a known interchange are a task like any other."""
    model = shelf.model(name)
    at = {"llama": At("v", 0, head=0), "gemma2": At("resid_post", 0), "gpt_neox": At("z", 0, head=1)}[name]
    k = 2 if name != "gemma2" else 12
    data = _answered(model, at, k)
    before = shelf.tensors(model.anatomy)
    found = das(model, data, at, k=k, held_out=data, lr=0.05, epochs=15)
    assert (
        found.dims == ("k", "d_model" if at.head is None else "d_head")
        and found.attrs["accuracy"] >= found.attrs["random_accuracy"] + 0.2
    )
    assert all(torch.equal(value, before[key]) for key, value in shelf.tensors(model.anatomy).items())


def _answered(model, at, k):
    """Examples whose answers are the model's own with a planted subspace swapped, of those where that changes them."""
    width = model.run([[1]], read=[(at.site, at.layer)])[at.site, at.layer].shape[-1]
    base, source = shelf.ids((5,) * 150), shelf.ids((5,) * 150, seed=1)
    own = model.run(base).logits[:, -1].argmax(-1)
    data = Interchanges.of(model, base, source, own, own)
    planted = {"variable": at.holding(random_rows(k, width, 7))}
    told = torch.tensor(interchange_accuracy(model, data, planted).answer.values)
    made = Interchanges.of(model, base, source, told, own)
    changed = made[made.changes.nonzero()[:, 0]]
    assert len(changed) >= 8, len(changed)
    return changed


def test_padding_and_memory_do_not_matter():
    model, _ = planted_truth.gate()
    one, other = (planted_truth.bits(model, count=30, padding=side) for side in ("left", "right"))
    how = {"epochs": 3, "lr": 0.03, "batch_size": 8}
    first = das(model, one, END, **how)
    for again in (das(model, other, END, **how), das(model, one, END, memory=0, **how)):
        torch.testing.assert_close(torch.tensor(again.values), torch.tensor(first.values), atol=1e-9, rtol=0)
    assert (das(model, one, END, seed=1, **how).values != first.values).any()


def test_an_interrupted_search_goes_on_to_the_same_end(tmp_path, monkeypatch):
    model, _ = planted_truth.gate()
    data, how = planted_truth.bits(model, count=40), {"epochs": 6, "lr": 0.03, "batch_size": 8}
    whole = das(model, data, END, **how)
    from caseback.localize.abstraction import distributed

    judged, real = [], distributed.swapped_accuracy

    def third(*args):
        judged.append(args)
        if len(judged) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(distributed, "swapped_accuracy", third)
    file = tmp_path / "search.safetensors"
    with pytest.raises(KeyboardInterrupt):
        das(model, data, END, checkpoint=file, **how)
    monkeypatch.setattr(distributed, "swapped_accuracy", real)
    again = das(model, data, END, checkpoint=file, **how)
    assert again.identical(whole)
    with pytest.raises(LoadError, match="belongs to another training"):
        das(model, data, END, checkpoint=file, **{**how, "lr": 0.04})
    (tmp_path / "other").write_text("no such thing")
    with pytest.raises(LoadError, match="is not a checkpoint of a training"):
        das(model, data, END, checkpoint=tmp_path / "other", **how)


def test_patience_stops_early_and_keeps_the_best():
    model, _ = planted_truth.gate()
    found = das(model, planted_truth.bits(model, count=60), END, patience=3, **FAST)
    curve = found.attrs["held_out_curve"]
    assert len(curve) < 12 and found.attrs["kept_epoch"] == curve.index(max(curve))
    assert found.attrs["held_out_accuracy"] == max(curve)


def test_a_map_shows_where_the_variable_is(tmp_path):
    model, _ = planted_truth.gate()
    data, how = planted_truth.bits(model, count=60), {"lr": 0.05, "epochs": 12}
    found = das_map(model, data, site="resid_mid", checkpoint=tmp_path, **how)
    assert found.dims == ("layer", "pos") and found.values[0, -1] >= 0.98
    assert (found.values[0, :3] == found.attrs["no_swap_accuracy"]).all() and found.attrs["no_swap_accuracy"] < 0.8
    assert found.random.dims == found.full.dims == found.dims and found.full.values[0, -1] < 0.98
    before = das_map(model, data, site="resid_pre", pos=[1, 2, 3], **how)
    assert before.values[0].round(6).tolist()[0] >= 0.98 > max(before.values[0, 1:])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resid_mid.L0.pos3.safetensors"]
    assert das_map(model, data, site="resid_mid", checkpoint=tmp_path, **how).equals(found)


def test_rotations_are_orthogonal_and_seeded():
    for k, width in ((1, 5), (3, 5), (5, 5)):
        rows = Rotation(k, width, seed=3, dtype=torch.bfloat16).rows
        assert rows.dtype == torch.float32 and torch.allclose(rows @ rows.T, torch.eye(k), atol=1e-6)
        assert torch.allclose(rows.double(), random_rows(k, width, 3), atol=1e-6)


def test_bad_searches_are_refused():
    model, truth = planted_truth.gate()
    data = planted_truth.bits(model, count=20)
    width = model.d_model
    with pytest.raises(EditError, match=f"a subspace of {width + 1} dimensions in a site that is {width} wide"):
        das(model, data, END, k=width + 1)
    with pytest.raises(EditError, match="'a' in 0 dimensions"):
        das(model, data, END, k=0)
    with pytest.raises(CasebackError, match="k gives sizes for b; the examples swap a"):
        das(model, data, END, k={"b": 1})
    with pytest.raises(EditError, match="has a subspace already"):
        das(model, data, END.holding(truth["a"]))
    with pytest.raises(CasebackError, match="none of .* interchanges changes the answer"):
        das(model, planted_truth.bits(model, count=20, changing=0.0), END)
    with pytest.raises(CasebackError, match="changes the answer: no later layer reads"):
        das(model, data, At("resid_mid", layer=0, pos=1))
    for wrong in ({"epochs": 0}, {"batch_size": 0}, {"warmup": 1.0}, {"patience": 0}):
        with pytest.raises(OutOfRange, match=next(iter(wrong))):
            das(model, data, END, **wrong)
    with pytest.raises(CasebackError, match="is not a folder"):
        das_map(model, data, site="resid_mid", checkpoint="nowhere/at/all")
    with pytest.raises(CasebackError, match="a map is of one variable"):
        das_map(model, planted_truth.bits(model, ["a", "b"]))
