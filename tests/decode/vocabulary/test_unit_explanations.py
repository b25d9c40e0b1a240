"""Explanations in words: a perfect simulator scores 1, a constant one 0, a planted bias must be stated (4.3.16-17)."""

import math
import random
import re

import pytest

import caseback as cb
import shelf
from caseback.decode.vocabulary.activating import (
    activating_inputs,
    explain_in_words,
    insertion_test,
    local_chat,
    planted_bias_test,
    token_statistics,
)
from caseback.decode.vocabulary.activating.chat import Asking
from caseback.decode.vocabulary.activating.in_words import detect, fuzz, simulate
from caseback.decode.vocabulary.activating.self_explanation import WHY
from caseback.errors import CasebackError, OutOfRange
from caseback.organisms.compiled import build


@pytest.fixture(scope="module")
def york():
    """The planted bigram neuron "new york", with a corpus in which both words also stand apart."""
    organism = build("planted_neurons")
    node = next(n for n, role in organism.circuit.roles.items() if role == "bigram: new york (5.2.12)")
    rng = random.Random(0)
    fillers = ["the", "cat", "sees", "new", "york", "has", "a", "dog", "very", "old", "city"]
    rows = [[rng.choice(fillers) for _ in range(4)] + ["new", "york"] * (i % 3 > 1) + ["has"] for i in range(24)]
    rows = [organism.tokens([row]).ids[0].tolist() for row in rows]
    return organism.model, activating_inputs(organism.model, rows, "mlp_post", layer=0, top=12), node.index


def truth(tokens):
    """The neuron's own rule on a window."""
    return [10 * (i > 0 and tokens[i - 1] == "new" and t == "york") for i, t in enumerate(tokens)]


def oracle(messages):
    """Explains rightly and simulates, detects and checks marks by the rule itself."""
    said = messages[-1]["content"]
    if "what makes the unit active" in said:
        return "york after new"
    if "one line a token" in said:
        tokens = [line.strip("'") for line in said.split("\n\n", 1)[1].splitlines()]
        return "\n".join(f"{t}\t{v}" for t, v in zip(tokens, truth(tokens), strict=True))
    texts = re.findall(r'^\d+\. "(.*)"$', said, re.MULTILINE)
    if "marked << >>" in said:
        return str([int("new<<york>>" in t.replace(" ", "")) for t in texts])
    return str([int("newyork" in t.replace(" ", "")) for t in texts])


def test_token_statistics_name_the_planted_bigram(york):
    model, found, unit = york
    made = token_statistics(model, found, unit)
    at, before = made.triggers["at"], made.triggers["before"]
    assert [t.token for t in at] == ["york"] and at[0].share == 1 and 0 < at[0].precision < 1
    assert before[0].token == "new" and before[0].share == 1 and before[0].pmi > 0
    assert "at 'york' (100%)" in made.sentence()
    # the token alone says when it may fire, the bigram decides: better than nothing, not perfect
    assert 0.3 < made.held_out < 0.999


def test_counts_are_those_of_a_loop(york):
    model, found, unit = york
    made = token_statistics(model, found, unit, prior=0.0)
    firing = total = both = there = 0
    for r in range(found.rows.n_rows):
        words = [model.token_text(t) for t in found.rows[r]]
        for i, word in enumerate(words):
            fires = i > 0 and word == "york" and words[i - 1] == "new"
            total, firing = total + 1, firing + fires
            there, both = there + (word == "york"), both + (fires and word == "york")
    assert made.firings == firing
    (trigger,) = made.triggers["at"]
    assert trigger.precision == pytest.approx(both / there)
    assert trigger.pmi == pytest.approx(math.log((both / firing) / (there / total)))


def test_a_perfect_simulator_scores_one(york):
    model, found, unit = york
    made = explain_in_words(model, found, unit, oracle, shown=3, scored=6)
    assert made.explanation == "york after new" and made.junk == []
    assert made.score == pytest.approx(1) and made.detection == made.fuzzing == 1


def test_a_constant_simulator_scores_nothing(york):
    model, found, unit = york

    def constant(messages):
        said = messages[-1]["content"]
        if "one line a token" in said:
            return "\n".join("x\t7" for _ in said.split("\n\n", 1)[1].splitlines())
        return "anything" if "what makes" in said else str([1] * len(re.findall(r"^\d+\. ", said, re.MULTILINE)))

    made = explain_in_words(model, found, unit, constant)
    assert (made.score, made.detection, made.fuzzing, made.junk) == (0, 0.5, 0.5, [])


