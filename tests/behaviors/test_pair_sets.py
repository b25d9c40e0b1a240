"""Two vocabularies that share one agreement head, and two that do not; what is moved is what single runs say."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors import overlap, pair_sets
from caseback.errors import CasebackError
from caseback.organisms.compiled.draft import SHARP, Draft
from caseback.reports.behavior import behavior_document
from caseback.tasks import Pair

LEMMAS = 16
NUMBERS = ("singular", "plural")


def nouns(language):
    return [tuple(f"{language}noun{i}{number[0]}" for number in NUMBERS) for i in range(LEMMAS)]


def pairs_of(language, foil=True):
    """Every noun in either number before the verb's two forms."""
    verb = tuple(f" {language}{number}" for number in NUMBERS)
    return [
        Pair.of(
            *(f"{noun[side]} {near}" for side in (n, 1 - n)),
            *(verb[n], verb[1 - n] if foil else ()),
            corrupt_target=verb[1 - n],
            group=NUMBERS[n],
        )
        for noun in nouns(language)
        for n in (0, 1)
        for near in ("near", "by")
    ]


def bilingual(shared):
    """Head 0 brings the number of a noun to the verb, of both languages or of the first alone, and head 1 the other's."""
    own = {"e": "number", "s": "number" if shared else "other number"}
    moved = {"number": "moved", "other number": "other moved"}
    near = ["near", "by"]
    words = [word for language in own for noun in nouns(language) for word in noun]
    verbs = {language: [f"{language}{number}" for number in NUMBERS] for language in own}
    parts = {"noun": 1, "near": 1, "number": 1, "other number": 1, "moved": 1, "other moved": 1}
    draft = Draft([*words, *near, *sum(verbs.values(), [])], 2, parts | {"lemma": 2 * LEMMAS, "unread": 2 * LEMMAS})
    signs = torch.tensor([[-1.0], [1.0]])
    draft.embed("noun", words, torch.ones(len(words), 1))
    draft.embed("near", near, torch.ones(2, 1))
    for i, (language, part) in enumerate(own.items()):
        for j, noun in enumerate(nouns(language)):
            draft.embed(part, noun, signs)
            draft.embed("lemma", noun, torch.eye(2 * LEMMAS)[[i * LEMMAS + j] * 2])
        draft.unembed(moved[part], verbs[language], 2 * signs)
    look = [(draft["near"], draft["noun"], SHARP)]
    lemma = (draft["lemma"], draft.into("unread"))
    for part in moved:
        draft.head(0, look, [(draft[part], draft.into(moved[part])), lemma])
    for layer in (0, 0, 1, 1, 1, 1):
        draft.head(layer, look, [lemma])
    return draft.model()


@pytest.mark.parametrize("shared", [True, False])
def test_5_4_11_a_head_that_serves_two_languages_carries_over_and_one_of_a_single_language_does_not(shared):
    model = bilingual(shared)
    english, spanish = pair_sets(model, {"english": pairs_of("e"), "spanish": pairs_of("s")}, prompts=16)
    assert english.present and spanish.present
    assert (english.proved(), spanish.proved()) == (("L0H0",), ("L0H0" if shared else "L0H1",))
    assert overlap(english, spanish).jaccard == float(shared)
    for report, own in ((english, "english"), (spanish, "spanish")):
        carries = {one.vector: one.carries for one in report.transfers}
        assert carries == {f"heads of {name}": shared or name == own for name in ("english", "spanish")}
        by = {one.vector: one.by for one in report.transfers}[f"heads of {own}"]
        # the number is all that is moved: the verb is then the counterfactual's
        assert by["log_prob"]["with"] == pytest.approx(by["log_prob"]["shown"], abs=1e-5)
        assert (by["accuracy"]["without"], by["accuracy"]["with"]) == (0, 1)
    document = behavior_document(model, [english, spanish])
    assert json.loads(json.dumps(document)) == document


def test_what_vectors_do_is_what_single_runs_say():
    model, sets = cb.load("meadow"), {}
    for structure in ("simple", "noun_phrase"):
        drawn = cb.tasks.agreement(structure=structure).prompts(model, 60).pairs
        sets[structure] = [replace(pair, group=pair.group.split()[1]) for pair in drawn]
    n = 12
    simple, phrase = pair_sets(model, sets, prompts=n, draws=3)
    assert simple.present and phrase.present
    heads = [(int(name[1]), int(name[3])) for name in simple.proved()]
    few, judged = (
        cb.tasks.Task(name, "", lambda rng, own: rng.choice(own["pairs"]), {"pairs": lambda _, p=pairs: p}).prompts(
            model, 2 * n
        )
        for name, pairs in sets.items()
    )
    few, judged = few[:n], judged[n:]
    apart = {}
    for row in range(n):
        one = few[row]
        runs = [model.run(side, read=["z"]) for side in (one.corrupt, one.clean)]
        for layer, head in heads:
            here, there = (run["z", layer][0, side.column(-1)[0], head] for run, side in
                           zip(runs, (one.corrupt, one.clean), strict=True))  # fmt: skip
            apart.setdefault((layer, head, one.pairs[0].group), []).append(here - there)
    means = []
    for row in range(n):
        one = judged[row]
        edits = [
            cb.Add("z", sum(values) / len(values), layer=layer, head=head, pos=-1)
            for (layer, head, label), values in apart.items()
            if label == one.pairs[0].group
        ]
        means.append(float(cb.log_prob([one.foil[0][0]])(model.run(one.clean, edits=edits))))
    got = {one.vector: one.by for one in phrase.transfers}["heads of simple"]["log_prob"]["with"]
    assert got == pytest.approx(np.mean(means), abs=1e-4)


def test_sets_that_cannot_be_compared_are_refused():
    model, own = bilingual(True), pairs_of("e")
    with pytest.raises(CasebackError, match="no set of pairs"):
        pair_sets(model, {})
    with pytest.raises(CasebackError, match="a pair has no label"):
        pair_sets(model, {"e": [replace(pair, group="") for pair in own]})
    with pytest.raises(CasebackError, match="the labels of s are one, two, those of e plural, singular"):
        numbers = {"singular": "one", "plural": "two"}
        pair_sets(model, {"e": own, "s": [replace(pair, group=numbers[pair.group]) for pair in pairs_of("s")]})
    with pytest.raises(CasebackError, match="lacks a foil"):
        pair_sets(model, {"e": pairs_of("e", foil=False)})
