"""What people give as numbers, prompts and tokens is coerced to what it plainly means, or refused: never read as else."""

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

import caseback as cb
import shelf
from caseback.errors import CasebackError, EditError, TargetError, TokensError, UnknownSite

PROMPTS = [[5, 1, 2, 3], [4, 5, 1, 9, 7, 2]]


@pytest.fixture(scope="module")
def model():
    return shelf.model("gpt2")


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


# what each means, and the ways to say it
SAME = {
    1: [np.int64(1), np.array(1), torch.tensor(1), np.uint8(1)],
    (0, 1): [np.array([0, 1]), torch.tensor([0, 1]), range(2), (0, 1), [np.int64(0), torch.tensor(1)], slice(0, 2)],
}
WAYS = [(list(meant) if isinstance(meant, tuple) else meant, way) for meant, ways in SAME.items() for way in ways]


@pytest.mark.parametrize("part", ["layer", "head", "unit", "pos"])
@pytest.mark.parametrize(("meant", "way"), WAYS, ids=lambda value: f"{type(value).__name__} {value}")
def test_an_address_in_any_form_is_that_address(part, meant, way, model):
    rest = {"layer": 1, "head": 1} | {part: None}
    expected = model.run(PROMPTS, edits=cb.Zero("z", **{**rest, part: meant})).logits
    found = model.run(PROMPTS, edits=cb.Zero("z", **{**rest, part: way})).logits
    if part == "pos" and isinstance(way, torch.Tensor) and way.ndim:  # positions as a tensor are one per prompt
        each = [model.run(PROMPTS, edits=cb.Zero("z", **{**rest, part: p})).logits[i] for i, p in enumerate(meant)]
        expected = torch.stack(each)
    assert torch.equal(found, expected)


STRANGE = [True, [True, False, False, True], np.array([True, False]), torch.tensor([False, True]), 1.5, [0.5, 1.0]]
STRANGE += ["1", b"1", 1j, np.float32(1), {"a": 1}, [None], slice(0.5, 2), slice(0, "2")]


@pytest.mark.parametrize("part", ["layer", "head", "unit", "pos"])
@pytest.mark.parametrize("value", STRANGE, ids=lambda value: f"{type(value).__name__} {value}"[:30])
def test_what_is_not_an_address_is_refused(part, value):
    with pytest.raises(EditError, match=part):
        cb.Zero("z", **{part: value})


@pytest.mark.parametrize("layer", [1.5, "1", True, None.__class__])
def test_a_site_has_a_whole_layer(layer, model):
    with pytest.raises(UnknownSite, match="layer"):
        model.run(PROMPTS, read=[("z", layer)])


VALUES = [
    lambda: cb.Replace("z", None),
    lambda: cb.Add("z", "1"),
    lambda: cb.Scale("z", True),
    lambda: cb.Replace("z", 1j),
    lambda: cb.Add("z", torch.ones(8, dtype=torch.bool)),
    lambda: cb.Project("z", None),
    lambda: cb.Project("z", 1.0),
    lambda: cb.Noise("embed", "x"),
    lambda: cb.Mean("z", "a"),
    lambda: cb.Resample("z", None),
    lambda: cb.Swap("z", torch.ones(8), None),
    lambda: cb.Freeze("z", "a"),
]


@pytest.mark.parametrize("make", VALUES)
def test_what_is_not_a_value_is_refused(make):
    with pytest.raises(EditError, match="expected"):
        make()


def test_a_value_may_be_an_array_or_a_list(model):
    ones = torch.ones(32, dtype=torch.float64)
    for value in (np.ones(32), [1.0] * 32, (1,) * 32):
        for edit in (cb.Add, cb.Replace, cb.Project):
            same, way = (
                model.run(PROMPTS, edits=edit("resid_post", v, layer=1)).logits
                for v in (ones if edit is not cb.Project else ones[None], value)
            )
            assert torch.equal(same, way)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("form", ["pt", "np", None])
def test_what_a_tokenizer_returns_is_its_prompts(side, form, meadow):
    texts = ["the cat", "Mary and John went to the store"]
    tokenizer = meadow.tokenizer
    rows = [tokenizer(text)["input_ids"] for text in texts]
    width = max(map(len, rows))
    pad = lambda row, fill: row + [fill] * (width - len(row)) if side == "right" else [fill] * (width - len(row)) + row  # noqa: E731
    encoded = {"input_ids": [pad(row, 0) for row in rows], "attention_mask": [pad([1] * len(row), 0) for row in rows]}
    encoded = BatchEncoding(encoded, tensor_type=form)
    logits = meadow.run(encoded).logits
    for row, text in enumerate(texts):
        with torch.no_grad():
            alone = meadow.hf(torch.tensor([rows[row]])).logits[0]
        torch.testing.assert_close(logits[row, : len(rows[row])], alone, rtol=0, atol=1e-4)
        assert "".join(meadow.tokens(encoded).text[row]) == "".join(meadow.tokens(text).text[0])
    assert torch.equal(meadow.run({"input_ids": rows[0]}).logits, meadow.run(texts[0]).logits)


