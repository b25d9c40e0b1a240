"""PRIMER 3.2.33: after interchange intervention training the variable is where it was told to be."""

import planted_truth
import pytest
import torch

import caseback as cb
import shelf
import zoo
from caseback.errors import CasebackError, LoadError
from caseback.localize.abstraction import At, Interchanges, interchange_accuracy, interchange_training
from caseback.localize.abstraction.training_interchange import _loss, _targets, _trainable
from caseback.model.loading.load import load
from caseback.organisms.compiled import build

BITS = {"epochs": 25, "lr": 0.05, "batch_size": 16}


def elsewhere(model):
    """A place that holds nothing of the bit."""
    return {"a": At("resid_mid", layer=0, pos=-1, basis=torch.eye(model.d_model)[:3])}


def test_3_2_33_the_variable_goes_where_it_is_told_and_the_user_s_model_stays():
    model = build("or_gate").model
    data, place = planted_truth.bits(model), elsewhere(model)
    before, flags = shelf.tensors(model.anatomy), [p.requires_grad for p in model.hf.parameters()]
    assert interchange_accuracy(model, data, place).attrs["accuracy"] < 0.6
    trained, found = interchange_training(model, data, place, **BITS)
    assert found.attrs["accuracy"] == found.attrs["task_accuracy"] == 1.0
    assert interchange_accuracy(trained, data, place).attrs["accuracy"] == 1.0
    assert found.attrs["loss_curve"][-1] < 0.1 * found.attrs["loss_curve"][0] and "3.2.33" in found.attrs["entry"]
    assert trained.hf is not model.hf
    assert all(torch.equal(value, before[key]) for key, value in shelf.tensors(model.anatomy).items())
    assert [p.requires_grad for p in model.hf.parameters()] == flags and not any(
        p.grad is not None for p in model.hf.parameters()
    )
    task_only, score = interchange_training(model, data, place, weight=0.0, **BITS)
    assert score.attrs["task_accuracy"] == 1.0 and score.attrs["accuracy"] < 0.8


def test_3_2_33_a_random_model_with_grouped_heads_learns_the_task_and_the_place():
    """A tiny Llama says whether one of two tokens is 7; that of the first comes to lie in eight dimensions."""
    model = load(zoo.tiny("llama", torch.float32))
    bits = torch.tensor([[a, b, c, d] for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)])
    base, source = 7 - bits[:, :2] * 3, 7 - bits[:, 2:] * 3
    told = lambda first, second: (10 + ((first == 7) | (second == 7)).long()).tolist()  # noqa: E731
    end = torch.full((16, 1), 1)
    data = Interchanges.of(
        model,
        torch.cat([base, end], 1),
        torch.cat([source, end], 1),
        told(source[:, 0], base[:, 1]),
        told(base[:, 0], base[:, 1]),
    )
    place = {"variable": At("resid_post", layer=0, pos=-1, basis=torch.eye(model.d_model)[:8])}
    trained, found = interchange_training(model, data, place, held_out=data, epochs=60, lr=0.01, batch_size=16)
    assert found.attrs["accuracy"] == found.attrs["task_accuracy"] == 1.0 > found.attrs["accuracy_before"]


def test_a_model_under_edits_is_refused():
    model = build("or_gate").model
    data, place = planted_truth.bits(model, count=20), elsewhere(model)
    edited = model.edited(cb.Scale("resid_post", 0.5, layer=0))
    with pytest.raises(CasebackError, match="stands under edits"):
        interchange_training(edited, data, place, epochs=1)


def test_in_place_only_by_name_and_flags_are_put_back():
    model = build("or_gate").model
    data, place = planted_truth.bits(model, count=20), elsewhere(model)
    before = shelf.tensors(model.anatomy)
    model.hf.train()
    trained, found = interchange_training(model, data, place, in_place=True, epochs=1, lr=0.05)
    assert trained is model and found.attrs["in_place"] == 1 and model.hf.training
    assert not all(torch.equal(value, before[key]) for key, value in shelf.tensors(model.anatomy).items())
    assert not any(p.requires_grad or p.grad is not None for p in model.hf.parameters())
    model.hf.eval()


def test_gradients_go_through_base_and_source():
    """Of the interchanged answer alone, against finite differences of one weight at a time."""
    model, _ = planted_truth.gate()
    data, place = planted_truth.bits(model, count=6), {"a": At("resid_mid", layer=0, pos=-1, basis=torch.eye(9)[:3])}
    weight = model.hf.model.layers[0].self_attn.v_proj.weight
    with _trainable(model.hf):
        value = lambda: _loss(model, data, place, _targets(None, data), 0.0, 1.0)  # noqa: E731
        slope = torch.autograd.grad(value(), weight)[0]
        with torch.no_grad():
            for i, j in ((0, 0), (0, 4), (1, 7)):
                kept, told = weight[i, j].item(), []
                for step in (1e-5, -1e-5):
                    weight[i, j] = kept + step
                    told.append(float(value()))
                weight[i, j] = kept
                assert float(slope[i, j]) == pytest.approx((told[0] - told[1]) / 2e-5, abs=1e-7)
    assert slope.abs().max() > 1e-3


def test_3_2_33_a_proxy_imitates_its_teacher_with_and_without_the_swap():
    teacher = build("or_gate").model
    data, place = planted_truth.bits(teacher, count=50), elsewhere(teacher)
    proxy, found = interchange_training(teacher, data, place, teacher=teacher, **BITS)
    assert found.attrs["accuracy"] == found.attrs["task_accuracy"] == 1.0
    own = teacher.run(data.base).logits[:, -1].softmax(-1)
    assert (proxy.run(data.base).logits[:, -1].softmax(-1) - own).abs().max() < 0.1
    with pytest.raises(CasebackError, match="a teacher answers counterfactual prompts"):
        interchange_training(teacher, planted_truth.bits(teacher, "or"), {"or": place["a"]}, teacher=teacher)


def test_an_interrupted_training_goes_on(tmp_path):
    model = build("or_gate").model
    data, place, file = planted_truth.bits(model, count=20), elsewhere(model), tmp_path / "trained.safetensors"
    whole, _ = interchange_training(model, data, place, checkpoint=file, epochs=2, lr=0.05)
    again, _ = interchange_training(model, data, place, checkpoint=file, epochs=2, lr=0.05)
    ours = zip(whole.hf.parameters(), again.hf.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in ours)
    with pytest.raises(LoadError, match="belongs to another training"):
        interchange_training(model, data, place, checkpoint=file, epochs=2, lr=0.01)


def test_nothing_to_train_is_refused():
    model = build("or_gate").model
    with pytest.raises(CasebackError, match="no weight lies behind the logits"):
        interchange_training(model, planted_truth.bits(model), {"a": At("logits", pos=-1)})
    with pytest.raises(CasebackError, match="changes the answer"):
        interchange_training(model, planted_truth.bits(model, changing=0.0), elsewhere(model))
