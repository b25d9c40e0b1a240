"""Every task's answers, found again from the prompts alone."""

import re

import pytest

import caseback as cb
from caseback.lexicon import BE, DO, WIDE_BLAME, WIDE_COLORS, WIDE_ITEMS, WIDE_PEOPLE, WIDE_PRAISE, WIDE_WOMEN
from caseback.tasks.facts import RELATIONS, SERIES
from caseback.tasks.standard.shots import FUNCTIONS


def word(text, name):
    return text.text[slice(*text.spans[name])]


def bare(answers):
    (answer,) = answers
    assert answer.startswith(" ")
    return answer[1:]


def differences(pair):
    """Names whose word is another one in the corrupt prompt."""
    return {name for name in pair.clean.spans if word(pair.clean, name) != word(pair.corrupt, name)}


@pytest.mark.parametrize("order", ["ABBA", "BABA"])
@pytest.mark.parametrize(("corruption", "changed"), [("abc", {"IO", "S1", "S2"}), ("name", {"S2"}), ("swap", {"S2"})])
def test_ioi(order, corruption, changed, drawn):
    for pair in drawn(cb.tasks.ioi(order=order, corruption=corruption)):
        io, s = bare(pair.target), bare(pair.foil)
        assert [pair.clean.text.count(name) for name in (io, s)] == [1, 2]
        assert (pair.clean.text.index(io) < pair.clean.text.index(s)) == (order == "ABBA")
        assert differences(pair) == changed
        if corruption == "swap":
            assert pair.corrupt.text.count(bare(pair.corrupt_target)) == 1
        else:
            assert pair.corrupt_target == () and word(pair.corrupt, "S2") not in (io, s)


def test_greater_than(drawn):
    for pair in drawn(cb.tasks.greater_than()):
        begun, end = re.search(r"(\d{4}) to the year (\d\d)$", pair.clean.text).groups()
        assert begun[:2] == end
        assert all(answer > begun[2:] for answer in pair.target)
        assert sorted(pair.target + pair.foil) == [f"{year:02}" for year in range(100)]
        assert pair.corrupt.text == pair.clean.text.replace(begun, end + "01")


@pytest.mark.parametrize("structure", ["simple", "noun_phrase", "relative_clause", "within_clause", "all"])
@pytest.mark.parametrize("attractor", ["either", "same", "other"])
def test_agreement(structure, attractor, drawn):
    several = {plural for _, plural in WIDE_PEOPLE + WIDE_ITEMS}
    for pair in drawn(cb.tasks.agreement(structure=structure, attractor=attractor)):
        plural = word(pair.clean, "subject") in several
        assert (bare(pair.target) in {verb[plural] for verb in BE + DO}) and (
            bare(pair.foil) in {verb[not plural] for verb in BE + DO}
        )
        assert (word(pair.corrupt, "subject") in several) != plural
        assert differences(pair) == {"subject"} and pair.corrupt_target == pair.foil
        if "attractor" in pair.clean.spans and attractor != "either":
            assert ((word(pair.clean, "attractor") in several) == plural) == (attractor == "same")


def test_pronoun(drawn):
    for pair in drawn(cb.tasks.pronoun()):
        woman = word(pair.clean, "name") in WIDE_WOMEN
        assert (bare(pair.target) in ("she", "her")) == woman
        assert (word(pair.corrupt, "name") in WIDE_WOMEN) != woman
        assert {bare(pair.target), bare(pair.foil)} in ({"she", "he"}, {"her", "his"})


@pytest.mark.parametrize("documented", [1, 2, 4])
@pytest.mark.parametrize("corruption", ["random_random", "random_def", "random_doc"])
def test_docstring(documented, corruption, drawn):
    def read(text):
        arguments = re.search(r"\(self, (.*)\):", text).group(1).split(", ")
        return arguments, re.findall(r":param (\w+):", text)

    for pair in drawn(cb.tasks.docstring(documented=documented, corruption=corruption), 20):
        arguments, told = read(pair.clean.text)
        assert arguments[: len(told)] == told and len(told) == documented
        assert bare(pair.target) == arguments[documented]
        assert bare(pair.foil) in arguments and pair.clean.text.endswith("    :param")
        others, others_told = read(pair.corrupt.text)
        if corruption != "random_doc":
            assert not set(others) & {*arguments, *others_told}
        else:
            assert others == arguments
        assert (others_told == told) == (corruption == "random_def")


