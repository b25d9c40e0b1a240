"""Each format becomes the pairs that its publication means."""

import json

import pytest

import caseback as cb
from caseback.errors import LoadError, TokensError
from caseback.tasks import formats


def word(text, name):
    return text.text[slice(*text.spans[name])]


GOOD = {"sentence_good": "Paula likes those keys.", "sentence_bad": "Paula likes those key.", "UID": "nouns"}


def test_blimp_gives_the_first_words_that_differ_without_punctuation(write):
    (pair,) = formats.blimp(write("b.jsonl", [GOOD]))
    assert (pair.clean.text, pair.target, pair.foil, pair.group) == (
        "Paula likes those",
        (" keys",),
        (" key",),
        "nouns",
    )
    assert pair.corrupt == pair.clean


def test_blimp_counts_what_gives_no_prompt(write):
    rows = [GOOD, {**GOOD, "sentence_good": "Some dogs ran.", "sentence_bad": "Any dogs ran."}]
    rows += [{**GOOD, "sentence_bad": GOOD["sentence_good"]}, {**GOOD, "one_prefix_method": False}]
    rows += [{**GOOD, "sentence_bad": "Paula likes those keys. Why?", "sentence_good": "Paula likes those keys."}]
    rows += [{**GOOD, "sentence_good": "Dogs ran.", "sentence_bad": "Dogs ran"}]
    file = write("b.jsonl", rows)
    pairs = formats.blimp(file)
    assert len(pairs) == 1 and sum(pairs.dropped.values()) == 5 and len(pairs.dropped) == 5
    assert len(formats.blimp(file, method="shared")) == 2
    assert len(formats.blimp_sentences(file)) == 5
    with pytest.raises(LoadError, match="method 'three' is unknown: expected one of one_prefix, shared, two_prefix"):
        formats.blimp(file, method="three")


def test_blimp_with_two_beginnings_has_a_counterfactual(write):
    row = {"sentence_good": "The dogs bark at me.", "sentence_bad": "The dog bark at me.", "two_prefix_method": True}
    row |= {"two_prefix_prefix_good": "The dogs", "two_prefix_prefix_bad": "The dog", "two_prefix_word": "bark at"}
    (pair,) = formats.blimp(write("b.jsonl", [row]), method="two_prefix")
    assert (pair.clean.text, pair.corrupt.text, pair.target, pair.foil) == ("The dogs", "The dog", (" bark",), ())
    assert pair.group == "b"


def test_agreement_names_the_subject_that_changes(write):
    row = {"clean_prefix": "The boys that the chef", "patch_prefix": "The boys that the chefs"}
    row |= {"clean_answer": " has", "patch_answer": " have", "case": "plural_singular"}
    (pair,) = formats.agreement_pairs(write("rc.json", [row]))
    assert (word(pair.clean, "subject"), word(pair.corrupt, "subject")) == ("chef", "chefs")
    assert (pair.target, pair.foil, pair.corrupt_target, pair.group) == ((" has",), (" have",), (" have",), row["case"])
    # an article that agrees with its noun changes with it
    row |= {"clean_prefix": "Los perros de Ana", "patch_prefix": "El perro de Ana"}
    (pair,) = formats.agreement_pairs(write("es.json", [row]))
    assert (word(pair.clean, "subject"), word(pair.corrupt, "subject")) == ("Los perros", "El perro")
    for odd in ("Los perro de Eva", "Los perros de Ana", "El perro"):
        with pytest.raises(LoadError, match="prefixes that differ in one word, or in neighbors"):
            formats.agreement_pairs(write("rc.json", [{**row, "patch_prefix": odd}]))


WORDS = [("big", "small"), ("old", "new"), ("hot", "cold"), ("wet", "dry"), ("early", "late"), ("{x}", "{output}")]


@pytest.fixture
def antonyms(write):
    return write("antonym.json", [{"input": a, "output": b} for a, b in WORDS], array=True)


