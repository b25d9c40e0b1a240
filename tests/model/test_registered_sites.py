"""Registered sites: a toy one, a fixed rotation of a site, is read, edited, swept, patched and differentiated."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import EditError, UnknownSite
from caseback.localize.components import patch
from caseback.model.anatomy.registered_sites import bases, register_site, registered_site, remove_site
from caseback.model.anatomy.sites import SITES
from exact import exact


class Rotation:
    """Coordinates under a rotation; with ``rank`` only the first of them, so that decode cannot write all of x."""

    def __init__(self, width, rank=None, seed=0):
        generator = torch.Generator().manual_seed(seed)
        square = torch.randn(width, width, generator=generator, dtype=torch.float64)
        self.rows = torch.linalg.qr(square)[0][:rank]

    def encode(self, x):
        return x @ self.rows.T.to(x)

    def decode(self, coded):
        return coded @ self.rows.to(coded)


@pytest.fixture
def rotated(request):
    """A model of each family with the coordinates of its stream as a site, in every layer."""
    model = shelf.model(request.param)
    rotation = Rotation(model.d_model, rank=model.d_model // 2)
    with registered_site("rotated", "resid_post", dict.fromkeys(range(model.n_layers), rotation)):
        yield model, rotation


every = pytest.mark.parametrize("rotated", shelf.FEW, indirect=True)
METRIC = cb.logit_diff(5, 7)


@every
def test_it_is_read_and_changes_nothing(rotated):
    model, rotation = rotated
    tokens = model.tokens(shelf.ids((9, 6)))
    run = model.run(tokens, read=["rotated", "resid_post"])
    own = tokens.mask  # eager attention fills padding with NaN in some families
    expected = rotation.encode(run["resid_post"][:, own])
    torch.testing.assert_close(run["rotated"][:, own], expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(run.logits[own], model.run(tokens).logits[own])


@every
@pytest.mark.parametrize("padding", ["left", "right"])
def test_an_edit_of_it_is_the_edit_of_its_base(rotated, padding):
    model, rotation = rotated
    tokens = model.tokens(shelf.ids((9, 6)), padding=padding)
    directions = rotation.rows[[0, 3]]
    with exact():
        ours = model.run(tokens, edits=cb.Zero("rotated", layer=1, pos=[2, -1], unit=[0, 3])).logits
        by_hand = model.run(tokens, edits=cb.Project("resid_post", directions, layer=1, pos=[2, -1])).logits
        untouched = model.run(tokens).logits
    torch.testing.assert_close(ours, by_hand, rtol=1e-10, atol=1e-10)
    assert (ours - untouched).abs().max() > 1e-4


@every
def test_sweeps_of_it_are_single_runs(rotated):
    model, _ = rotated
    tokens = model.tokens(shelf.ids((9, 7)))
    source = model.run([[(t + 1) % model.d_vocab for t in row] for row in shelf.ids((9, 7))], read=["rotated"])
    variants = [cb.Zero("rotated", layer=layer, unit=2) for layer in range(model.n_layers)]
    variants += [cb.Resample("rotated", source, layer=layer, pos=p) for layer in range(model.n_layers) for p in (0, -1)]
    variants += [[cb.Zero("rotated", layer=0, pos=3), cb.Zero("z", layer=1)], cb.Scale("rotated", 2.0)]
    with exact():
        swept = model.sweep(tokens, variants, METRIC)
        alone = torch.stack([METRIC(model.run(tokens, edits=edits)) for edits in variants])
    torch.testing.assert_close(torch.tensor(swept.values), alone.double(), rtol=1e-10, atol=1e-10)


@every
def test_a_gradient_at_it_is_that_of_adding_to_it(rotated):
    model, _ = rotated
    tokens = model.tokens(shelf.ids((8,)))
    with exact():
        run = model.run(tokens, read=["rotated", "embed"], grad=True)
        gradient = run.grad(METRIC, ["rotated"])["rotated", 1]
        step = 1e-5
        moved = [
            METRIC(model.run(tokens, edits=cb.Add("rotated", sign * step, layer=1, pos=3, unit=2))) for sign in (1, -1)
        ]
        alone = model.run(tokens, read=["embed"], grad=True)
    slope = (moved[0] - moved[1]) / (2 * step)
    torch.testing.assert_close(gradient[0, 3, 2], slope[0], rtol=1e-5, atol=1e-8)
    assert torch.equal(run.grad(METRIC, ["embed"])["embed"], alone.grad(METRIC, ["embed"])["embed"])


@every
def test_generation_under_an_edit_of_it_is_that_under_the_edit_of_its_base(rotated):
    model, rotation = rotated
    prompts = shelf.ids((6, 4))
    with exact():  # without it padding is NaN in float64
        ours = model.generate(prompts, edits=cb.Zero("rotated", layer=1, unit=0), max_new_tokens=4)
        by_hand = model.generate(prompts, edits=cb.Project("resid_post", rotation.rows[:1], layer=1), max_new_tokens=4)
    assert torch.equal(ours.ids, by_hand.ids)


def test_patching_it_by_coordinate(request):
    model = shelf.model("llama")
    rotation = Rotation(model.d_model)
    clean, corrupt = shelf.ids((7,)), shelf.ids((7,), seed=1)
    with registered_site("rotated", "resid_post", {1: rotation}), exact():
        effects = patch(model, clean, corrupt, METRIC, site="rotated", by=("layer", "feature"), direction="noising")
        source = model.run(corrupt, read=["rotated"])
        one = METRIC(model.run(clean, edits=cb.Resample("rotated", source, layer=1, unit=4)))
        every_one = METRIC(model.run(clean, edits=cb.Resample("rotated", source, layer=1)))
        other = model.run(corrupt, read=["resid_post"])
        whole = METRIC(model.run(clean, edits=cb.Resample("resid_post", other, layer=1)))
    assert effects.sizes["feature"] == model.d_model and effects.layer.values.tolist() == [1]
    found = effects.patched if "patched" in effects else effects.clean + effects.effect
    assert float(found.sel(feature=4).squeeze()) == pytest.approx(float(one), abs=1e-9)
    torch.testing.assert_close(every_one, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", shelf.FEW)
def test_sites_can_be_computed_from_every_base(name):
    model = shelf.model(name)
    tokens = model.tokens(shelf.ids((7,)))
    for base in bases():
        if base in model.anatomy.lacks:
            continue
        site = shelf.middle(model.anatomy, base)
        width = model.run(tokens, read=[site])[site].shape[-1]
        with registered_site("coded", base, {site.layer: Rotation(width)}), exact():
            ours = model.run(tokens, edits=cb.Scale("coded", 0.5, layer=site.layer, pos=[1, 4]), read=["coded", base])
            by_hand = model.run(tokens, edits=cb.Scale(base, 0.5, layer=site.layer, pos=[1, 4]))
            swept = model.sweep(tokens, [cb.Scale("coded", 0.5, layer=site.layer, pos=[1, 4])], METRIC)
        torch.testing.assert_close(ours.logits, by_hand.logits, rtol=1e-9, atol=1e-9, msg=base)
        torch.testing.assert_close(torch.tensor(swept.values[0]), METRIC(by_hand).double(), rtol=1e-9, atol=1e-9)


def test_what_cannot_be_registered_is_refused():
    rotation = Rotation(8)
    for arguments, words in (
        (("z", "resid_post", {0: rotation}), "is a site already"),
        (("no name", "resid_post", {0: rotation}), "cannot name a site"),
        (("mine", "pattern", {0: rotation}), "no site can be computed from 'pattern'"),
        (("mine", "resid_pots", {0: rotation}), "Did you mean resid_post"),
        (("mine", "resid_post", {}), "has no layer"),
        (("mine", "resid_post", {0: torch.eye(8)}), "needs the methods encode and decode"),
    ):
        with pytest.raises(UnknownSite, match=words):
            register_site(*arguments)
    with pytest.raises(UnknownSite, match="not a registered site"):
        remove_site("z")
    assert not {"mine", "no name"} & set(SITES)


def test_a_layer_without_a_codec_has_no_such_site():
    model = shelf.model("gpt2")
    with registered_site("coded", "resid_post", {1: Rotation(model.d_model)}):
        assert [s.layer for s in model.anatomy.sites("coded")] == [1]
        with pytest.raises(UnknownSite, match="layer 0 of this model .* has no site 'coded'"):
            model.run([1, 2, 3], edits=cb.Zero("coded", layer=0))
    with pytest.raises(UnknownSite, match="no site is called 'coded'"):
        model.run([1, 2, 3], read=["coded"])


@pytest.mark.parametrize("name", shelf.FEW)
def test_a_modules_input_and_output_are_sites(name):
    model = shelf.model(name)
    tokens = model.tokens(shelf.ids((8, 6)))
    part = next(p for p in model.anatomy.layers[1:] if p.o is not None)
    path = next(n for n, module in model.hf.named_modules() if module is part.o)
    seen = {}
    handle = part.o.register_forward_hook(lambda _, args, out: seen.update(input=args[0], output=out))
    try:
        plain = model.run(tokens).logits
    finally:
        handle.remove()
    run = model.run(tokens, read=[f"{path}.input", f"{path}.output"])
    for end in ("input", "output"):
        assert torch.equal(run[f"{path}.{end}"].flatten(), seen[end].flatten())
    assert torch.equal(run.logits, plain)
    with exact():
        edits = [cb.Zero(f"{path}.input", pos=[1, -1]), cb.Scale(f"{path}.output", 0.5, pos=2, unit=[0, 1])]
        swept = model.sweep(tokens, [*edits, edits], METRIC)
        alone = torch.stack([METRIC(model.run(tokens, edits=e)) for e in [*edits, edits]])
        gradient = model.run(tokens, read=[f"{path}.output"], grad=True).grad(METRIC, [f"{path}.output"])
    torch.testing.assert_close(torch.tensor(swept.values), alone.double(), rtol=1e-10, atol=1e-10)
    assert gradient[f"{path}.output"].abs().max() > 0


def test_modules_that_are_not_there_or_not_one_vector_a_token_are_refused():
    model = shelf.model("gpt2")
    with pytest.raises(UnknownSite, match="no module 'transformer.h.1.atn'. Did you mean transformer.h.1.attn"):
        model.run([1, 2, 3], read=["transformer.h.1.atn.output"])
    with pytest.raises(EditError, match="is in no layer"):
        model.sweep([1, 2, 3], [cb.Zero("transformer.wte.output")], METRIC)
