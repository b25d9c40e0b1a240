"""A model that changes after it was loaded: its parameters are read when they are used, other modules are noticed."""

import copy

import pytest
import torch
from torch import nn

import caseback as cb
import shelf
import zoo
from caseback.errors import AnatomyError
from caseback.localize import inputs
from exact import exact

METRIC = cb.logit(3)
IDS = shelf.ids((6,))


def fresh(name):
    return cb.load(zoo.tiny(name))


def answers(model):
    """What depends on every kind of parameter: gradients at heads' inputs, heads' writes, relevance, sweeps, weights."""
    scales = [site for site in ("attn_norm.scale", "final_norm.scale") if site not in model.anatomy.lacks]
    run = model.run(IDS, read=["q_in", "head_out", *scales], grad=True)
    head = cb.Zero("head_out", layer=0, head=1)
    return {
        "gradient": run.grad(METRIC, ["q_in"])["q_in", 1].detach(),
        "writes": run["head_out", 0].detach(),
        **{site: run[site].detach() for site in scales},
        "relevance": torch.tensor(inputs.attn_lrp(model, IDS, METRIC).values),
        "sweep": torch.tensor(model.sweep(IDS, [head], METRIC).values),
        "folded": model.weights.folded().W_Q[0] if model.anatomy.layers[0].attn_norm is not None else torch.zeros(()),
        "W_U": model.weights.W_U.clone(),
    }


def norms_tripled(hf):
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "norm" in name or ".ln_" in name:
                parameter.mul_(3.0)


def data_overwritten(hf):
    for parameter in hf.parameters():  # without a trace in torch's version counters
        parameter.data = parameter.data * 1.25


def one_step(hf):
    optimizer = torch.optim.SGD(hf.parameters(), lr=0.1)
    hf(torch.tensor(IDS), labels=torch.tensor(IDS)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("change", [norms_tripled, data_overwritten, one_step])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "olmo2"])
def test_changed_parameters_are_read_as_they_are(name, change):
    model = fresh(name)
    with exact():
        before = answers(model)
        change(model.hf)
        came, expected = answers(model), answers(cb.load(copy.deepcopy(model.hf)))
    assert not torch.allclose(before["gradient"], expected["gradient"])
    for what, value in expected.items():
        torch.testing.assert_close(came[what], value, rtol=1e-10, atol=1e-12, msg=what)


def test_a_resized_vocabulary_is_read_as_it_is_or_noticed():
    model = fresh("llama")
    model.hf.resize_token_embeddings(zoo.VOCAB + 5)
    try:
        came = model.run([[zoo.VOCAB + 2, 3]]).logits
    except AnatomyError as error:
        assert "load it again" in str(error)
        model = cb.load(model.hf)
        came = model.run([[zoo.VOCAB + 2, 3]]).logits
    with torch.no_grad():
        assert torch.equal(came, model.hf(torch.tensor([[zoo.VOCAB + 2, 3]]), use_cache=False).logits)
    assert model.d_vocab == zoo.VOCAB + 5


def replaced_head(hf):
    hf.lm_head = nn.Linear(hf.config.hidden_size, zoo.VOCAB, bias=False).to(hf.dtype)


def truncated(hf):
    hf.model.layers = hf.model.layers[:1]


def shortened_in_place(hf):
    del hf.model.layers[-1]


def replaced_inside(hf):
    old = hf.model.layers[0].self_attn.q_proj
    hf.model.layers[0].self_attn.q_proj = nn.Linear(old.in_features, old.out_features, bias=False).to(hf.dtype)


DOORS = {
    "run": lambda m: m.run(IDS),
    "sweep": lambda m: m.sweep(IDS, [cb.Zero("mlp_out", layer=0)], METRIC),
    "generate": lambda m: m.generate(IDS, max_new_tokens=2),
    "gradient": lambda m: inputs.gradient_x_input(m, IDS, METRIC),
    "weights": lambda m: m.weights.W_U,
    "edited": lambda m: m.edited(cb.Zero("mlp_out", layer=0)).run(IDS),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("change", [replaced_head, truncated, shortened_in_place, replaced_inside])
def test_other_modules_are_noticed_at_every_door(change, door):
    model = fresh("llama")
    change(model.hf)
    with pytest.raises(AnatomyError, match="changed since it was loaded.*load it again"):
        DOORS[door](model)
