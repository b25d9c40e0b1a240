"""Tasks about numbers fit tokenizers that cut them: expected tokens are those that the tokenizer itself makes."""

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from caseback.tasks import get


@pytest.fixture(scope="module")
def triples():
    """Words, spaces, signs, and numbers of one to three digits, as Llama 3 cuts them."""
    words = "The lasted from the year to sum difference of and is plus minus".split()
    nouns = [noun for noun in get("greater_than").fillers["nouns"]]
    numbers = [str(n) for n in range(1000)] + [f"{n:02}" for n in range(100)] + [f"{n:03}" for n in range(1000)]
    pieces = ["<unk>", " ", "+", "-", "=", ",", *words, *(f" {w}" for w in [*words, *nouns]), *nouns, *numbers]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, " +", " -", " =", "war"]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?[^\s\p{N}]+|\s"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<unk>")


@pytest.fixture(scope="module")
def digits(assets):
    """SmolLM2's, which cuts numbers into digits."""
    return AutoTokenizer.from_pretrained(assets / "models" / "smollm2-135m")


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def answers_follow(tokenizer, prompts):
    """The prompt's own tokens and one of an answer are what the tokenizer makes of both together."""
    for b, pair in enumerate(prompts.pairs):
        for answer, token in zip(pair.target, prompts.target[b], strict=True):
            row = prompts.clean.ids[b][prompts.clean.mask[b]].tolist()
            assert ids(tokenizer, pair.clean.text + answer)[: len(row) + 1] == [*row, token]


@pytest.mark.parametrize("kind", ["digits", "triples"])
def test_greater_than_asks_for_the_decade(kind, request):
    tokenizer = request.getfixturevalue(kind)
    prompts = get("greater_than").prompts(tokenizer, 20, bos=False)
    answers_follow(tokenizer, prompts)
    for pair in prompts.pairs:
        year = pair.clean.text.split("from the year ")[1].split()[0]
        assert year[3] == "9"
        later = [pair.clean.text.rsplit("year", 1)[1].strip() + a.strip() for a in pair.target]
        earlier = [pair.clean.text.rsplit("year", 1)[1].strip() + a.strip() for a in pair.foil]
        assert all(len(decade) == 3 for decade in later + earlier) and len(later + earlier) == 10
        # all ten years of a later decade end later, none of the others does
        assert all(int(f"{d}{y}") > int(year) for d in later for y in range(10))
        assert all(int(f"{d}{y}") <= int(year) for d in earlier for y in range(10))


@pytest.mark.parametrize("form", ["symbols", "words", "noun"])
@pytest.mark.parametrize("kind", ["digits", "triples"])
def test_arithmetic_asks_for_the_first_token_that_differs(kind, form, request):
    tokenizer = request.getfixturevalue(kind)
    prompts = get("arithmetic", form=form).prompts(tokenizer, 30, bos=False)
    answers_follow(tokenizer, prompts)
    for target, foil in zip(prompts.target, prompts.foil, strict=True):
        assert target != foil and len(target) == len(foil) == 1
    if form == "symbols":
        for pair in prompts.pairs:
            problem, _, shared = pair.clean.text.partition("=")
            result = str(eval(problem))  # noqa: S307  ("14 + 5")
            assert result.startswith((shared + pair.target[0]).strip())


def test_other_tokenizers_are_asked_as_before(gpt2):
    pair = get("greater_than").prompts(gpt2, 5).pairs[0]
    assert len(pair.target) + len(pair.foil) == 100 and all(len(year) == 2 for year in pair.target)
    pairs = get("arithmetic").prompts(gpt2, 5).pairs
    assert all(pair.target[0].startswith(" ") and pair.target[0][1:].isdigit() for pair in pairs)
