"""The generated text: seeded, with what is held out never shown, and with true answers."""

from __future__ import annotations

import random
import re

import pytest

from caseback import lexicon
from caseback.errors import CasebackError
from caseback.organisms import evaluate, measure, train
from caseback.organisms.prose import brackets, documents, facts, residents, shots, sums, text, world


@pytest.fixture(scope="module")
def shown():
    """What training is made of, in all its phases."""
    rng = random.Random(5)
    return [text.document(rng, phase) for phase in range(5) for _ in range(2500)]


@pytest.mark.parametrize("kind", text.KINDS)
def test_same_seed_same_documents(kind):
    assert text.documents(kind, 20, seed=3) == text.documents(kind, 20, seed=3)
    assert text.documents(kind, 20, seed=3) != text.documents(kind, 20, seed=4)


@pytest.mark.parametrize("kind", text.KINDS)
def test_a_document_has_a_prompt_an_answer_and_another_foil(kind):
    for heldout in (True, False):
        for document in text.documents(kind, 100, seed=0, heldout=heldout):
            assert document.kind == kind and document.prompt and not document.prompt.endswith(" ")
            assert document.answer.strip() and document.foil != document.answer
            assert "[[" not in document.text and "]]" not in document.text


def test_held_out_pairs_never_meet_in_training_text(shown):
    met = 0
    for document in shown:
        if document.kind == "word_list":  # unrelated words, names among them
            continue
        people = set(re.findall(r"\w+", document.text)) & set(lexicon.NAMES)
        for first in people:
            for second in people - {first}:
                met += 1
                assert not documents.held_out_pair(first, second), document.text
    assert met > 1000
    assert documents.held_out_pair("Mary", "John")


# the kinds whose held-out combinations are few enough for training to meet any that leaked
@pytest.mark.parametrize("kind", ["fact", "resident", "series", "pronoun", "determiner", "sentiment", "arithmetic"])
def test_held_out_prompts_are_never_shown_in_training(kind):
    asked = {d.prompt for d in text.documents(kind, 300, seed=0, heldout=True)}
    told = [d.prompt for d in text.documents(kind, 3000, seed=0, heldout=False)]
    assert not asked & set(told)
    # Training covers its share so densely that an overlap would have been seen.
    assert set(told[:1500]) & set(told[1500:])


def test_no_kind_tells_a_fact_whose_wording_is_held_out(shown):
    kept = {d.text for kind in ("fact", "resident") for d in text.documents(kind, 1500, seed=0)}
    told = {sentence + "." for d in shown for sentence in re.split(r"\. |\.\n|\.$", d.text)}
    assert not kept & told
    open_ones = {d.text for kind in ("fact", "resident") for d in text.documents(kind, 1500, seed=0, heldout=False)}
    assert len(open_ones & told) > 500


def test_no_list_of_shots_shows_a_pair_that_its_sign_holds_out():
    rng = random.Random(0)
    pairs = {name: {pair for _ in range(40) for pair in task(rng)} for name, task in shots.RELATIONS.items()}
    for document in text.documents("few_shot", 500, seed=0, heldout=False):
        told = [
            re.fullmatch(r"(\w+)( is to| ->| =|:) (\w+)", line).groups() for line in re.split(r"\n|, ", document.text)
        ]
        fitting = [name for name in pairs if all((left, right) in pairs[name] for left, _, right in told)]
        assert fitting, document.text
        assert any(
            not any(documents.held_out(name, left, right, sign, one_in=8) for left, sign, right in told)
            for name in fitting
        ), document.text


PROBLEM = {
    r"(\d+) \+ (\d+) = (\d+)": 1,
    r"(\d+) plus (\d+) is (\d+)": 1,
    r"The sum of (\d+) and (\d+) is (\d+)": 1,
    r"If you add (\d+) to (\d+), you get (\d+)": 1,
    r"(\d+) - (\d+) = (\d+)": -1,
    r"(\d+) minus (\d+) is (\d+)": -1,
    r"If you take (\d+) from (\d+), you get (\d+)": -1,
}


def _problems(document):
    """Summands of every problem that a text tells, after a check that it is right."""
    for line in re.split(r", (?!you)", document.text.rstrip(".")):
        ((sign, numbers),) = [(s, found) for p, s in PROBLEM.items() if (found := re.fullmatch(p, line))]
        one, two, result = map(int, numbers.groups())
        if line.startswith("If you take"):
            one, two = two, one
        assert one + sign * two == result, line
        yield tuple(sorted((one, two) if sign == 1 else (two, result)))


