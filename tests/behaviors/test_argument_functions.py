"""Additive updates: a planted translation carries the function to every argument from its layer, and from no other."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console

import caseback as cb
from caseback.behaviors import argument_function
from caseback.errors import CasebackError, OutOfRange
from caseback.model.running.edits import Add
from caseback.organisms.compiled.draft import SHARP, Draft
from caseback.reports.concepts.argument_functions import argument_function_document
from caseback.tasks.standard.shots import FUNCTIONS
from caseback.views.page.kinds import page_html
from caseback.views.text.concepts.argument_functions import print_argument_function

N, PLACES = 16, 16
GIVEN, OUTPUT = [f"x{i}" for i in range(N)], [f"y{i}" for i in range(N)]
PAIRS = list(zip(GIVEN, OUTPUT, strict=True))
SHOT = "{input} : {output} , "


@pytest.fixture(scope="module")
def planted():
    """Heads bring the query's word and whether outputs stand before it; MLP 1 then adds what turns x into y."""
    parts = {"word": N, "is y": 1, "end": 1, "place": PLACES, "argument": N, "shown": 1, "turn": 1}
    draft = Draft([*GIVEN, *OUTPUT, ":", ","], PLACES - 1, parts)
    draft.embed("word", GIVEN)
    draft.embed("is y", OUTPUT, torch.ones(N, 1))
    draft.embed("end", [":"])
    draft.place("place", range(PLACES))
    before = draft["place"][:, torch.arange(PLACES).add(1).remainder(PLACES)]
    draft.head(0, [(before, draft["place"], SHARP)], [(draft["word"], draft.into("argument", 2.0))])
    draft.head(0, [(draft["end"], draft["is y"], SHARP)], [(draft["is y"], draft.into("shown"))])
    draft.neurons(1, draft["shown"], torch.tensor([-0.5]), draft.into("turn", 2.0))
    # x_i where nothing turns it, y_i where the turn is added
    draft.unembed("argument", GIVEN)
    draft.unembed("argument", OUTPUT, 0.5)
    draft.unembed("turn", OUTPUT, torch.full((N, 1), 4.0))
    model = draft.model(layers=3)
    return cb.load(model.hf.double(), tokenizer=model.tokenizer)


@pytest.fixture(scope="module")
def meadow():
    return cb.load(cb.load("meadow").hf.double(), tokenizer=cb.load("meadow").tokenizer)


def test_5_4_16_a_planted_translation_turns_every_argument_from_its_own_layer(planted):
    added = argument_function(planted, PAIRS, shots=2, shot=SHOT, prompts=12, draws=6)
    assert added.attrs["shown"] == added.attrs["copied"] == 1 and (added["plain_says"] == 2).all()
    function, copying = added["says"].values
    assert (function[1] == 1).all() and (function[[0, 2]] == 2).all()
    assert (copying == 2).all()
    # of other layers the MLP writes nothing, so nothing is what a vector of its norm adds
    assert (added["says_control"].isel(layer=[0, 2]) == 2).all()
    assert (added["says_control"].sel(layer=1) == 1).mean() < 0.5
    np.testing.assert_allclose(added["log_prob"].sel(variant="function", layer=0), added["plain"], atol=1e-9)
    document = json.loads(json.dumps(argument_function_document(planted, added, "turn")))
    assert document["best"]["layer"] == 1 and document["best"]["answers"] == 1 and document["best"]["above"]
    console = Console(record=True, width=140)
    print_argument_function(document, console=console)
    assert "MLP 1 × 1" in console.export_text()
    assert page_html(document).count("<svg") >= 2


def test_an_added_vector_is_the_mean_of_what_the_mlp_wrote(planted):
    twice = argument_function(planted, PAIRS, shots=2, shot=SHOT, prompts=8, factor=2.0, draws=0)
    words = [str(word) for word in twice["argument"].values]
    # the turn is 1 along its own coordinate, wherever it is learned
    turn = torch.zeros(planted.d_model, dtype=torch.float64)
    turn[-1] = 1.0
    prompts = [f"x0 : x0 , x1 : x1 , {word} :" for word in words]
    run = planted.run(planted.tokens(prompts), edits=[Add("mlp_out", layer=1, pos=-1, value=2 * turn)])
    by_hand = cb.log_prob([f" {word}" for word in twice["answer"].values])(run)
    np.testing.assert_allclose(twice["log_prob"].sel(variant="function", layer=1), by_hand, atol=1e-9)


def test_meadow_does_not_copy_a_bare_word_so_there_is_little_to_turn(meadow):
    added = argument_function(meadow, FUNCTIONS["language"], draws=2)
    assert added.attrs["shown"] > 0.9 and added.attrs["copied"] < 0.1
    assert added["says"].shape == (2, 4, added.sizes["batch"])


def test_bad_functions_are_refused_in_words(meadow):
    words = FUNCTIONS["language"]
    with pytest.raises(OutOfRange, match="2 prompts"):
        argument_function(meadow, words, prompts=2)
    with pytest.raises(CasebackError, match="adds nothing"):
        argument_function(meadow, words, factor=0.0)
    with pytest.raises(OutOfRange, match="different first halves"):
        argument_function(meadow, words[:5])
    with pytest.raises(CasebackError, match="the same token"):
        argument_function(meadow, [(word, word) for word, _ in words])
