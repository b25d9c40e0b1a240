"""The story: its shares are those of patching, it names the planted parts and no others, and says nothing unmeasured."""

import json
from dataclasses import replace

import numpy as np
import pytest

import caseback as cb
import shelf
from caseback.errors import CasebackError, TokensError
from caseback.localize.components.patching import patch
from caseback.localize.counterfactuals.aligning import cut_alike
from caseback.organisms.compiled import build
from caseback.reports.explain import explain
from caseback.reports.explain_document import check_explanation
from caseback.reports.story.depths import DEPTHS
from caseback.reports.story.story import found_for, passed_over, story_of
from caseback.reports.story.traces import exchanged, hops, traced
from caseback.reports.story.words import sentences
from caseback.views.page.explanation import report_html
from exact import exact

IOI = "When Mary and John went to the store, John gave a drink to"
OTHER = "When Mary and John went to the store, Mary gave a drink to"


def story(model, prompt, depth="quick"):
    tokens = model.tokens(prompt)
    search, one = found_for(model, tokens, None, None, None, DEPTHS[depth])
    assert search is not None and one is not None
    return story_of(model, tokens, search.target, one.foil, search, one, DEPTHS[depth])[0]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox", "mixtral"])
def test_shares_are_those_of_patching(name):
    model, prompt = shelf.model(name), shelf.ids((6,))[0]
    other = [*prompt[:2], 3, *prompt[3:]]
    with exact():
        metric = cb.logit_diff(4, 7)
        traces = traced(model, model.tokens(prompt), model.tokens(other), metric, rows=64, most=512)
        for direction in ("denoising", "noising"):
            heads = patch(model, prompt, other, metric, site="z", by=("layer", "head"), direction=direction).recovery
            for part in (part for part in traces.parts if part.head >= 0):
                share = float(heads[part.layer, part.head, 0])
                share = share if direction == "denoising" else 1 - share
                assert getattr(part, direction) == pytest.approx(share, abs=1e-8)
        stream = patch(model, prompt, other, metric, by=("layer", "pos")).recovery.values[..., 0]
        assert np.allclose(traces.stream[:-1], stream, atol=1e-8)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mixtral"])
def test_parts_that_are_not_exchanged_change_nothing_of_those_that_are(name):
    model, prompt = shelf.model(name), shelf.ids((6,))[0]
    clean, corrupt = model.tokens(prompt), model.tokens([*prompt[:2], 3, *prompt[3:]])
    with exact():
        metric = cb.logit_diff(4, 7)
        every = exchanged(model, clean, corrupt, metric, most=512)
        some = exchanged(model, clean, corrupt, metric, most=2, always=[every.parts[-1].name])
        assert (
            2 <= len(some.parts) <= 3 < len(every.parts) == some.n_parts and every.parts[-1].name == some.parts[-1].name
        )
        shares = {part.name: (part.denoising, part.noising) for part in every.parts}
        for part in some.parts:
            assert (part.denoising, part.noising) == pytest.approx(shares[part.name], abs=1e-9)


def test_the_parts_worth_exchanging_are_known_before():
    model = cb.load("meadow")
    pair, metric = (model.tokens(IOI), model.tokens(OTHER)), cb.logit_diff(" Mary", " John")
    largest = exchanged(model, *pair, metric, most=512).named[:6]
    screened = {part.name for part in exchanged(model, *pair, metric, most=12).parts}
    assert len(screened) == 12 and {part.name for part in largest} <= screened


def test_a_coarse_stream_has_the_rows_of_the_fine_one_and_the_story_says_so():
    model = cb.load("meadow")
    pair, metric = (model.tokens(IOI), model.tokens(OTHER)), cb.logit_diff(" Mary", " John")
    fine, coarse = (traced(model, *pair, metric, rows=rows, most=9) for rows in (4, 2))
    assert fine.layers == (0, 1, 2, 3, 4) and coarse.layers == (0, 2, 4)
    assert np.allclose(coarse.stream[:-1], fine.stream[[0, 2]], atol=1e-5)
    assert [bool(why) for why in passed_over(coarse).values()] == [True, True]
    assert [bool(why) for why in passed_over(fine).values()] == [True, False]


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("indirect_object", "Friends John and Mary found a ball . John gave it to"),
        ("recall", "p a q b r c q"),
        ("induction", "a b c d a"),
        ("rank", "c a d b"),
        ("and_gate", "1 1 ="),
        ("or_gate", "1 0 ="),
        ("backup_head", "1 ="),
    ],
)
def test_only_true_parts_of_organisms_are_named(name, prompt):
    organism = build(name)
    told = story(organism.model, prompt)
    true = {str(node) for node in organism.circuit.roles}
    named = {part["name"] for part in told["parts"]}
    assert named and named <= true
    assert told["hops"][-1]["pos"] == len(prompt.split())


def test_helpers_and_opponents_of_the_written_circuit():
    told = story(build("indirect_object").model, "Friends John and Mary found a ball . John gave it to")
    roles = {part["name"]: part["role"] for part in told["parts"]}
    assert roles["L4H0"] == "opponent" and roles["L2H1"] == "carrier"
    backup = story(build("backup_head").model, "1 =")["parts"][0]
    assert backup["name"] == "L0H0" and [row["name"] for row in backup["repaired_by"]] == ["L1H0"]