@pytest.mark.parametrize("kind", ["arithmetic", "arithmetic_list", "arithmetic_rare"])
def test_sums_and_differences_are_right_and_rare_ones_apart(kind):
    for heldout in (True, False):
        for document in text.documents(kind, 300, seed=0, heldout=heldout):
            *before, last = _problems(document)
            assert max(last) <= sums.LARGEST
            assert all(sums.rare(*pair) == (kind == "arithmetic_rare") for pair in before)
            assert sums.rare(*last) == (heldout or kind == "arithmetic_rare")


def test_no_held_out_wording_of_a_problem_is_ever_told():
    kinds = ("arithmetic", "arithmetic_list", "arithmetic_rare")
    asked = {
        re.split(r", (?!you)", d.text.rstrip("."))[-1] for kind in kinds for d in text.documents(kind, 300, seed=0)
    }
    told = {
        line
        for kind in kinds
        for document in text.documents(kind, 1500, seed=0, heldout=False)
        for line in re.split(r", (?!you)", document.text.rstrip("."))
    }
    assert len(asked) > 120 and not asked & told
    # but the same problems are told in other words
    assert {pair for line in told for pair in _problems(documents.marked("", f"[{line}]"))} >= {
        pair for line in asked for pair in _problems(documents.marked("", f"[{line}]"))
    }


def test_neither_name_alone_says_who_a_resident_is():
    assert len({(who.name, who.surname) for who in world.RESIDENTS}) == 48
    for part in ("name", "surname"):
        counts = [
            sum(getattr(who, part) == getattr(other, part) for other in world.RESIDENTS) for who in world.RESIDENTS
        ]
        assert set(counts) == {2}
    for who in world.RESIDENTS:
        assert lexicon.COUNTRIES[who.country][:2] == (who.city, who.language)
        assert sum(residents.never_told(who, wording) for wording in residents.WORDINGS) < len(residents.WORDINGS) / 2


def _people(prompt):
    return [word for word in re.findall(r"\w+", prompt) if word in lexicon.NAMES]


def test_the_giver_is_the_foil_and_the_other_one_the_answer():
    for document in text.documents("giving", 200, seed=0):
        first, second, giver = _people(document.prompt)
        assert giver in (first, second) and first != second
        assert document.foil == f" {giver}"
        assert document.answer == f" {second if giver == first else first}"


def test_both_orders_of_the_names_occur():
    people = [_people(document.prompt) for document in text.documents("giving", 100, seed=0)]
    assert 30 < sum(first == giver for first, _, giver in people) < 70


def test_a_tale_is_false_and_its_foil_true():
    for document in text.documents("tale", 200, seed=0):
        told, asked = document.text.split(". ")
        assert told.endswith(document.answer) and asked.endswith(f"{document.answer}.")
        assert document.answer != document.foil


def test_after_a_tale_about_another_memory_is_right():
    for document in text.documents("tale_elsewhere", 200, seed=0):
        asked = document.prompt.split(". ")[1]
        for country, (capital, language, _) in lexicon.COUNTRIES.items():
            if asked.startswith("The") and asked.endswith(f"{country} is"):
                assert document.answer.strip() == (capital if "capital" in asked else language)


def test_later_year_is_later():
    for document in text.documents("years", 200, seed=0):
        assert int(document.answer) > measure.first_year(document.prompt)


@pytest.mark.parametrize("kind", ["boxes", "boxes_all", "boxes_still"])
def test_boxes_hold_what_they_hold_after_the_change(kind):
    changed = 0
    for document in text.documents(kind, 200, seed=0):
        first, *changes = document.text.rstrip(".").split(". ")
        changes, told = ([c for c in changes if c.startswith(start)] for start in ("The", "Box"))
        inside = {box: thing for thing, box in re.findall(r"he (\w+) is in box (\w)", first)}
        for change in changes:
            changed += 1
            if moved := re.fullmatch(r"The (\w+) is moved to box (\w)", change):
                thing, box = moved.groups()
                inside = {b: t for b, t in inside.items() if t != thing} | {box: thing}
            else:
                one, two = re.fullmatch(r"The (\w+) and the (\w+) change places", change).groups()
                inside = {box: {one: two, two: one}.get(thing, thing) for box, thing in inside.items()}
        for sentence in told:
            box, thing = re.fullmatch(r"Box (\w) contains the (\w+)", sentence).groups()
            assert inside[box] == thing
        assert told[-1].endswith(document.answer) and len(told) == (len(inside) if kind == "boxes_all" else 1)
        assert document.foil.strip() in inside.values()
    assert changed == 0 if kind == "boxes_still" else changed > 50


