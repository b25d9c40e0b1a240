"""Prompts in any form become the same tokens; what cannot be run is refused in words."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import OutOfRange, TargetError, TokensError
from caseback.model.running.tokens import Tokens, _pad, one_token, piece, tokenize


@pytest.fixture(scope="module")
def stories(assets):
    return cb.load(assets / "models" / "stories260K")


class NoSpecial:
    """A tokenizer of single letters, so that what it is asked can be seen."""

    pad_token_id = bos_token_id = None
    unk_token_id = 0

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [ord(c) % 50 for c in text]}

    def decode(self, ids, **_):
        return chr(ids[0] + 50)

    def convert_ids_to_tokens(self, token):
        return chr(token + 50)

    def convert_tokens_to_ids(self, text):
        return 0


def test_ids_in_any_form_are_the_same_tokens():
    model = shelf.model("llama")
    row = [4, 8, 15, 16]
    forms = [row, [row], torch.tensor(row), torch.tensor([row]), [torch.tensor(row)], model.tokens(row), (tuple(row),)]
    for form in forms:
        tokens = model.tokens(form)
        assert tokens.ids.tolist() == [row] and tokens.mask.all() and tokens.text == [["4", "8", "15", "16"]]
        assert torch.equal(model.run(form).logits, model.run([row]).logits)
    assert torch.equal(model.tokens(tokens).ids, tokens.ids)
    assert len(model.tokens(torch.tensor([row, row]))) == 2


def test_text_is_what_the_tokenizer_makes_of_it(stories):
    text = "Lily went to the park"
    ids = stories.tokenizer(text)["input_ids"]
    tokens = stories.tokens(text)
    assert tokens.ids.tolist() == [ids]
    assert tokens.ids.tolist() == stories.tokens([text]).ids.tolist()
    assert "".join(tokens.text[0]).replace("<s>", "").strip() == text
    assert stories.text(tokens) == [text]


def test_a_beginning_of_text_token_is_asked_for_or_against(stories):
    bos = stories.tokenizer.bos_token_id
    without = stories.tokens("Lily went", bos=False).ids[0].tolist()
    with_one = stories.tokens("Lily went", bos=True).ids[0].tolist()
    assert bos not in without and with_one == [bos, *without]
    assert stories.tokens("Lily went").ids[0].tolist() == stories.tokenizer("Lily went")["input_ids"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_shorter_prompts_are_padded_on_the_side_asked_for(side):
    model = shelf.model("llama")
    tokens = model.tokens([[5, 6, 7], [8], [9, 10]], padding=side)
    assert tokens.lengths.tolist() == [3, 1, 2] and tokens.padded
    kept = [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
    assert kept == [[5, 6, 7], [8], [9, 10]]
    assert tokens.first.tolist() == ([0, 2, 1] if side == "left" else [0, 0, 0])
    assert tokens.position_ids[0].tolist() == [0, 1, 2]
    assert tokens.position_ids[1, tokens.column(0)[1]] == 0
    assert tokens.column(-1).tolist() == ([2, 2, 2] if side == "left" else [2, 0, 1])
    assert tokens[1].ids.shape == (1, 3) and tokens[:2].text == [["5", "6", "7"], ["8"]]
    other = tokens.padded_on("right" if side == "left" else "left")
    assert other.padded_on(side).ids.tolist() == tokens.ids.tolist()


def test_padding_is_the_tokenizers_own_where_the_vocabulary_has_it():
    class Padded(NoSpecial):
        pad_token_id = 7

    made = tokenize([[1, 2], [3]], Padded(), d_vocab=61, context=None)
    assert made.ids[1].tolist() == [3, 7]
    assert tokenize([[1, 2], [3]], Padded(), d_vocab=5, context=None).ids[1].tolist() == [3, 0]


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ([], "no prompt given: expected text, a list of texts, or token ids"),
        ([[1, 2], []], "prompt 1 is empty: expected at least one token"),
        (torch.zeros(1, 0, dtype=torch.long), "prompt 0 is empty"),
        ([1, 61], "prompt 0 has token id 61: expected 0 to 60"),
        ([[3], [4, -2]], "prompt 1 has token id -2: expected 0 to 60"),
        (list(range(60)) + list(range(5)), "prompt 0 has 65 tokens, the model's context is 64: shorten the prompt"),
        ("Hello", "this model has no tokenizer: give token ids, or load it with tokenizer="),
        ([1.5, 2.5], "neither text nor a list of token ids"),
        ([[0.5]], "prompt 0 is neither text nor a list of token ids"),
        ([[[1, 2]]], "prompt 0 is neither text nor a list of token ids"),
    ],
)
def test_a_prompt_that_cannot_be_run_is_refused(prompt, says):
    with pytest.raises(TokensError, match=says):
        shelf.model("llama").tokens(prompt)


def test_text_that_is_no_text_is_refused(stories):
    for empty in ("", "   \n"):
        with pytest.raises(TokensError, match=r"prompt 0 is empty \("):
            stories.tokens(empty)
    with pytest.raises(TokensError, match="prompt 1 is empty"):
        stories.tokens(["Lily", ""])
    with pytest.raises(TokensError, match="padding 'middle' is neither 'left' nor 'right'"):
        stories.tokens(["Lily", "a"], padding="middle")
    with pytest.raises(TokensError, match="the model's context is 512: shorten"):
        stories.tokens("Lily and Tom. " * 400)


def test_a_mask_must_be_that_of_padding():
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(TokensError, match="padding inside a prompt"):
        Tokens(ids, torch.tensor([[True, False, True, True]]), [["a"] * 3])
    with pytest.raises(TokensError, match="a prompt is empty"):
        Tokens(ids, torch.zeros(1, 4, dtype=torch.bool), [[]])
    with pytest.raises(TokensError, match=r"ids \(1, 4\) and mask \(4,\) must both be \(batch, pos\)"):
        Tokens(ids, torch.ones(4, dtype=torch.bool), [["a"] * 4])


def test_a_column_out_of_range_names_the_prompt():
    tokens = shelf.model("llama").tokens([[1, 2, 3], [4]])
    with pytest.raises(
        OutOfRange, match="position 1 is out of range: prompt 1 has 1 tokens, so positions go from -1 to 0"
    ):
        tokens.column(1)


def test_a_leading_space_is_named_where_the_word_is_one_token_with_it():
    meadow = cb.load("meadow")
    with pytest.raises(TargetError, match="choose a single token; did you mean ' gave', with its leading space"):
        meadow.token_id("gave")
    with pytest.raises(TargetError, match="choose a single token$"):
        meadow.token_id("zzzqq")


def test_a_target_is_one_token_or_refused_with_its_pieces(stories):
    token = stories.token_id(" Lily") if single(stories, " Lily") else stories.token_id("a")
    assert 0 <= token < stories.d_vocab
    with pytest.raises(TargetError) as caught:
        stories.token_id("elephantine")
    text = str(caught.value)
    assert text.startswith("target 'elephantine' is ") and " tokens, not one ('" in text
    assert text.endswith("choose a single token")  # " elephantine" would be refused too
    with pytest.raises(TargetError, match="foil ' elephantine' is .* choose a single token$"):
        stories.token_id(" elephantine", "foil")
    with pytest.raises(TargetError, match="target id 512 is outside the vocabulary: expected 0 to 511"):
        stories.token_id(512)


def single(model, word):
    try:
        model.token_id(word)
    except TargetError:
        return False
    return True


def test_targets_in_gpt2s_alphabet(assets):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(assets / "tokenizers" / "gpt2")
    assert one_token(tokenizer, " Mary", 50257) == tokenizer(" Mary")["input_ids"][0]
    assert piece(tokenizer, one_token(tokenizer, " Mary", 50257)) == " Mary"
    assert one_token(tokenizer, "Mary", 50257) != one_token(tokenizer, " Mary", 50257)
    with pytest.raises(TargetError, match=r"target ' Mary John' is 2 tokens, not one \(' Mary' \+ ' John'\)"):
        one_token(tokenizer, " Mary John", 50257)
    # Half of a character is shown as its bytes, neither as a replacement mark nor as letters that stand for them.
    halves = tokenizer(" 日")["input_ids"]
    shown = [piece(tokenizer, token) for token in halves]
    assert len(halves) > 1 and "".join(shown) == r" \xe6\x97\xa5"
    assert [one_token(tokenizer, text, 50257) for text in shown] == halves
    # whatever bytes an entry has, its text finds it again
    odd = [token for token in range(50257) if "\ufffd" in tokenizer.decode([token])]
    assert len(odd) > 200 and all(one_token(tokenizer, piece(tokenizer, token), 50257) == token for token in odd)


def test_leading_spaces_survive_in_sentencepiece(assets):
    model = cb.load(assets / "models" / "stories3M")
    tokens = model.tokens("Tom gave the ball")
    assert [t for t in tokens.text[0] if t.strip("<s>/")][1:] == [" gave", " the", " ball"]
    assert model.token_text(model.token_id(" the")) == " the"
    assert model.token_id(" the") in tokens.ids[0].tolist()


def test_ids_of_the_host_outlive_the_memory_of_the_tensor():
    """Sending a tensor to another process moves its storage; what was read from it before must not move."""
    tokens = _pad([torch.arange(5), torch.arange(3)], [[""] * 5, [""] * 3], "right", 0)
    before = [row.tolist() for row in tokens.host_ids]
    tokens.ids.share_memory_()
    filler = [torch.full((10,), -1) for _ in range(64)]
    assert [row.tolist() for row in tokens.host_ids] == before == [[0, 1, 2, 3, 4], [0, 1, 2]]
    assert len(filler) == 64


def test_prompts_are_taken_by_number_list_mask_or_slice():
    tokens = shelf.model("llama").tokens([[1, 2, 3], [4], [5, 6]])
    for index, rows in (
        (1, [1]),
        (-1, [2]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2, 0, 2], [2, 0, 2]),
        (range(2), [0, 1]),
        (torch.tensor([1, 1]), [1, 1]),
        (torch.tensor([True, False, True]), [0, 2]),
    ):
        some = tokens[index]
        assert torch.equal(some.ids, tokens.ids[rows]) and torch.equal(some.mask, tokens.mask[rows])
        assert some.text == [tokens.text[row] for row in rows]
    with pytest.raises(IndexError):
        tokens[3]