@pytest.mark.parametrize("objects", [2, 4])
@pytest.mark.parametrize("corruption", ["question", "colors"])
def test_colored_objects(objects, corruption, drawn):
    for pair in drawn(cb.tasks.colored_objects(objects=objects, corruption=corruption)):
        for text, answer, other in (
            (pair.clean, pair.target, pair.foil),
            (pair.corrupt, pair.corrupt_target, pair.target),
        ):
            shown = dict(
                (thing, color) for color, thing in re.findall(rf"an? ({'|'.join(WIDE_COLORS)}) (\w+)", text.text)
            )
            assert len(shown) == objects == len(set(shown.values()))
            assert shown[word(text, "asked")] == bare(answer) != bare(other)
        assert word(pair.clean, "object") == word(pair.clean, "asked") and word(pair.clean, "color") == bare(
            pair.target
        )
        assert differences(pair) == ({"asked"} if corruption == "question" else {"color", "foil_color"})


@pytest.mark.parametrize("name", RELATIONS)
def test_relation(name, drawn):
    facts = dict(RELATIONS[name].facts)
    assert len(facts) == len(RELATIONS[name].facts)
    for pair in drawn(cb.tasks.relation(name)):
        assert facts[word(pair.clean, "subject")] == bare(pair.target)
        assert facts[word(pair.corrupt, "subject")] == bare(pair.foil) == bare(pair.corrupt_target) != bare(pair.target)


@pytest.mark.parametrize("name", RELATIONS)
def test_relations_have_examples_for_gpt2(name, gpt2):
    assert len(cb.tasks.relation(name).prompts(gpt2, 15)) == 15


@pytest.mark.parametrize("series", ["day", "month", "number", "letter", "figure"])
@pytest.mark.parametrize("shown", [1, 3])
def test_successor(series, shown, drawn):
    members, starts_over = SERIES[series]
    following = dict(zip(members, members[1:] + (members[:1] if starts_over else []), strict=False))
    for pair in drawn(cb.tasks.successor(series=series, shown=shown)):
        for text, answer in ((pair.clean, pair.target), (pair.corrupt, pair.foil)):
            told = [*re.findall(r"\w+", text.text), bare(answer)]
            assert len(told) == shown + 1
            assert all(following[one] == other for one, other in zip(told, told[1:], strict=False))
        assert pair.target != pair.foil == pair.corrupt_target


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("corruption", ["query", "labels"])
def test_few_shot(function, corruption, drawn):
    known = {}
    for x, y in FUNCTIONS[function]:
        known.setdefault(x, set()).add(y)
    for pair in drawn(cb.tasks.few_shot(function, shots=3, corruption=corruption), 30):
        shown = {word(pair.clean, f"x{i}"): word(pair.clean, f"y{i}") for i in (1, 2, 3)}
        assert len(shown) == 3 and all(y in known[x] for x, y in shown.items())
        query, answer = word(pair.clean, "query"), bare(pair.target)
        assert answer in known[query] and answer != bare(pair.foil)
        assert (query, answer) not in shown.items() and (answer, query) not in shown.items()
        told = [word(pair.corrupt, f"y{i}") for i in (1, 2, 3)]
        if corruption == "query":
            assert differences(pair) == {"query"} and bare(pair.foil) in known[word(pair.corrupt, "query")]
        else:
            assert sorted(told) == sorted(shown.values()) and word(pair.corrupt, "query") == query
            # some are dealt to another place wherever they can be
            assert (told != list(shown.values())) == (len(set(told)) > 1)


def test_sentiment(drawn):
    for pair in drawn(cb.tasks.sentiment()):
        praises = pair.target[0] in (" positive", " loved", " great")
        for text, side in ((pair.clean, praises), (pair.corrupt, not praises)):
            assert {word(text, "adjective"), word(text, "second")} <= set(WIDE_PRAISE if side else WIDE_BLAME)
    for pair in drawn(cb.tasks.sentiment(mixed=True)):
        assert differences(pair) == {"adjective"} and pair.corrupt_target == ()