def test_few_shot_prompts_show_other_records_and_ask_for_this_one(antonyms):
    pairs = formats.function_vectors(antonyms, shots=4)
    assert len(pairs) == len(WORDS)
    for pair, (asked, answer) in zip(pairs, WORDS, strict=True):
        shown = [tuple(line[3:] for line in shot.split("\n")) for shot in pair.clean.text.split("\n\n")]
        assert shown[-1] == (asked, "") and word(pair.clean, "query") == asked == word(pair.corrupt, "query")
        assert set(shown[:-1]) <= set(WORDS) - {(asked, answer)} and len(set(shown[:-1])) == 4
        moved = [tuple(line[3:] for line in shot.split("\n")) for shot in pair.corrupt.text.split("\n\n")]
        assert [a for a, _ in moved] == [a for a, _ in shown]
        assert all(a != b for (_, a), (_, b) in zip(shown[:-1], moved[:-1], strict=True))
        assert sorted(b for _, b in moved) == sorted(b for _, b in shown)
        assert pair.target == (f" {answer}",) and pair.foil != pair.target and pair.group == "antonym"


def test_another_query_is_not_among_the_shots(antonyms):
    for seed in range(5):
        for pair in formats.function_vectors(antonyms, shots=3, corruption="query", seed=seed):
            asked = word(pair.corrupt, "query")
            assert f"Q: {asked}\nA: " not in pair.corrupt.text
            assert pair.foil == pair.corrupt_target == (f" {dict(WORDS)[asked]}",)


def test_few_shot_options_are_checked_and_seeded(antonyms):
    same = [formats.function_vectors(antonyms, shots=2, seed=s)[0].clean.text for s in (0, 0, 1)]
    assert same[0] == same[1] != same[2]
    zero = formats.function_vectors(antonyms, shots=0, corruption="none", limit=2)
    assert len(zero) == 2 and zero[0].clean.text == "Q: big\nA:" == zero[0].corrupt.text
    turned = formats.function_vectors(antonyms, shots=2, shot="{output} <- {input}; ", query="? <- {input} =", limit=1)
    assert turned[0].clean.text.endswith("? <- big =") and turned[0].clean.text.count(" <- ") == 3
    for wrong in ({"shots": 1}, {"shots": 6}, {"corruption": "noise"}, {"shot": "{input}"}, {"query": "{output}"}):
        with pytest.raises(LoadError):
            formats.function_vectors(antonyms, **{"shots": 2, **wrong})


FACTS = [("Rome", "Italy"), ("Paris", "France"), ("Milan", "Italy"), ("New York City", "America"), ("Cairo", "Egypt")]


@pytest.fixture
def known(write):
    rows = [{"subject": s, "attribute": a, "prompt": f"Where is {s}? It is in", "relation_id": "P"} for s, a in FACTS]
    return write("known.json", rows, array=True)


def test_known_facts_put_another_subject_in_the_same_place(known):
    for pair, (subject, answer) in zip(formats.known_facts(known), FACTS, strict=True):
        other = word(pair.corrupt, "subject")
        assert word(pair.clean, "subject") == subject != other
        assert pair.corrupt.text == f"Where is {other}? It is in"
        assert pair.target == (f" {answer}",) and pair.foil == pair.corrupt_target == (f" {dict(FACTS)[other]}",)
        assert pair.foil != pair.target


def test_with_a_tokenizer_the_other_subject_is_as_long(known, gpt2):
    pairs = formats.known_facts(known, model=gpt2)
    assert "New York City" not in {word(pair.clean, "subject") for pair in pairs}
    assert list(pairs.dropped.values()) == [1]
    assert len(cb.tasks.align(pairs, gpt2)) == 4


def test_known_facts_for_causal_tracing_have_no_other_subject(known, gpt2):
    pairs = formats.known_facts(known, corruption="none")
    prompts = cb.tasks.align(pairs, gpt2, measure="log_prob")
    assert all(pair.clean == pair.corrupt and not pair.foil for pair in pairs) and len(prompts) == 5
    assert prompts.at("subject").tolist() == [2, 2, 2, 4, 2]


def test_known_facts_need_their_subject_in_the_prompt(write):
    rows = [{"subject": "Rome", "attribute": "Italy", "prompt": "Milan is in"}]
    with pytest.raises(LoadError, match="line 1: expected the subject 'Rome' in the prompt, found 'Milan is in'"):
        formats.known_facts(write("k.jsonl", rows))


