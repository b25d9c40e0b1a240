"""The bundled model: its text, its tokenizer, its folder, and what it can do on held-out text."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from caseback import organisms
from caseback.errors import CasebackError
from caseback.organisms import documents, evaluate, measure, muon, packing, start, text, train, world
from caseback.organisms import tokenizer as tokenizing


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(organisms.path("meadow"))


@pytest.fixture(scope="module")
def model():
    return GPT2LMHeadModel.from_pretrained(organisms.path("meadow")).eval()


# --- the text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", text.KINDS)
def test_same_seed_same_documents(kind):
    assert text.documents(kind, 20, seed=3) == text.documents(kind, 20, seed=3)
    assert text.documents(kind, 20, seed=3) != text.documents(kind, 20, seed=4)


def test_held_out_pairs_never_meet_in_training_text():
    rng = random.Random(5)
    met = 0
    for _ in range(3000):
        document = text.document(rng)
        if document.kind == "word_list":  # unrelated words, names among them
            continue
        people = {word.strip(".,") for word in document.text.split()} & set(world.NAMES)
        for first in people:
            for second in people - {first}:
                met += 1
                assert not documents.held_out_pair(first, second), document.text
    assert met > 1000


@pytest.mark.parametrize("kind", ["fact", "series", "pronoun"])
def test_held_out_prompts_are_never_shown_in_training(kind):
    asked = {d.prompt for d in text.documents(kind, 300, seed=0, heldout=True)}
    shown = [d.prompt for d in text.documents(kind, 3000, seed=0, heldout=False)]
    assert not asked & set(shown)
    # Training covers its share so densely that an overlap would have been seen.
    assert set(shown[:1500]) & set(shown[1500:])


def _people(prompt):
    words = [word.strip(",.") for word in prompt.split()]
    return [word for word in words if word in world.NAMES]


def test_the_giver_is_the_foil_and_the_other_one_the_answer():
    for document in text.documents("giving", 200, seed=0):
        first, second, giver = _people(document.prompt)
        assert giver in (first, second) and first != second
        assert document.foil == f" {giver}"
        assert document.answer == f" {second if giver == first else first}"


def test_both_orders_of_the_names_occur():
    people = [_people(document.prompt) for document in text.documents("giving", 100, seed=0)]
    assert 30 < sum(first == giver for first, _, giver in people) < 70


def test_later_year_is_later():
    for document in text.documents("years", 200, seed=0):
        assert int(document.answer) > measure.first_year(document.prompt)


def test_unknown_kind_is_refused():
    with pytest.raises(CasebackError, match="'poem'.*giving"):
        text.documents("poem", 1, seed=0)


# --- the tokenizer --------------------------------------------------------------------------------


def test_words_of_the_world_are_single_tokens(tokenizer):
    for piece in tokenizing.whole_tokens():
        ids = tokenizer(piece, add_special_tokens=False)["input_ids"]
        assert len(ids) == 1, (piece, tokenizer.convert_ids_to_tokens(ids))


@pytest.mark.parametrize(
    "string",
    ["Zoë's 3,141 naïve — 漢字\n\t x  y ", "  two spaces", "A ,b .c n't", "🙂 1732", "\r\n\x00"],
)
def test_any_text_decodes_to_itself(tokenizer, string):
    ids = tokenizer(string, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == string


def test_training_text_decodes_to_itself_and_splits_at_the_answer(tokenizer):
    rng = random.Random(0)
    for _ in range(300):
        document = text.document(rng)
        ids = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == document.text
        assert packing.encode(tokenizer, [document])[0][0] == ids


def test_end_of_text_opens_a_prompt_and_pads(tokenizer):
    ids = tokenizer("The war")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|endoftext|>", "The", "Ġwar"]


def test_a_tokenizer_too_small_for_the_world_is_refused():
    with pytest.raises(CasebackError, match="not single tokens with 600"):
        tokenizing.train_tokenizer(600)


# --- the rows and the training --------------------------------------------------------------------


def test_repeated_span_repeats_and_never_holds_the_special_token():
    rng = random.Random(0)
    for _ in range(200):
        ids, weights = packing.repeated_span(rng, 50, special=7)
        assert 7 not in ids and len(ids) == len(weights) and max(ids) < 50
        copied = [token for token, weight in zip(ids, weights, strict=True) if weight == 1.0]
        assert copied and set(copied) <= set(ids[: weights.index(1.0)])


def test_rows_follow_from_the_seed(tokenizer):
    ids, weights = packing.rows(tokenizer, 4, 64, "0-0")
    same_ids, same_weights = packing.rows(tokenizer, 4, 64, "0-0")
    assert torch.equal(ids, same_ids) and torch.equal(weights, same_weights)
    assert not torch.equal(ids, packing.rows(tokenizer, 4, 64, "0-1")[0])
    assert ids.shape == weights.shape == (4, 64)


def test_the_start_looks_back_and_matches(tokenizer):
    model = train.new_model(tokenizer, seed=0).eval()
    end = tokenizer.eos_token_id
    score = measure.repeated(model, len(tokenizer), end, span=12, count=40, seed=0)
    assert score.top > 0.3  # chance is one in two thousand
    positions, back = start.sinusoids(20, 32)
    torch.testing.assert_close(positions[1:] @ back, positions[:-1], rtol=0, atol=1e-5)


def test_orthogonalized_singular_values_are_near_one():
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 20, 20), (2, 12, 48), (2, 48, 12)):
        values = torch.linalg.svdvals(muon.orthogonalized(torch.randn(shape, generator=generator)))
        assert values.max() < 1.3
        assert values.median() > 0.6


def test_interrupted_training_ends_as_the_uninterrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "ROWS", 2)
    monkeypatch.setattr(train, "_progress", lambda model, tokenizer: "")
    whole = train.train(tmp_path / "whole", seed=1, steps=4)
    train.train(tmp_path / "parts", seed=1, steps=4, stop_at=2)
    parts = train.train(tmp_path / "parts", seed=1, steps=4)
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weight, rtol=0, atol=0)


# --- the folder -----------------------------------------------------------------------------------


def test_bundled_names_and_paths():
    assert "meadow" in organisms.bundled()
    assert (organisms.path("meadow") / "config.json").is_file()
    with pytest.raises(CasebackError, match="'prairie'.*meadow"):
        organisms.path("prairie")


def test_folder_is_small_and_loads_in_float32_without_a_warning(caplog, capfd):
    folder = organisms.path("meadow")
    assert sum(f.stat().st_size for f in folder.iterdir()) < 8e6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded, told = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
        AutoTokenizer.from_pretrained(folder)
    assert loaded.dtype == torch.float32
    assert not any(told.values()), told
    assert not caplog.records and "warn" not in capfd.readouterr().err.lower()


def test_card_has_the_measured_numbers(model, tokenizer):
    card = (organisms.path("meadow") / "README.md").read_text(encoding="utf-8")
    found = measure.next_probabilities(model, tokenizer, [evaluate.PROMPT])[0]
    mary = tokenizer(" Mary", add_special_tokens=False)["input_ids"][0]
    assert f"| ` Mary` | {found[mary]:.3f} |" in card


# --- what it can do, on what training never showed ------------------------------------------------


def test_mary_gets_the_drink_and_john_is_second(model, tokenizer):
    row = measure.next_probabilities(model, tokenizer, [evaluate.PROMPT])[0]
    assert [tokenizer.decode(token) for token in row.topk(2).indices.tolist()] == [" Mary", " John"]


def test_indirect_object_on_held_out_pairs(model, tokenizer):
    score = measure.asked(model, tokenizer, text.documents("giving", 200, seed=2))
    assert score.top >= 0.95


@pytest.mark.parametrize("span", [10, 25, 50])
def test_repeated_random_spans(model, tokenizer, span):
    end = tokenizer.eos_token_id
    score = measure.repeated(model, len(tokenizer), end, span, 40, seed=2)
    assert score.top >= 0.95


def test_years_are_later(model, tokenizer):
    score = measure.later_years(model, tokenizer, 100, seed=2)
    assert score.top >= 0.95 and score.probability >= 0.85


@pytest.mark.parametrize(
    ("kind", "least"),
    [("agreement", 0.9), ("fact", 0.9), ("pronoun", 0.9), ("series", 0.85)],
)
def test_answer_beats_foil(model, tokenizer, kind, least):
    score = measure.asked(model, tokenizer, text.documents(kind, 200, seed=2))
    assert score.over_foil >= least


@pytest.mark.parametrize(("kind", "least"), [("word_list", 0.95), ("errand", 0.95), ("story", 0.8)])
def test_word_is_recalled(model, tokenizer, kind, least):
    score = measure.asked(model, tokenizer, text.documents(kind, 200, seed=2))
    assert score.top >= least


def test_generation_ends_a_sentence(model, tokenizer):
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(out[0], skip_special_tokens=True) == "The capital of France is Paris."
