"""Counterfactuals: every number is that of a plain run, what is found is aligned, and planted answers are moved."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import OutOfRange, TargetError, TokensError
from caseback.localize.counterfactuals import find, swapped, words_of
from caseback.localize.counterfactuals.alternatives import alternatives
from caseback.localize.counterfactuals.finding import logits_after
from caseback.organisms.compiled import build
from exact import exact

IOI = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox", "mixtral"])
def test_versions_have_the_logits_of_plain_runs(name):
    model, prompt = shelf.model(name), shelf.ids((6,))[0]
    rows = np.array([prompt, prompt, prompt])
    rows[0, 1], rows[1, [2, 4]], rows[2, 5] = 3, 7, 9
    with exact():
        after, before = logits_after(model, model.tokens(prompt), rows)
        assert torch.allclose(after, model.run(rows.tolist()).logits[:, -1], atol=1e-10)
        assert torch.allclose(before, model.run(prompt).logits[0, -1], atol=1e-10)


def test_what_is_found_says_what_the_model_does(meadow):
    found = find(meadow, IOI)
    clean = meadow.run(IOI).logits[0, -1]
    assert found.best is not None and found.best.moves and found.runners_up
    for one in found.all:
        after = meadow.run(one.tokens).logits[0, -1]
        margins = [float(x[found.target] - x[one.foil]) for x in (clean, after)]
        assert (one.clean, one.corrupt) == pytest.approx(margins, abs=1e-3)
        differs = (one.tokens.ids[0] != found.tokens.ids[0]).nonzero()[:, 0].tolist()
        assert tuple(differs) == one.pos and one.tokens.shape == found.tokens.shape
        if one.moves:
            assert int(after.argmax()) == one.foil != found.target


def test_it_shows_itself(meadow):
    assert "answer then" in repr(find(meadow, IOI)) and "▸" in str(find(meadow, IOI))


@pytest.mark.parametrize(
    ("name", "prompt", "moving"),
    [("recall", "p a q b r c q", {3, 4, 5, 7}), ("backup_head", "1 =", {1}), ("or_gate", "1 0 =", {1})],
)
def test_on_organisms_only_what_the_answer_hangs_on_is_changed(name, prompt, moving):
    model = build(name).model
    found = find(model, prompt)
    single = [one for one in found.all if one.moves and one.way == "replacement"]
    assert single and {p for one in single for p in one.pos} <= moving


def test_where_nothing_moves_the_answer_there_is_none():
    found = find(build("or_gate").model, "1 1 =", foil="0", k=1)  # one bit alone changes no disjunction
    single = [one for one in found.all if one.way == "replacement"]
    assert single and not any(one.moves for one in single) and max(abs(one.effect) for one in single) < 1e-6
    demanding = find(build("backup_head").model, "1 =", least=0.9)
    assert demanding.best is None and "none moves the answer" in str(demanding)


def test_without_a_tokenizer_tokens_are_replaced():
    model, prompt = shelf.model("gpt2"), shelf.ids((6,))[0]
    found = find(model, prompt)
    assert len(found.rows) and all(word.kind == "id" for word in found.words)


def test_padding_changes_nothing(meadow):
    padded = meadow.tokens([IOI, IOI + " the house"], padding="left")[0:1]
    one, other = (find(meadow, given).all[0] for given in (padded, IOI))
    assert one.moves and one.pos == other.pos and torch.equal(one.tokens.ids, other.tokens.ids)


def test_words_are_whole(meadow):
    words = words_of(meadow, meadow.tokens("Mary saw 1732 ships."))
    year = next(word for word in words if word.kind == "number")
    assert len(year.ids) == 2 and [w.text for w in words if w.content] == ["Mary", " saw", " 1732", " ships"]
    assert sorted(p for word in words for p in word.pos) == list(
        range(len(meadow.tokens("Mary saw 1732 ships.").text[0]))
    )


def test_a_word_whose_guesses_cannot_be_gone_on_with_is_left_out(meadow):
    # words of three pieces and more, of which the model expects no second or no third
    prompts = cb.tasks.get("induction").prompts(meadow, 10)
    longest = 0
    for b in range(len(prompts)):
        tokens = prompts.clean[b : b + 1].padded_on("right")
        words = words_of(meadow, tokens)
        log_prob = meadow.run(tokens).logits[0].detach().log_softmax(-1)
        listed = alternatives(meadow, tokens, words, log_prob, 20)
        assert all(-1 not in one.ids and len(one.ids) == len(words[w].ids) for w in listed for one in listed[w])
        longest = max(longest, *(len(word.ids) for word in words))
    assert longest >= 3


def test_swaps_are_made_everywhere_or_refused(meadow):
    assert meadow.text(swapped(meadow, IOI, "Mary:John"))[0].endswith("Mary gave a drink to")
    for swap in ("Mary", "Mary:", "Mary:Mary", "Lucy:John"):
        with pytest.raises(TokensError):
            swapped(meadow, IOI, swap)


def test_bad_input_is_refused(meadow):
    for prompt in ("Mary", [IOI, IOI]):
        with pytest.raises(TokensError):
            find(meadow, prompt)
    with pytest.raises(OutOfRange):
        find(meadow, IOI, k=0)
    with pytest.raises(TargetError):
        find(meadow, IOI, target=" Mary", foil=" Mary")