def case(subject, true, new, relation="P103"):
    asked = {"prompt": "The mother tongue of {} is", "relation_id": relation, "subject": subject}
    asked |= {"target_true": {"str": true, "id": "Q1"}, "target_new": {"str": new, "id": "Q2"}}
    return {
        "case_id": 0,
        "requested_rewrite": asked,
        "paraphrase_prompts": [f"Rain fell. {subject}, a native", "Someone else, a native"],
        "neighborhood_prompts": ["Montesquieu is a native speaker of"],
        "attribute_prompts": ["Douglas Adams is a native speaker of", "The mother tongue of Tolkien is"],
    }


CASES = [case("Ada", "English", "French"), case("Ida", "German", "French"), case("Eva", "French", "German")]


@pytest.mark.parametrize("array", [True, False])
def test_counterfact_contrasts_with_the_new_target_and_prefers_a_subject_that_has_it(write, array):
    pairs = formats.counterfact(write("counterfact.json", CASES, array=array))
    assert [(p.target, p.foil, p.corrupt_target) for p in pairs] == [
        ((" English",), (" French",), (" French",)),
        ((" German",), (" French",), (" French",)),
        ((" French",), (" German",), (" German",)),
    ]
    assert [word(p.corrupt, "subject") for p in pairs] == ["Eva", "Eva", "Ida"] and pairs[0].group == "P103"


def test_counterfact_has_other_prompts(write):
    file = write("counterfact.json", CASES, array=True)
    paraphrase = formats.counterfact(file, prompts="paraphrase")
    assert len(paraphrase) == 3 and word(paraphrase[0].clean, "subject") == "Ada"
    near = formats.counterfact(file, prompts="neighborhood")
    assert len(near) == 3 and near[0].target == (" English",) and near[0].clean == near[0].corrupt
    other = formats.counterfact(file, prompts="attribute")
    assert len(other) == 6 and other[0].target == (" French",) and other[0].foil == (" English",)
    with pytest.raises(LoadError, match="prompts 'generation' is unknown"):
        formats.counterfact(file, prompts="generation")


def test_counterfact_says_which_field_is_wrong(write):
    wrong = json.loads(json.dumps(CASES))
    del wrong[1]["requested_rewrite"]["target_new"]["str"]
    with pytest.raises(LoadError, match="a text under 'requested_rewrite.target_new.str', found nothing"):
        formats.counterfact(write("c.json", wrong, array=True))
    assert len(formats.counterfact(write("c.json", wrong, array=True), skip_malformed=True)) == 2


CAPITALS = {
    "name": "country capital city",
    "prompt_templates": ["The capital of {} is", "{}'s capital is"],
    "prompt_templates_zs": ["What is the capital of {}? It is"],
    "samples": [{"subject": "Canada", "object": "Ottawa"}, {"subject": "Kenya", "object": "Nairobi"}],
}


def test_relations_fill_their_templates(write, tmp_path):
    file = write("capital.json", CAPITALS)
    (first, _) = formats.relations(file)
    assert (first.clean.text, first.corrupt.text) == ("The capital of Canada is", "The capital of Kenya is")
    assert formats.relations(file, zero_shot=True)[1].clean.text == "What is the capital of Kenya? It is"
    assert len(formats.relations(file, template=None)) == 4
    assert word(formats.relations(file, template=1)[0].clean, "subject") == "Canada"
    write("second.json", {**CAPITALS, "name": "other"})
    assert {pair.group for pair in formats.relations(tmp_path)} == {"country capital city", "other"}


def test_relations_are_checked(write):
    for wrong, said in (
        ({"prompt_templates": []}, "a list of templates"),
        ({"prompt_templates": ["The capital is"]}, "one {} for the subject"),
        ({"samples": None}, "a list under 'samples'"),
    ):
        with pytest.raises(LoadError, match=said):
            formats.relations(write("capital.json", {**CAPITALS, **wrong}))
    with pytest.raises(LoadError, match="no template 2 .*expected 0 to 1"):
        formats.relations(write("capital.json", CAPITALS), template=2)
    samples = [*CAPITALS["samples"], {"subject": "Peru"}]
    with pytest.raises(LoadError, match=r"capital\.json, line 19: expected a text under 'object'"):
        formats.relations(write("capital.json", {**CAPITALS, "samples": samples}))
    several = formats.relations(
        write("capital.json", {**CAPITALS, "samples": samples}), template=None, skip_malformed=True
    )
    assert len(several) == 4 and several.dropped == {"malformed records": 1}


