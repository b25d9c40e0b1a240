"""Affine edits, edits of some prompts of a batch, and of what was given or generated."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import EditError, OutOfRange
from exact import exact

D = 32
TEXTS = [[5, 1, 2, 3], [4, 5, 1, 9, 7, 2], [8, 3]]


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def model():
    return shelf.model("gpt2")


def test_it_is_its_formula(model):
    read, write, center, offset = numbers(3, D), numbers(3, D, seed=1), numbers(D, seed=2), numbers(D, seed=3)
    with exact():
        clean = model.run(TEXTS[1], read=["resid_post"])["resid_post", 0]
        for parts, wanted in (
            ((read, write), clean + clean @ read.T @ write),
            ((read, write, center, offset), clean + (clean - center) @ read.T @ write + offset),
            ((numbers(D, D),), clean + clean @ numbers(D, D).T),
        ):
            edit = cb.Affine("resid_post", *parts, layer=0)
            after = model.run(TEXTS[1], edits=edit, read=["resid_post"])["resid_post", 0]
            assert torch.allclose(after, wanted, atol=1e-12)


def test_a_span_is_projected_out_as_project_does(model):
    q = torch.linalg.qr(numbers(D, 2))[0].T
    with exact():
        affine, project = cb.Affine("resid_post", q, -q, layer=1), cb.Project("resid_post", q, layer=1)
        assert torch.allclose(model.run(TEXTS, edits=affine).logits, model.run(TEXTS, edits=project).logits, atol=1e-12)


@pytest.mark.parametrize(
    "parts, words",
    [
        ((numbers(2, 7),), "read has 2 rows, expected 7|of width 7 at a site of width 32"),
        ((numbers(2, D),), "read has 2 rows, expected 32, or give write"),
        ((numbers(D),), "read is of 1 dimensions, expected 2"),
        ((numbers(2, D), numbers(3, D)), r"read is \(2, 32\) and write \(3, 32\)"),
        ((numbers(2, D), numbers(2, D), numbers(1, D)), "center is of 2 dimensions, expected 1"),
        ((numbers(2, D), numbers(2, D), None, numbers(5)), "offset is of width 5 at a site of width 32"),
        (("words",), "read is a str, expected a tensor of 2 dimensions"),
    ],
)
def test_what_does_not_fit_is_refused(model, parts, words):
    with pytest.raises(EditError, match=words):
        model.run(TEXTS, edits=cb.Affine("resid_post", *parts, layer=0))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_only_the_named_prompts_are_edited(name, side):
    model = shelf.model(name)
    with exact():
        tokens = model.tokens(TEXTS, padding=side)
        plain = [model.run(text).logits[0] for text in TEXTS]
        edit = cb.Scale("mlp_out", 3.0, layer=0)
        edited = [model.run(text, edits=edit).logits[0] for text in TEXTS]
        run = model.run(tokens, edits=cb.Scale("mlp_out", 3.0, layer=0, prompt=[0, -1]))
        for row, wanted in enumerate((edited[0], plain[1], edited[2])):
            assert torch.allclose(run.logits[row][tokens.mask[row]], wanted, atol=1e-10)


def test_a_prompt_that_is_not_there_is_refused(model):
    with pytest.raises(EditError, match="prompt 3 is out of range"):
        model.run(TEXTS, edits=cb.Zero("z", layer=0, prompt=3))
    with pytest.raises(EditError, match="prompt is 'first': expected"):
        cb.Zero("z", layer=0, prompt="first")  # pyright: ignore[reportArgumentType]


def test_positions_need_be_in_the_named_prompts_alone(model):
    edit = cb.Zero("mlp_out", layer=0, pos=5, prompt=1)
    with exact():
        alone = model.run(TEXTS[1], edits=cb.Zero("mlp_out", layer=0, pos=5)).logits[0]
        assert torch.allclose(model.run(TEXTS, edits=edit).logits[1], alone, atol=1e-10)
    with pytest.raises(OutOfRange, match="prompt 0 has 4 tokens"):
        model.run(TEXTS, edits=cb.Zero("mlp_out", layer=0, pos=5, prompt=[0, 1]))


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_the_given_and_the_generated_part_are_edited_apart(name):
    """Each step of cached decoding equals one pass over the whole text with the same positions edited."""
    model = shelf.model(name)
    value = numbers(model.d_model)
    with exact():
        for words in ("prompt", "generated"):
            whole, run = model.generate(
                TEXTS[:2], edits=cb.Add("resid_post", value, layer=0, pos=words), max_new_tokens=4, read=["resid_post"]
            )
            for row, text in enumerate(TEXTS[:2]):
                ids = whole.ids[row][whole.mask[row]][:-1]
                pos = slice(0, len(text)) if words == "prompt" else slice(len(text), None)
                edit = cb.Add("resid_post", value, layer=0, pos=pos)
                wanted = model.run(ids, edits=edit, read=["resid_post"])["resid_post"][:, 0]
                seen = run["resid_post"][:, row][:, run.tokens.mask[row]]
                assert torch.allclose(seen, wanted, atol=1e-10)


def test_words_for_positions_are_kept_in_words(model):
    assert cb.Zero("z", layer=0, pos="generated").describe() == "Zero z L0 pos generated"
    assert cb.Zero("z", layer=0, pos="prompt", prompt=2).describe() == "Zero z L0 pos prompt prompt 2"
    with pytest.raises(EditError, match="pos is 'answer'"):
        cb.Zero("z", layer=0, pos="answer")