def test_brackets_close_in_the_reverse_order():
    for document in text.documents("brackets", 200, seed=0):
        waiting = []
        for mark in document.text.split():
            if mark in brackets.CLOSERS:
                waiting.append(brackets.CLOSERS[mark])
            elif mark in brackets.CLOSERS.values():
                assert mark == waiting.pop()
        assert not waiting


@pytest.mark.parametrize("kind", ["colored", "colored_all"])
def test_the_color_is_that_of_the_thing_on_the_table(kind):
    for document in text.documents(kind, 200, seed=0):
        colors = {thing: color for color, thing in re.findall(r"\ban? (\w+) (\w+)(?=,| and|\.| on)", document.text)}
        assert 2 <= len(colors) <= 4
        for thing, color in re.findall(r"[Tt]he (\w+) is (\w+)", document.text):
            assert colors[thing] == color
        assert document.answer.strip() in colors.values() and document.foil.strip() in colors.values()


def test_letters_are_those_of_the_lines():
    for document in text.documents("letters", 200, seed=0):
        letter = {word: letter for letter, word in re.findall(r"^([A-D]): (\w+)$", document.prompt, re.M)}
        for word, told in re.findall(r"The letter of (\w+) is (\w)", document.text):
            assert letter[word] == told
        if asked := re.search(r"Which one is (\w+)\?", document.prompt):
            assert letter[asked[1]] == document.answer.strip()


def test_docstrings_name_the_arguments_in_order():
    for document in text.documents("docstring", 100, seed=0):
        arguments = re.search(r"self, (.*)\)", document.text)[1].split(", ")
        assert re.findall(r":param (\w+):", document.text) == arguments
        assert document.answer.strip() in arguments[1:]


def test_a_needle_is_told_once_and_another_one_beside_it():
    for document in text.documents("needle", 100, seed=0):
        *told, _ = re.split(r"(?<=[.?]) (?=[A-Z])", document.prompt)
        assert sum(f"{document.answer}." in sentence for sentence in told if "magic" in sentence) == 1
        assert sum("magic" in sentence for sentence in told) >= 2


def test_the_letter_of_a_choice_is_that_of_the_right_option():
    for document in text.documents("choice", 300, seed=0):
        option = re.search(rf"\n{document.answer.strip()}: (\w+)", document.prompt)[1]
        if capital := re.search(r"capital of (\w+)\?", document.prompt):
            assert option == lexicon.COUNTRIES[capital[1]][0]
        elif opposite := re.search(r"opposite of (\w+)\?", document.prompt):
            assert tuple(sorted((option, opposite[1]))) in {tuple(sorted(pair)) for pair in lexicon.OPPOSITES}
        elif document.prompt.startswith("The"):
            assert option in document.prompt.split("\n")[0]


def test_wordings_of_facts_are_held_out_for_some_and_told_for_others():
    for wording in facts.ABOUT_COUNTRIES:
        kept = sum(facts.never_told(country, wording) for country in lexicon.COUNTRIES)
        assert kept < len(lexicon.COUNTRIES) / 2


def test_drills_come_later_and_whatever_is_asked_in_every_phase():
    rng = random.Random(0)
    phases = [{text.document(rng, phase).kind for _ in range(4000)} for phase in range(len(train.PHASES) + 1)]
    assert set.union(*phases) == set(text.KINDS)
    first, *later = phases
    assert [sorted(phase - first) for phase in later] == [
        ["arithmetic_list", "boxes_all", "colored_all", "letters"],
        ["arithmetic_rare", "letters"],
        ["arithmetic_rare", "letters"],
        ["arithmetic_rare", "boxes_still", "letters"],
        ["arithmetic_rare", "boxes_still", "letters"],
        ["arithmetic_rare", "boxes_still", "letters"],
    ]
    assert evaluate.BEHAVIORS.keys() - evaluate.SPANS.keys() - {"boxes_still"} <= set.intersection(*phases)


def test_unknown_kind_is_refused():
    with pytest.raises(CasebackError, match="'poem'.*giving"):
        text.documents("poem", 1, seed=0)