IOI = "Then, Aaron and Amber were at the house. {} gave a drink to"


def test_tables_of_names_are_read_from_their_text(write):
    rows = "\n".join(
        f'{i},"{IOI.format(s)}","{IOI.format("Tyler")}","{IOI.format(io)}",1,2'
        for i, (s, io) in enumerate([("Aaron", "Amber"), ("Amber", "Aaron")])
    )
    file = write("ioi.csv", ",clean,corrupted,corrupted_hard,correct_idx,incorrect_idx\n" + rows)
    for corruption, other in (("corrupted", ["Tyler"] * 2), ("corrupted_hard", ["Amber", "Aaron"])):
        pairs = formats.eap_ig(file, corruption=corruption)
        assert [p.target[0] + p.foil[0] for p in pairs] == [" Amber Aaron", " Aaron Amber"]
        assert [p.group for p in pairs] == ["BABA", "ABBA"]
        assert [[word(p.clean, n) for n in ("IO", "S1", "S2")] for p in pairs] == [
            ["Amber", "Aaron", "Aaron"],
            ["Aaron", "Amber", "Amber"],
        ]
        assert [word(p.corrupt, "S2") for p in pairs] == other
        assert [p.corrupt_target for p in pairs] == ([(), ()] if corruption == "corrupted" else [p.foil for p in pairs])


def test_tables_by_ids_of_a_vocabulary(write, gpt2):
    io, s = (gpt2.encode(name)[0] for name in (" Amber", " Aaron"))
    row = f'"{IOI.format("Aaron")}","{IOI.format("Tyler")}",{io},{s}'
    (pair,) = formats.eap_ig(write("ioi.csv", f"clean,corrupted,correct_idx,incorrect_idx\n{row}\n"), ids_of=gpt2)
    assert (pair.target, pair.foil) == ((" Amber",), (" Aaron",))
    file = write("ioi.csv", f"clean,corrupted,correct_idx,incorrect_idx\n{row[:-3]}x\n")
    with pytest.raises(LoadError, match="line 2: expected a token id below 50257 under 'incorrect_idx'"):
        formats.eap_ig(file, ids_of=gpt2)


def test_tables_of_years(write):
    span = "The plan lasted from the year 16{} to the year 16"
    file = write("gt.csv", f"clean,corrupted,label\n{span.format(42)},{span.format('01')},42\n")
    (pair,) = formats.eap_ig(file)
    assert (pair.target[0], pair.target[-1], pair.foil[0], pair.foil[-1]) == ("43", "99", "00", "42")
    assert [word(pair.clean, n) for n in ("century", "year", "again")] == ["16", "42", "16"]
    for wrong, said in ((f"{span.format(42)},{span.format('01')},43", "the label 42"), ("No year,No,42", "YYYY … YY")):
        with pytest.raises(LoadError, match=f"line 2: expected .*{said}"):
            formats.eap_ig(write("gt.csv", f"clean,corrupted,label\n{wrong}\n"))
    with pytest.raises(LoadError, match="correct_idx and incorrect_idx, or label; found clean, corrupted, plural"):
        formats.eap_ig(write("sva.csv", "clean,corrupted,plural\na,b,1\n"))


def test_giving_templates_agree_with_their_article(write, tmp_path):
    templates = ["{name_A} and {name_B} were at the {place}. {name_C} gave " + a + " {object} to" for a in ("a", "an")]
    lists = {"templates": templates, "names": list("ABCDEFGH"), "objects": ["ring", "apple"], "places": ["store"]}
    for name, listed in lists.items():
        write(f"{name}.json", listed, array=True)
    pairs = formats.mib_ioi(tmp_path, count=40)
    assert len({(p.clean.text, p.corrupt.text) for p in pairs}) == 40 == len(pairs)
    for pair in pairs:
        assert ("a ring" in pair.clean.text) != ("an apple" in pair.clean.text)
        assert word(pair.clean, "S1") == word(pair.clean, "S2") == pair.foil[0][1:]
        assert word(pair.corrupt, "S2") == pair.target[0][1:] == word(pair.clean, "IO")
    assert {p.group for p in pairs} == {f"{n} {o}" for n in (0, 1) for o in ("ABBA", "BABA")}
    write("templates.json", [*templates, "{name_A} gave a {object} to"], array=True)
    with pytest.raises(LoadError, match=r"templates\.json, line 4: expected a template with"):
        formats.mib_ioi(tmp_path)
    assert len(formats.mib_ioi(tmp_path, count=10, skip_malformed=True)) == 10
    write("templates.json", templates[:1], array=True)
    with pytest.raises(LoadError, match="only .* distinct pairs of 1000"):
        formats.mib_ioi(tmp_path, count=1000)