def test_a_mask_of_numbers_is_a_mask(model):
    ids = torch.tensor([[5, 1, 2, 0], [4, 5, 1, 9]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    tokens = cb.Tokens(ids, mask, [["a"] * 3, ["b"] * 4])
    expected = model.run([[5, 1, 2], [4, 5, 1, 9]]).logits
    assert torch.equal(model.run(tokens).logits[1], expected[1])
    assert torch.equal(model.run(tokens).logits[0, :3], expected[0, :3])
    with pytest.raises(TokensError, match="other numbers than 0 and 1"):
        cb.Tokens(ids, mask * 2, tokens.text)
    with pytest.raises(TokensError, match="whole numbers"):
        cb.Tokens(ids.float(), mask, tokens.text)


def test_arrays_and_single_numbers_are_ids(model):
    expected = model.run([[5, 1, 2]]).logits
    for way in (np.array([5, 1, 2]), np.array([[5, 1, 2]]), [np.int64(5), 1, 2], [torch.tensor(5), 1, 2], (5, 1, 2)):
        assert torch.equal(model.run(way).logits, expected)


NO_PROMPTS = [None, 5, 1.5, b"hello", [None], [b"a"], {"a": 1}, [[1.0, 2.0]], [[True, False]], np.array([1j])]
NO_PROMPTS += [torch.ones(2, 2, 2, dtype=torch.long), [[1, "a"]], [{"content": "hi"}], [[[1]]]]


@pytest.mark.parametrize("given", NO_PROMPTS, ids=lambda value: f"{type(value).__name__} {value}"[:30])
def test_what_is_not_a_prompt_is_refused(given, meadow):
    with pytest.raises(TokensError):
        meadow.tokens(given)


TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def test_a_conversation_is_what_the_template_writes(meadow, monkeypatch):
    monkeypatch.setattr(meadow.tokenizer, "chat_template", TEMPLATE, raising=False)
    ask = [{"role": "user", "content": "the cat"}]
    told = [*ask, {"role": "assistant", "content": "the dog"}]
    tokens = meadow.tokens([ask, told])
    for row, text in enumerate(("<user> the cat <assistant>", "<user> the cat <assistant> the dog ")):
        assert (
            tokens.ids[row][tokens.mask[row]].tolist() == meadow.tokenizer(text, add_special_tokens=False)["input_ids"]
        )
    assert torch.equal(meadow.tokens(ask).ids, meadow.tokens([ask]).ids)
    monkeypatch.setattr(meadow.tokenizer, "chat_template", "{{ raise_exception('no') }}")
    with pytest.raises(TokensError, match="refuses this conversation"):
        meadow.tokens(ask)
    monkeypatch.setattr(meadow.tokenizer, "chat_template", None)
    with pytest.raises(TokensError, match="no chat template"):
        meadow.tokens(ask)


@pytest.mark.parametrize(
    "metric", [cb.logit, cb.prob, cb.log_prob, lambda t: cb.logit_diff(t, 9), lambda t: cb.prob_diff(t, [9])]
)
def test_a_token_in_any_form_is_that_token(metric, model):
    run = model.run(PROMPTS)
    one, two = metric(3)(run), metric([3, 4])(run)
    for way in (np.int64(3), np.array(3), torch.tensor(3)):
        assert torch.equal(metric(way)(run), one)
    for way in (np.array([3, 4]), torch.tensor([3, 4]), (3, np.int64(4))):
        assert torch.equal(metric(way)(run), two)


@pytest.mark.parametrize(
    "metric", [cb.logit, cb.prob, cb.log_prob, lambda t: cb.logit_diff(t, 9), lambda t: cb.prob_diff([t], [9])]
)
@pytest.mark.parametrize(
    "token", [None, 3.0, True, b"a", [1.5, 2.0], [None, 1], np.array([1.0, 2.0]), {"a": 1}], ids=str
)
def test_what_is_not_a_token_is_refused(metric, token, model):
    with pytest.raises(TargetError):
        metric(token)(model.run(PROMPTS))


@pytest.mark.parametrize("pos", [1.5, True, "1", [True, False], 1j])
def test_a_metrics_position_is_a_whole_number(pos, model):
    with pytest.raises(CasebackError):
        cb.logit(3, pos=pos)(model.run(PROMPTS))


def test_keys_may_be_a_slice(model):
    expected = model.run(PROMPTS, edits=cb.Knockout(layer=1, query=-1, key=[0, 1])).logits
    for keys in (slice(0, 2), slice(2), np.array([0, 1])):
        assert torch.equal(model.run(PROMPTS, edits=cb.Knockout(layer=1, query=-1, key=keys)).logits, expected)
