"""Families whose writes do not simply add up: everything but splitting is as in plain transformers, splitting is refused."""

import pytest
import torch

import caseback as cb
import shelf
import zoo
from caseback.errors import SiteAbsent
from caseback.model.algebra.decompose import logit_parts, stream_parts
from caseback.model.graph.graph import Graph
from exact import exact

HEAD = 1


def hooked(hf, ids, *handles):
    """Logits of plain transformers under hooks written by hand."""
    try:
        with torch.no_grad():
            return hf(ids).logits
    finally:
        for handle in handles:
            handle.remove()


def one(output):
    return output[0] if isinstance(output, tuple | list) else output


def rest(output, new):
    return type(output)([new, *output[1:]]) if isinstance(output, tuple | list) else new


def prompt(name, length=9):
    """Ids that are no padding token."""
    return torch.tensor(shelf.ids((length,), seed=3)).clamp_min(4)


@pytest.mark.parametrize("name", shelf.JOINED)
def test_logits_and_streams_are_those_of_transformers(name):
    hf, ids = shelf.model(name).hf, prompt(name)
    with torch.no_grad():
        plain = hf(ids, output_hidden_states=True)
    run = shelf.model(name).run(
        ids, read=[*shelf.readable(shelf.model(name).anatomy)[:4], "pattern", "resid_pre", "resid_post"]
    )
    assert torch.equal(run.logits, plain.logits)
    for layer in range(3):
        torch.testing.assert_close(run["resid_pre", layer], plain.hidden_states[layer], rtol=0, atol=0)


@pytest.mark.parametrize("name", shelf.JOINED)
def test_edits_are_hooks_written_by_hand(name):
    model, ids = shelf.model(name), prompt(name)
    hf, p = model.hf, model.anatomy.layers[1]
    width = p.d_z
    change = torch.linspace(-1, 1, model.d_model, dtype=hf.dtype)

    def without_head(module, args):
        z = args[0].clone()
        z[..., HEAD * width : (HEAD + 1) * width] = 0
        return (z, *args[1:])

    def shifted(module, args, output):
        return rest(output, one(output) + change)

    site = model.anatomy.head_site
    if site == "z":
        by_hand = hooked(hf, ids, p.o.register_forward_pre_hook(without_head))
        torch.testing.assert_close(model.run(ids, edits=cb.Zero("z", layer=1, head=HEAD)).logits, by_hand)
    by_hand = hooked(hf, ids, p.layer.register_forward_hook(shifted))
    edited = model.run(ids, edits=cb.Add("resid_post", change, layer=1)).logits
    torch.testing.assert_close(edited, by_hand)
    assert not torch.allclose(by_hand, model.run(ids).logits)
    if p.attn_post_norm is None:
        by_hand = hooked(hf, ids, p.o.register_forward_hook(shifted))
        torch.testing.assert_close(model.run(ids, edits=cb.Add("attn_out", change, layer=1)).logits, by_hand)
        by_hand = hooked(hf, ids, p.w_out.register_forward_hook(shifted))
        torch.testing.assert_close(model.run(ids, edits=cb.Add("mlp_out", change, layer=1)).logits, by_hand)


@pytest.mark.parametrize("name", shelf.JOINED)
def test_a_sweep_is_as_many_runs(name):
    model, ids = shelf.model(name), prompt(name)
    site = model.anatomy.head_site
    variants = [cb.Zero(site, layer=layer, head=h) for layer in range(3) for h in range(2)]
    variants += [cb.Scale("mlp_out", 0.5, layer=2, pos=4), cb.Add("resid_mid", 0.3, layer=1, pos=-1)]
    variants += [cb.Scale("resid_pre", 1.5, layer=0, pos=3), cb.Scale("pattern", 0.5, layer=1, head=0)]
    metric = cb.logit_diff(5, 7)
    with exact():
        swept = torch.tensor(model.sweep(ids, variants, metric).values)[:, 0]
        runs = torch.stack([metric(model.run(ids, edits=edit))[0] for edit in variants])
    torch.testing.assert_close(swept, runs.to(swept), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", shelf.JOINED)
def test_gradients_are_autograds(name):
    model, ids = shelf.model(name), prompt(name)
    hf, seen = model.hf, {}

    def leaf(module, args, kwargs):
        x = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        seen["x"] = x
        return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})

    handle = model.anatomy.layers[1].layer.register_forward_pre_hook(leaf, with_kwargs=True)
    with torch.enable_grad():
        logits = hf(ids).logits
    handle.remove()
    expected = torch.autograd.grad(logits[0, -1, 5] - logits[0, -1, 7], seen["x"])[0]
    ours = model.run(ids, read=["resid_pre"], grad=True).grad(cb.logit_diff(5, 7), [("resid_pre", 1)])["resid_pre", 1]
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", shelf.JOINED)
def test_padding_changes_nothing(name):
    model = cb.load(zoo.tiny(name, dtype=torch.float32))  # transformers' own windows give NaN in float64
    long, short = prompt(name, 9)[0].tolist(), prompt(name, 5)[0].tolist()
    alone = model.run([short]).logits[0]
    for side in ("right", "left"):
        tokens = model.tokens([long, short], padding=side)
        together = model.run(tokens).logits[1][tokens.mask[1]]
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", shelf.JOINED)
def test_generating_is_transformers_own(name):
    model, ids = shelf.model(name), prompt(name)
    with torch.no_grad():
        plain = model.hf.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(model.generate(ids, max_new_tokens=4, eos_token_id=None, pad_token_id=0).ids, plain)


@pytest.mark.parametrize("name", shelf.JOINED)
def test_what_splits_a_prediction_is_refused_with_the_reason(name):
    model, ids = shelf.model(name), prompt(name)
    doors = {
        "stream_parts": lambda: stream_parts(model, ids),
        "logit_parts": lambda: logit_parts(model, ids, 5),
        "graph": lambda: Graph.of(model.anatomy),
        "folded": lambda: model.weights.folded(),
        "direct effects": lambda: cb.localize.components.logit_attribution(model, ids, cb.logit(5)),
        "eap": lambda: cb.localize.circuits.edge_attribution(model, ids, ids, cb.logit(5)),
    }
    for what, door in doors.items():
        with pytest.raises(SiteAbsent, match="is not defined for models of type .*: "):
            door()
            pytest.fail(what)


def test_the_context_ends_where_the_positions_do():
    model = shelf.model("roberta")
    assert model.context == model.hf.config.max_position_embeddings - 2
    longest = torch.full((1, model.context), 5)
    with torch.no_grad():
        assert torch.equal(model.run(longest).logits, model.hf(longest).logits)
    with pytest.raises((IndexError, RuntimeError)), torch.no_grad():
        model.hf(torch.full((1, model.context + 1), 5))


def test_values_that_are_rotated_are_refused():
    with pytest.raises(cb.errors.AnatomyError, match="it rotates values by their position"):
        cb.load(zoo.tiny("roformer_rotated_values"))


def test_joins_are_verified(monkeypatch):
    """A declaration that adds where the model normalizes is found out."""
    from caseback.model.anatomy.anatomy import Anatomy
    from caseback.model.running.verify import verify

    model = shelf.model("bert")
    with pytest.raises(cb.errors.AnatomyError, match="resid_mid, layer 0' is off"):
        verify(Anatomy(zoo.tiny("bert"), model.anatomy.family.but(joins=None)))
    with pytest.raises(cb.errors.AnatomyError, match="logits = unembedding"):
        verify(Anatomy(zoo.tiny("bert"), model.anatomy.family.but(readout=None)))