COLORS = [
    {"object": o, "color": c} for o, c in [("lemon", "yellow"), ("sky", "blue"), ("coal", "black"), ("sun", "red")]
]


@pytest.mark.parametrize("corruption", ["position", "letters", "both"])
def test_choices_move_their_answer(write, corruption):
    pairs = formats.mib_mcqa(write("colors.json", COLORS, array=True), count=30, choices=3, corruption=corruption)
    assert len(pairs) == 30
    for pair in pairs:
        shown = []
        for text, answer in ((pair.clean, pair.target), (pair.corrupt, pair.corrupt_target)):
            offered = {word(text, f"symbol{i}"): word(text, f"choice{i}") for i in range(3)}
            assert offered[answer[0][1:]] == word(text, "color") and text.text.endswith("\nAnswer:")
            shown.append((list(offered), list(offered.values())))
        assert pair.foil == pair.corrupt_target != pair.target
        assert (shown[0][0] == shown[1][0]) == (corruption == "position")
        assert (shown[0][1] == shown[1][1]) == (corruption == "letters")


def test_choices_are_checked(write):
    file = write("colors.json", COLORS, array=True)
    with pytest.raises(LoadError, match="has 4 colors: expected at least 5"):
        formats.mib_mcqa(file, choices=5)
    with pytest.raises(LoadError, match="line 1: expected an object with 'object'"):
        formats.mib_mcqa(write("colors.json", "[1]"))


CITIES = {"Rome": {"Country": "Italy", "Language": "Italian"}, "Paris": {"Country": "France", "Language": "French"}}


def test_cities_are_asked_for_an_attribute(write):
    file = write("cities.json", CITIES | {"Atlantis": {"Country": None}})
    (first, second) = formats.ravel(file)
    assert first.target == (" Italy",) and second.foil == (" Italy",) and first.group == "Country"
    assert word(first.clean, "entity") == "Rome" and word(first.corrupt, "entity") == "Paris"
    assert formats.ravel(file).dropped == {"no value for Country": 1}
    asked = formats.ravel(file, attribute="Language", template="They speak, in {entity},", skip_malformed=True)
    assert asked[1].clean.text == "They speak, in Paris," and asked.dropped == {"malformed records": 1}
    with pytest.raises(
        LoadError, match=r"line 10: expected the attribute 'Language' under 'Atlantis', found 'Country'"
    ):
        formats.ravel(file, attribute="Language")
    with pytest.raises(LoadError, match="attribute 'Mayor' has no template"):
        formats.ravel(file, attribute="Mayor")


def test_statements_keep_their_columns(write):
    text = (
        'statement,label,city\n"The city of Rome, in short, is in Italy.",1,Rome\nThe city of Rome is in Peru.,0,Rome\n'
    )
    read = formats.statements(write("cities.csv", text))
    assert [(s.label, s.about, s.group) for s in read] == [(b, {"city": "Rome"}, "cities") for b in (True, False)]
    assert read[0].text == "The city of Rome, in short, is in Italy."
    with pytest.raises(LoadError, match="line 2: expected a label of 1 or 0, or true or false, found '2'"):
        formats.statements(write("cities.csv", "statement,label\nRome is.,2\n"))


def test_what_a_tokenizer_cannot_align_is_counted_with_what_the_file_left_out(write, gpt2):
    rows = [GOOD, {**GOOD, "sentence_good": "Any dogs.", "sentence_bad": "Some dogs."}]
    rows += [{**GOOD, "sentence_good": "It is a zyzzyva.", "sentence_bad": "It is a dog."}]
    pairs = formats.blimp(write("b.jsonl", rows))
    prompts = cb.tasks.align(pairs, gpt2, dropped=pairs.dropped)
    assert len(prompts) == 1 and sorted(prompts.dropped.values()) == [1, 1]
    with pytest.raises(TokensError, match="an answer is not one token"):
        cb.tasks.align(pairs[1:], gpt2)