@pytest.mark.parametrize("source", ["context", "memory", "both"])
@pytest.mark.parametrize("options", [2, 4])
def test_multiple_choice(source, options, drawn):
    def right(text):
        """The letter by the sentence before the question, or by memory."""
        lines = text.splitlines()
        question = next(line for line in lines if line.startswith("Question"))
        shown = {line[3:]: line[0] for line in lines if re.match("[A-D]: ", line)}
        assert len(shown) == options
        subject = question.rstrip("?").split()[-1]
        known = {dict(RELATIONS[name].facts).get(subject) for name in ("capital", "language", "opposite")}
        told = lines[0].rstrip(".").split()[-1] if not lines[0].startswith("Question") else None
        (answer,) = [word for word in shown if word == told or (told is None and word in known)]
        return shown[answer], told

    for pair in drawn(cb.tasks.multiple_choice(source=source, options=options)):
        letter, told = right(pair.clean.text)
        assert letter == bare(pair.target)
        assert right(pair.corrupt.text)[0] == bare(pair.foil) == bare(pair.corrupt_target) != letter
        assert source == "both" or (told is None) == (source == "memory")
        assert len(differences(pair)) == 2


@pytest.mark.parametrize("form", ["symbols", "words", "noun"])
@pytest.mark.parametrize("corruption", ["operands", "a", "b", "operator"])
def test_arithmetic(form, corruption, drawn):
    signs = {"plus": "+", "minus": "-", "times": "*", "sum": "+", "difference": "-", "product": "*"}

    def result(text):
        a, b, operator = word(text, "a"), word(text, "b"), word(text, "operator")
        return eval(f"{a} {signs.get(operator, operator)} {b}")

    for pair in drawn(cb.tasks.arithmetic(operators="+-*", form=form, corruption=corruption)):
        # a result of several tokens is asked for at the first that differs, behind what both results share
        shared = pair.clean.text[pair.clean.spans["b"][1] :].replace("=", "").replace("is", "").strip()
        for text, answer in ((pair.clean, pair.target), (pair.corrupt, pair.foil), (pair.corrupt, pair.corrupt_target)):
            assert result(text) >= 0 and str(result(text)).startswith(shared + bare(answer))
        assert pair.target != pair.foil
        assert differences(pair) <= ({"a", "b"} if corruption == "operands" else {corruption})


def test_arithmetic_with_solved_problems(drawn):
    for pair in drawn(cb.tasks.arithmetic(form="symbols", shots=2)):
        *solved, asked = pair.clean.text.split(", ")
        assert [eval(problem.replace("=", "==")) for problem in solved] == [True, True]
        assert pair.corrupt.text.startswith(", ".join(solved)) and asked.endswith("=")
        assert pair.clean.text[slice(*pair.clean.spans["a"])] == asked.split()[0]


@pytest.mark.parametrize("corruption", ["first", "second", "end"])
def test_induction(corruption, drawn):
    for pair in drawn(cb.tasks.induction(length=8, corruption=corruption)):
        ids, changed = pair.clean.ids, pair.corrupt.ids
        assert len(set(ids[:8])) == 8 and ids[8:] == ids[: len(ids) - 8]
        assert ids[:8][len(ids) - 8] == pair.target[0] and pair.foil[0] in ids[:8]
        (at, _), (after, _) = pair.clean.spans["A"], pair.clean.spans["B"]
        assert (ids[at], ids[after]) == (ids[-1], pair.target[0])
        if corruption == "end":
            assert changed[:-1] == ids[:-1] and changed[changed.index(changed[-1]) + 1] == pair.foil[0]
        else:
            assert len(set(changed)) == len(changed)
            assert (changed[8:] == ids[8:]) == (corruption == "first")
            assert (changed[:8] == ids[:8]) == (corruption == "second")


def test_duplicate(drawn):
    for pair in drawn(cb.tasks.duplicate(length=8)):
        *told, last = pair.clean.ids
        (at, _) = pair.clean.spans["first"]
        assert len(set(told)) == 8 and told.index(last) == at
        assert told[at + 1] == pair.target[0] and pair.foil[0] in told
        assert pair.foil[0] not in (last, pair.target[0])
        assert pair.corrupt.ids[:-1] == pair.clean.ids[:-1] and pair.corrupt.ids[-1] not in told


@pytest.mark.parametrize("corruption", ["elsewhere", "true"])
def test_conflict(corruption, drawn):
    for pair in drawn(cb.tasks.conflict(corruption=corruption)):
        facts = dict(RELATIONS[pair.group.split()[0]].facts)
        subject = word(pair.clean, "subject")
        assert word(pair.clean, "told") == subject and facts[subject] == bare(pair.foil)
        assert word(pair.clean, "context") == bare(pair.target) != facts[subject]
        if corruption == "true":
            assert word(pair.corrupt, "context") == facts[subject]
        else:
            assert word(pair.corrupt, "context") == bare(pair.target) != facts[word(pair.corrupt, "told")]
        assert word(pair.corrupt, "subject") == subject and pair.corrupt_target == pair.foil


