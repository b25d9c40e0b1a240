"""Additions that keep lengths, turn or fade, against their formulas, in batches and in decoding."""

import math

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import EditError
from exact import exact

D = 32
TEXTS = [[5, 1, 2, 3], [4, 5, 1, 9, 7, 2], [8, 3]]


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def model():
    return shelf.model("llama")


def resid(model, prompts, *edits):
    with exact():
        return model.run(prompts, edits=edits, read=["resid_post"])["resid_post", 1]


def test_a_tilt_keeps_the_length_and_goes_where_the_sum_points(model):
    clean, value = resid(model, TEXTS[1]), numbers(D)
    tilted = resid(model, TEXTS[1], cb.Tilt("resid_post", value, layer=1))
    assert torch.allclose(tilted.norm(dim=-1), clean.norm(dim=-1), atol=1e-12)
    assert torch.allclose(torch.cosine_similarity(tilted, clean + value, dim=-1), torch.ones(1, 6).double(), atol=1e-12)
    assert torch.equal(resid(model, TEXTS[1], cb.Tilt("resid_post", 0.0 * value, layer=1)), clean)


def test_what_has_no_length_keeps_none(model):
    gone = resid(model, TEXTS[1], cb.Zero("resid_post", layer=1), cb.Tilt("resid_post", numbers(D), layer=1))
    assert torch.equal(gone, torch.zeros_like(gone))


def test_a_turn_stays_in_its_plane(model):
    clean, plane = resid(model, TEXTS[1]), numbers(2, D)
    q = torch.linalg.qr(plane.T)[0].T
    q = q * torch.sign((q * plane).sum(1, keepdim=True))  # the order and the signs of Gram and Schmidt
    for by in (False, True):
        turned = resid(model, TEXTS[1], cb.Rotate("resid_post", plane, 50.0, layer=1, by=by))
        assert torch.allclose(turned.norm(dim=-1), clean.norm(dim=-1), atol=1e-12)
        off = lambda x: x - x @ q.T @ q  # noqa: E731
        assert torch.allclose(off(turned), off(clean), atol=1e-12)
        now, then = (torch.atan2(*(x @ q.T).flip(-1).unbind(-1)) for x in (turned, clean))
        wanted = math.radians(50) + then if by else torch.full_like(now, math.radians(50))
        assert torch.allclose(torch.stack([now.cos(), now.sin()]), torch.stack([wanted.cos(), wanted.sin()]))
    assert torch.equal(resid(model, TEXTS[1], cb.Rotate("resid_post", plane, 0.0, layer=1, by=True)), clean)


def test_only_what_is_aligned_turns(model):
    clean, plane = resid(model, TEXTS), numbers(2, D)
    turned = resid(model, TEXTS, cb.Rotate("resid_post", plane, 90.0, layer=1, aligned=True))
    mask, moved = model.tokens(TEXTS).mask, (turned != clean).any(-1)
    assert torch.equal(moved[mask], (clean @ plane[0] > 0)[mask]) and moved[mask].any() and not moved[mask].all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_prompt_has_its_angle(model, side):
    tokens, plane, angles = model.tokens(TEXTS, padding=side), numbers(2, D), torch.tensor([10.0, 20.0, 30.0])
    together = resid(model, tokens, cb.Rotate("resid_post", plane, angles[:, None, None], layer=1, by=True))
    for row, angle in enumerate(angles.tolist()):
        alone = resid(model, TEXTS[row], cb.Rotate("resid_post", plane, angle, layer=1, by=True))[0]
        assert torch.allclose(together[row][tokens.mask[row]], alone, atol=1e-10)


@pytest.mark.parametrize("name", shelf.FEW)
def test_a_fading_value_is_counted_from_the_first_generated_token(name):
    model = shelf.model(name)
    value = numbers(model.d_model)
    with exact():
        edit = cb.Fade("resid_post", value, layer=0, pos="generated", decay=0.5)
        whole, run = model.generate(TEXTS[:2], edits=edit, max_new_tokens=4, read=["resid_post"])
        for row, text in enumerate(TEXTS[:2]):
            ids = whole.ids[row][whole.mask[row]][:-1]
            each = [cb.Add("resid_post", 0.5**t * value, layer=0, pos=len(text) + t) for t in range(3)]
            wanted = model.run(ids, edits=each, read=["resid_post"])["resid_post"][:, 0]
            assert torch.allclose(run["resid_post"][:, row][:, run.tokens.mask[row]], wanted, atol=1e-10)


@pytest.mark.parametrize(
    "edit, words",
    [
        (lambda: cb.Rotate("resid_post", numbers(1, D), 3.0), "no tensor of two vectors"),
        (lambda: cb.Rotate("resid_post", torch.ones(2, D), 3.0), "span no plane"),
        (lambda: cb.Rotate("resid_post", numbers(2, D) * torch.nan, 3.0), "span no plane"),
        (lambda: cb.Rotate("resid_post", numbers(2, 7), 3.0, layer=0), "plane is of width 7 at a site of width 32"),
        (lambda: cb.Rotate("resid_post", numbers(2, D), "far", layer=0), "angle is a str, expected degrees"),
        (lambda: cb.Fade("resid_post", numbers(D), decay=1.5), "decay is 1.5, expected a number from 0 to 1"),
        (lambda: cb.Tilt("resid_post", numbers(7), layer=0), "a value of shape"),
    ],
)
def test_what_does_not_fit_is_refused(model, edit, words):
    with pytest.raises(EditError, match=words):
        model.run(TEXTS, edits=edit())
