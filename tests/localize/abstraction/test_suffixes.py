"""A search's gradients: of the suffix alone, to the directions alone, and the same as those of whole runs."""

import pytest
import torch
from test_interchange_accuracy import examples, prompts

import shelf
from caseback.localize.abstraction import At, das
from caseback.localize.abstraction.alignment import seats
from caseback.localize.abstraction.suffixes import Suffixes, Unreachable
from caseback.model.algebra.rotation import random_rows
from exact import exact

PLACES = {
    "gpt2": (At("resid_post", 0), At("pos_embed", pos=1, source_pos=0), At("mlp_post", 1, pos=-1)),
    "llama": (At("z", 0, head=2, pos=[0, 2]), At("k", 1, head=0), At("v", 0), At("embed", pos=[0, 1])),
    "gptj": (At("resid_pre", 1, pos=0), At("mlp_out", 0)),
    "gpt_neox": (At("attn_out", 1, pos=-1), At("q", 1, head=1, pos=-1)),
    "gemma2": (At("resid_mid", 1, pos=-1), At("head_out", 0, head=1)),
    "mixtral": (At("resid_post", 0, pos=2),),
    "mpt": (At("resid_post", 0),),
}


def whole(model, data, found, rows):
    """Log probabilities of the targets by a run from the start, with a graph."""
    run = model.run(data.base, edits=[e for seat in found for e in seat.edits(rows)], grad=True)
    logits = run.logits[torch.arange(len(data)), data.base.column(-1)]
    return logits.log_softmax(-1)[torch.arange(len(data)), data.target]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_values_and_gradients_are_those_of_whole_runs(name, side):
    model = shelf.model(name)
    before = shelf.tensors(model.anatomy)
    pair = [model.tokens(prompts(seed), padding=side) for seed in (0, 9)]
    data = examples(model, *pair)
    for at in PLACES[name]:
        with exact():
            found = seats(model, data, {"variable": at})
            rows = random_rows(2, found[0].width, 1).requires_grad_()
            told = whole(model, data, found, rows)
            slope = torch.autograd.grad(told.sum(), rows)[0]
            assert slope.abs().max() > 1e-6
            for memory in (0, 2**30):
                suffixes = Suffixes(model, data, found, memory=memory)
                assert (suffixes.clean is None) == (memory == 0)
                order = torch.tensor([2, 0, 1])
                got = suffixes.log_probs(order, lambda seat, rows=rows: seat.edits(rows))
                assert torch.allclose(got, told[order], atol=1e-10)
                assert torch.allclose(torch.autograd.grad(got.sum(), rows)[0], slope, atol=1e-9)
    assert all(torch.equal(value, before[key]) for key, value in shelf.tensors(model.anatomy).items())
    assert all(p.grad is None for p in model.hf.parameters())


def test_layers_before_the_place_are_not_run_again(monkeypatch):
    model = shelf.model("gpt2")
    data = examples(model, prompts(), prompts(9))
    found = seats(model, data, {"variable": At("resid_post", 0)})
    suffixes = Suffixes(model, data, found)
    calls = []
    handles = [
        p.layer.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, p in enumerate(model.anatomy.layers)
    ]
    rows = random_rows(1, model.d_model, 0).requires_grad_()
    try:
        suffixes.log_probs(torch.arange(3), lambda seat: seat.edits(rows)).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    assert 0 not in calls and set(calls) == set(range(1, model.n_layers))
    assert all(x.numel() == 0 for x in suffixes.clean.k[:1]) and suffixes.clean.k[1].numel() > 0


def test_places_that_reach_no_answer_are_refused():
    model = shelf.model("gpt2")
    data = examples(model, prompts(), prompts(9), pos=1)
    with pytest.raises(Unreachable, match="lies behind the position whose answer is measured"):
        Suffixes(model, data, seats(model, data, {"variable": At("resid_post", 0, pos=2)}))
    data = examples(model, prompts(), prompts(9))
    last = Suffixes(model, data, seats(model, data, {"variable": At("resid_post", model.n_layers - 1, pos=0)}))
    rows = random_rows(1, model.d_model, 0).requires_grad_()
    slope = torch.autograd.grad(last.log_probs(torch.arange(3), lambda seat: seat.edits(rows)).sum(), rows)[0]
    assert not slope.any()
    late = Suffixes(model, data, seats(model, data, {"variable": At("mlp_out", model.n_layers - 1, pos=0)}))
    with pytest.raises(Unreachable, match=f"swapped at mlp_out L{model.n_layers - 1} pos 0 changes the answer"):
        late.log_probs(torch.arange(3), lambda seat: seat.edits(rows))
    for at in (At("resid_post", model.n_layers - 1, pos=0), At("mlp_out", model.n_layers - 1, pos=0)):
        with pytest.raises(Unreachable, match="changes the answer: no later layer reads that position"):
            das(model, data, at, held_out=data, epochs=1)
