"""Hooks of the user's own act in a run as in the plain model; whatever calls modules otherwise meets or refuses them."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError
from caseback.localize import inputs
from exact import exact

METRIC = cb.logit(3)


def at_the_end(module, args, output):
    """What a user's hook may do: depends on the position."""
    x = (output[0] if isinstance(output, tuple) else output).clone()
    x[:, -1] += 1.0
    return (x, *output[1:]) if isinstance(output, tuple) else x


def doubled(module, args, output):
    output.logits = output.logits * 2
    return output


PLACES = {
    "a layer": (lambda a: a.layers[1].layer, at_the_end),
    "inside a layer": (lambda a: a.layers[1].o, at_the_end),
    "the embedding": (lambda a: a.embed, at_the_end),
    "the final norm": (lambda a: a.final_norm, at_the_end),
    "the unembedding": (lambda a: a.unembed, at_the_end),
    "the model": (lambda a: a.hf, doubled),
}
MET = {"the embedding"}


@pytest.fixture(params=PLACES)
def hooked(request):
    model = shelf.model("llama")
    place, hook = PLACES[request.param]
    handle = place(model.anatomy).register_forward_hook(hook)
    try:
        yield request.param, model
    finally:
        handle.remove()


def variants(model):
    heads = [cb.Zero("z", layer=1, head=h) for h in range(model.n_heads)]
    return [*heads, *(cb.Zero("resid_post", layer=0, pos=p) for p in range(5))]


def plainly(model, edits=()):
    """The metric from transformers' own forward under the user's hooks, with a naive hook for the edit."""
    handles = [
        model.anatomy.layers[e.layer].o.register_forward_pre_hook(zero_head(e.head, model.d_head))
        if e.site == "z"
        else model.anatomy.layers[e.layer].layer.register_forward_hook(zero_position(e.pos))
        for e in edits
    ]
    try:
        with torch.no_grad():
            return float(model.hf(torch.tensor(shelf.ids((5,))), use_cache=False).logits[0, -1, 3])
    finally:
        for handle in handles:
            handle.remove()


def zero_head(head, width):
    def hook(_, args):
        x = args[0].clone()
        x[..., head * width : (head + 1) * width] = 0
        return (x, *args[1:])

    return hook


def zero_position(pos):
    def hook(_, args, output):
        x = (output[0] if isinstance(output, tuple) else output).clone()
        x[:, pos] = 0
        return (x, *output[1:]) if isinstance(output, tuple) else x

    return hook


def test_a_run_is_the_plain_models_under_the_users_hooks(hooked):
    _, model = hooked
    with exact():
        for edit in variants(model):
            assert float(METRIC(model.run(shelf.ids((5,)), edits=edit))) == pytest.approx(
                plainly(model, [edit]), abs=1e-9
            )


def test_a_sweep_meets_hooks_before_the_layers_and_refuses_the_others(hooked):
    place, model = hooked
    with exact():
        if place not in MET:
            with pytest.raises(CasebackError, match="hook of yours"):
                model.sweep(shelf.ids((5,)), variants(model), METRIC)
            return
        swept = model.sweep(shelf.ids((5,)), variants(model), METRIC).values[:, 0]
        for edit, value in zip(variants(model), swept, strict=True):
            assert value == pytest.approx(plainly(model, [edit]), abs=1e-9)


def test_a_gradient_is_that_of_the_hooked_model(hooked):
    _, model = hooked
    with exact():
        values = inputs.gradient_x_input(model, shelf.ids((5,)), METRIC).values[0].sum()
        ids = torch.tensor(shelf.ids((5,)))
        embed = model.anatomy.embed
        seen = {}

        def leaf(_, args, output):
            seen["x"] = output.detach().requires_grad_()
            return seen["x"]

        handle = embed.register_forward_hook(leaf)
        try:
            logits = model.hf(ids, use_cache=False).logits
        finally:
            handle.remove()
        (gradient,) = torch.autograd.grad(logits[0, -1, 3], seen["x"])
        assert float(values) == pytest.approx((gradient * seen["x"]).sum().item(), abs=1e-9)


def test_hooks_that_a_library_leaves_are_no_users():
    model = shelf.model("llama")
    with exact():
        before = model.sweep(shelf.ids((5,)), variants(model), METRIC).values
        model.hf(
            torch.tensor(shelf.ids((5,))), output_hidden_states=True
        )  # transformers records through hooks of its own
        assert (model.sweep(shelf.ids((5,)), variants(model), METRIC).values == before).all()
