"""An independent oracle: the activations that gpt-nano-sort's author recorded in another framework."""

import pytest
import torch
from safetensors.torch import load_file

import caseback as cb


@pytest.fixture(scope="module")
def sorter(assets):
    folder = assets / "models" / "gpt-nano-sort"
    return cb.load(folder), load_file(folder / "reference_activations.safetensors")


def pairs(run, reference):
    """Every recorded activation with ours: layers, then (batch, pos, head, d) as theirs are (batch, head, pos, d)."""
    heads = lambda x: x.transpose(1, 2)  # noqa: E731
    yield "tok_emb", run["embed"], reference["tok_emb"]
    yield "pos_emb", run["pos_embed"], reference["pos_emb"].expand_as(run["pos_embed"])
    yield "x", run["resid_pre", 0], reference["x"]
    for name, site in (("q", "q"), ("k", "k"), ("v", "v")):
        yield name, run[site, 0], heads(reference[name])
    seen = torch.ones(11, 11).tril().bool()
    yield "att", run["scores", 0][..., seen], reference["att"][..., seen]
    yield "attSm", run["pattern", 0], reference["attSm"]
    yield "y", run["z", 0].flatten(2), reference["y"]
    yield "yProj", run["attn_out", 0], reference["yProj"]
    yield "attnResid", run["resid_mid", 0], reference["attnResid"]
    yield "ln1", run["attn_norm", 0], reference["ln1"]
    yield "ln2", run["mlp_norm", 0], reference["ln2"]
    yield "fc", run["mlp_pre", 0], reference["fc"]
    yield "gelu", run["mlp_post", 0], reference["gelu"]
    yield "mlp", run["mlp_out", 0], reference["mlp"]
    yield "mlpResid", run["resid_post", 0], reference["mlpResid"]
    for layer in range(3):
        yield f"block{layer}", run["resid_post", layer], reference[f"block{layer}"]
    yield "ln_f", run["final_norm"], reference["ln_f"]
    yield "lm_head", run.logits, reference["lm_head"]
    yield "probs", run.logits.softmax(-1), reference["probs"]


def test_every_recorded_activation_is_reproduced(sorter):
    model, reference = sorter
    names = [n for n in cb.model.anatomy.sites.SITES if n not in model.anatomy.lacks]
    run = model.run(reference["idx"].long(), read=names)
    compared = set()
    for name, ours, theirs in pairs(run, reference):
        assert ours.shape == theirs.shape, name
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        compared.add(name)
    assert compared | {"idx", "qkv"} == set(reference)


def test_the_heads_writes_sum_to_the_recorded_projection(sorter):
    model, reference = sorter
    run = model.run(reference["idx"].long(), read=["head_out"])
    bias = model.anatomy.layers[0].o.bias.detach()
    torch.testing.assert_close(run["head_out", 0].sum(2) + bias, reference["yProj"], rtol=1e-5, atol=1e-5)


def test_an_edit_with_recorded_values_gives_the_recorded_logits(sorter):
    """Put the author's own activations in at a site: the rest of the model makes the author's logits of them."""
    model, reference = sorter
    other = (reference["idx"].long() + 1) % 3
    for site, value in (("resid_post", reference["block1"]), ("resid_pre", reference["block1"])):
        layer = 1 if site == "resid_post" else 2
        edited = model.run(other, edits=cb.Replace(site, value, layer=layer))
        torch.testing.assert_close(edited.logits, reference["lm_head"], rtol=1e-4, atol=1e-4)


def test_it_sorts(sorter):
    model, _ = sorter
    made = model.generate([[2, 0, 1, 1, 0, 2]], max_new_tokens=5)
    first = int(model.run([[2, 0, 1, 1, 0, 2]]).logits[0, -1].argmax())
    assert made.ids[0, 6:].tolist()[0] == first == 0
    whole = model.generate([[2, 0, 1, 1, 0, 2]], max_new_tokens=5).ids[0].tolist()
    assert whole[6:] == [0, 0, 1, 1, 2]