def test_hops_are_runs_of_layers():
    stream = np.zeros((10, 3))
    stream[:4, 0], stream[3, 1], stream[4:, 2] = 1, 0.9, 0.5
    assert [(hop.pos, hop.first, hop.last) for hop in hops(stream, range(10))] == [(0, 0, 3), (2, 4, 9)]


def test_the_whole_of_it_is_a_document_with_sentences_and_evidence():
    document = explain(cb.load("meadow"), IOI, corrupt=OTHER, depth="quick", steps=4, max_steps=4)
    check_explanation(json.loads(json.dumps(document, allow_nan=False)))
    told = document["story"]
    assert told["counterfactual"]["corrupt"] < 0 < told["counterfactual"]["clean"] and told["forwards"] > 1
    assert 3 <= len(told["sentences"]) <= 7 and all(sentence["evidence"] for sentence in told["sentences"])
    assert document["patching"]["maps"][0]["recovery"] == told["stream"][:-1]
    assert report_html(document)


def test_what_the_model_does_not_prefer_is_said_and_no_part_is_named():
    document = explain(cb.load("meadow"), IOI, target=" John", foil=" Mary", depth="quick", steps=2, max_steps=2)
    told = document["story"]
    assert not told["preference"]["prefers"] and told["parts"] == [] and len(told["sentences"]) == 1
    assert "does not prefer" in told["sentences"][0]["text"]


def test_silence_below_a_threshold():
    model = cb.load("meadow")
    told = story(model, IOI) | {"parts": [], "hops": [], "words": []}
    said = " ".join(sentence["text"] for sentence in sentences(told, model.tokens(IOI).text[0], None))
    assert "No single head" in said and "No single place" in said and "Replacing" not in said


def test_a_fitted_lens_says_what_was_known():
    model = cb.load("meadow")
    lens = cb.decode.vocabulary.fit_translators(model, [IOI, OTHER, "Mary went to the store."])
    document = explain(model, IOI, depth="quick", lens=lens, steps=2, max_steps=2)
    check_explanation(document)
    read = cb.decode.vocabulary.read_lens(model, IOI, lens, targets=[" Mary"])
    assert document["lens"]["kind"] == "translator" and document["lens"]["layers"][0] == "embed"
    assert np.allclose(document["lens"]["target_prob"], read["prob"].values[:, 0, :, 0], atol=1e-6)
    assert "the lens ends" not in " ".join(check["name"] for check in document["checks"])
    with pytest.raises(CasebackError, match="every row from 0 to 3"):
        explain(
            model, IOI, depth="none", lens=replace(lens, rows=lens.rows[1:], weight=lens.weight[1:], bias=lens.bias[1:])
        )


def test_bad_input_is_refused():
    model = cb.load("meadow")
    with pytest.raises(CasebackError, match="depth"):
        explain(model, IOI, depth="quik")
    with pytest.raises(TokensError, match="not token-aligned"):
        explain(model, IOI, corrupt=IOI + " the", depth="quick")
    with pytest.raises(CasebackError, match="same"):
        explain(model, IOI, corrupt=IOI, depth="quick")


def test_a_counterfactual_of_another_length_is_aligned_by_cutting_the_shorter_word():
    model = cb.load("meadow")
    clean, corrupt = "Mary gave a drink to", "Mary gave a present to"
    ours, theirs, cuts = cut_alike(model, clean, corrupt)
    assert ours.ids.shape == theirs.ids.shape and "".join(ours.text[0][1:]) == clean
    assert "".join(theirs.text[0][1:]) == corrupt and [cut.text for cut in cuts] == [" drink"] and cuts[0].clean
    assert len(cuts[0].pieces) == 3 and "".join(cuts[0].pieces) == " drink"
    same, _, none = cut_alike(model, clean, "John gave a drink to")
    assert same.ids.tolist() == model.tokens(clean).ids.tolist() and none == []
    for other in ("Mary gave a large present to", "Mary gave an elizabethan to"):
        with pytest.raises(TokensError, match="not token-aligned"):
            cut_alike(model, clean, other)


def test_a_cut_that_keeps_the_answer_is_said_and_one_that_loses_it_is_refused():
    model = cb.load("meadow")
    prompt = "When Mary and John went to the store, John gave a drink to"
    with pytest.raises(TokensError, match="lead falls from"):  # meadow reads ' ' 'J' 'ohn' as another
        explain(model, prompt, corrupt=prompt.replace(", John", ", Barnaby"), depth="quick")
    other = prompt.replace("Mary and John", "John and Mary").replace("drink", "present")
    story = explain(model, other, corrupt=prompt, depth="quick", target=" Mary")["story"]
    assert [cut["text"] for cut in story["cuts"]] == [" drink"] and "".join(story["cuts"][0]["pieces"]) == " drink"
    if story["preference"]["prefers"]:
        assert "is cut into" in story["sentences"][1]["text"]