@pytest.mark.parametrize("distractors", [0, 1, 3])
def test_needle(distractors, drawn):
    told = re.compile(r"(?:The magic word of (\w+) is (\w+)\.)|(?:(\w+) chose the magic word (\w+)\.)")
    for pair in drawn(cb.tasks.needle(distractors=distractors), 20):
        for text, answer in ((pair.clean, pair.target), (pair.corrupt, pair.foil)):
            words = {a or c: b or d for a, b, c, d in told.findall(text.text)}
            assert len(words) == 1 + distractors
            assert words[word(text, "asked")] == bare(answer) == word(text, "word")
            assert text.text.count(f" {bare(answer)}.") == 1
        assert ("distractor" in pair.clean.spans) == (distractors > 0)


@pytest.mark.parametrize("depth", [0, 0.5, 1])
def test_the_depth_and_length_of_a_needle(depth, meadow):
    made = cb.tasks.needle(depth=depth, distractors=0, length=90).prompts(meadow, 20)
    share = (made.at("word") / made.clean.lengths).mean().item()
    assert abs(share - (0.06 + 0.85 * depth)) < 0.1
    assert 75 < int(made.clean.lengths.min()) <= int(made.clean.lengths.max()) <= 90


@pytest.mark.parametrize("phenomenon", ["determiner_noun", "anaphor_gender", "anaphor_number", "subject_verb"])
def test_minimal_pair(phenomenon, drawn):
    several = {
        plural for _, plural in cb.tasks.minimal_pair().fillers["people"] + cb.tasks.minimal_pair().fillers["things"]
    }
    one = {"this", "that", "one"}
    for pair in drawn(cb.tasks.minimal_pair(phenomenon=phenomenon)):
        cue, answer = word(pair.clean, "cue"), bare(pair.target)
        if phenomenon == "determiner_noun":
            assert (answer in several) == (cue not in one)
        elif phenomenon == "anaphor_gender":
            assert (answer == "herself") == (cue in WIDE_WOMEN)
        elif phenomenon == "anaphor_number":
            assert (answer == "themselves") == (cue in several)
        else:
            assert (answer in ("are", "were")) == (cue in several)
        assert differences(pair) == {"cue"} and pair.corrupt_target == pair.foil != pair.target


@pytest.mark.parametrize("change", ["none", "move", "swap"])
@pytest.mark.parametrize("boxes", [2, 4])
def test_entity_tracking(change, boxes, drawn):
    def contents(text):
        """What is in the box asked, by following the text."""
        inside = {thing: box for thing, box in re.findall(r"[Tt]he (\w+) is in box (\w)", text)}
        for thing, box in re.findall(r"The (\w+) is moved to box (\w)", text):
            inside[thing] = box
        for one, other in re.findall(r"The (\w+) and the (\w+) change places", text):
            inside[one], inside[other] = inside[other], inside[one]
        asked = re.search(r"Box (\w) contains the$", text).group(1)
        return [thing for thing, box in inside.items() if box == asked]

    for pair in drawn(cb.tasks.entity_tracking(change=change, boxes=boxes)):
        assert contents(pair.clean.text) == [bare(pair.target)]
        assert contents(pair.corrupt.text) == [bare(pair.foil)] == [bare(pair.corrupt_target)]
        assert differences(pair) == {"asked"} and pair.target != pair.foil
        assert ("moved" in pair.clean.text) == (change == "move") and ("change places" in pair.clean.text) == (
            change == "swap"
        )


@pytest.mark.parametrize("corruption", ["other", "shuffled"])
def test_plain_text(corruption, meadow, drawn, tmp_path):
    file = tmp_path / "story.txt"
    file.write_text(
        "Mary was hungry, so she ate some bread. Then she went to the store and bought a cake for John.",
        encoding="utf-8",
    )
    whole = meadow.tokenizer(file.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    windows = [whole[i : i + 6] for i in range(len(whole) - 6)]
    for pair in drawn(cb.tasks.plain_text(file=file, length=6, corruption=corruption)):
        assert pair.target[0] in [whole[i + 6] for i, window in enumerate(windows) if window == list(pair.clean.ids)]
        assert (list(pair.corrupt.ids) in windows) or corruption == "shuffled"
        assert (sorted(pair.corrupt.ids) == sorted(pair.clean.ids)) or corruption == "other"