@pytest.mark.parametrize("reply", ["", "I cannot help with that.", "[1, 0", "a\t99\n", None, 7, {"text": "x"}])
def test_junk_is_kept_and_counted_and_worth_nothing(york, reply):
    model, found, unit = york
    made = explain_in_words(model, found, unit, oracle, lambda messages: reply)
    assert (made.score, made.detection, made.fuzzing) == (0, 0.5, 0.5)
    assert made.junk == [reply] * (made.asked - 1) and len(made.junk) > 3


def test_a_junk_explainer_leaves_an_empty_explanation(york):
    model, found, unit = york
    made = explain_in_words(model, found, unit, lambda messages: None, oracle)
    assert made.explanation == "" and made.junk == [None]


def test_simulations_are_read_strictly():
    said = lambda text: simulate(Asking(lambda messages: text), "x", ["a", "1", "b"])  # noqa: E731
    assert said("a\t0\n1\t10\nb\t2.5\n") == [0, 10, 2.5]
    assert said("a\t0\n1\t10") is said("a\t0\n1\t11\nb\t0") is said("a\t0\n1\t\nb\t0\nc\t1") is None


def test_detection_and_fuzzing_rank_by_truth(york):
    model, found, unit = york
    active = found.examples(model, unit, top=6)
    quiet = [e for e in found.shown(model, unit, range(14), 3, 3) if max(e.values) < 0.5]
    wrong = Asking(lambda messages: str([1 - int(x) for x in re.findall(r"\d", oracle(messages))]))
    assert quiet and detect(Asking(oracle), "x", active, quiet, random.Random(0)) == 1
    assert detect(wrong, "x", active, quiet, random.Random(0)) == fuzz(wrong, "x", active, random.Random(0)) == 0


def biased(honest):
    """Answers B, but A after examples that all are A; says why, or makes something up."""

    def chat(messages):
        said = messages[-1]["content"]
        if said == WHY:
            return "All examples before it have the answer A." if honest else "A is a well-known fact."
        return "The answer is A" if said.count("Answer: A") >= 2 else "The answer is B"

    return chat


def test_a_planted_bias_must_be_stated():
    questions = ["Which is larger?", "Who wrote it?"]
    plant = lambda q: "1+1? Answer: A\n2+2? Answer: A\n" + q  # noqa: E731
    for honest in (True, False):
        made = planted_bias_test(biased(honest), questions, ["A", "B"], plant, ["examples"])
        assert (made.tried, made.flip_rate, made.stated) == (2, 1, float(honest))
    unmoved = planted_bias_test(lambda m: "B", questions, ["A", "B"], plant, ["examples"])
    assert unmoved.flip_rate == 0 and unmoved.stated != unmoved.stated


def test_insertions_that_flip_must_be_named():
    def chat(messages):
        said = messages[-1]["content"]
        if said == WHY:
            return "The word purple decided it." if "purple" in messages[0]["content"] else "It just is so."
        return "no" if re.search("purple|wooden", said) else "yes"

    made = insertion_test(chat, ["the cat sat", "a dog ran"], ["yes", "no"], ["purple", "wooden", "slow"])
    assert (made.tried, made.flip_rate, made.stated) == (6, 4 / 6, 0.5)
    again = insertion_test(chat, ["the cat sat", "a dog ran"], ["yes", "no"], ["purple", "wooden", "slow"])
    assert again == made
    junk = insertion_test(lambda m: "maybe", ["the cat sat"], ["yes", "no"], ["purple"])
    assert junk.tried == 0 and junk.junk == ["maybe", "maybe"] and junk.asked == 2


def test_a_model_in_hand_can_be_asked():
    model = cb.load("meadow")
    found = activating_inputs(model, ["Mary went to the store.", "John saw the dog."], "mlp_post", layer=0, top=4)
    made = explain_in_words(model, found, 1, local_chat(model, max_new_tokens=3), shown=1, scored=1)
    assert made.asked >= 4 and -1 <= made.score <= 1


def test_bad_input_says_what_is_wrong(york):
    model, found, unit = york
    with pytest.raises(OutOfRange, match="fraction 2"):
        token_statistics(model, found, unit, fraction=2)
    with pytest.raises(OutOfRange, match="was not collected"):
        token_statistics(model, found, 999)
    with pytest.raises(OutOfRange, match="0 examples shown"):
        explain_in_words(model, found, unit, oracle, shown=0)
    with pytest.raises(OutOfRange, match="at least two"):
        insertion_test(oracle, ["a b"], ["yes"], ["c"])
    with pytest.raises(OutOfRange, match="no question"):
        planted_bias_test(oracle, [], ["a", "b"], str, ["c"])
    with pytest.raises(CasebackError, match="needs a tokenizer"):
        local_chat(shelf.model("llama"))
