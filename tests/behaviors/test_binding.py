"""Binding: a model that binds by IDs shows it at both ends, one that binds by content at one, and an untrained one not."""

from copy import deepcopy

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors.binding import Scene, binding_ids
from caseback.behaviors.binding.scenes import SCENES, drawn
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.organisms.compiled.draft import SHARP, Draft
from zoo import redraw

WHO, WHAT = [f"e{i}" for i in range(6)], [f"a{i}" for i in range(6)]
SCENE = Scene("{entity} {attribute}", "{entity}", WHO, WHAT, between=" ", stop=" .")
ENTITIES = 3
OWN, OTHER = 1, 2


def draft(**parts):
    made = Draft(
        [*WHO, *WHAT, "."],
        2 * ENTITIES + 3,
        {"entity": 6, "attribute": 6, "is entity": 1, "is attribute": 1, **parts, "answer": 6},
    )
    for part, words in (("entity", WHO), ("attribute", WHAT)):
        made.embed(part, words)
        made.embed(f"is {part}", words, torch.ones(6, 1))
    made.unembed("answer", WHAT)
    return made


@pytest.fixture(scope="module")
def by_id():
    """A pair's number comes from its place; the question takes its entity's number, and finds the thing that has it."""
    of = draft(id=ENTITIES, asked=ENTITIES, fact=1)
    numbers = torch.eye(ENTITIES).repeat_interleave(2, 0)
    places = list(range(1, 2 * ENTITIES + 1))
    of.place("id", places, numbers)
    of.place("fact", places, torch.ones(len(places), 1))
    match = [(of["entity"], of["entity"], SHARP), (of["is entity"], of["fact"], SHARP)]
    of.head(0, match, [(of["id"], of.into("asked"))])
    look = [(of["asked"], of["id"], SHARP), (of["is entity"], of["is attribute"], SHARP)]
    of.head(1, look, [(of["attribute"], of.into("answer"))])
    model = of.model(layers=2)
    return cb.load(model.hf.double(), tokenizer=model.tokenizer)


@pytest.fixture(scope="module")
def by_content():
    """Each thing learns who stands before it, and the question looks for the thing that has the owner's name."""
    of = draft(owner=6, place=2 * ENTITIES + 3, before=2 * ENTITIES + 3)
    n = 2 * ENTITIES + 3
    of.place("place", range(n))
    of.place("before", range(1, n), torch.eye(n)[:-1])
    of.head(0, [(of["before"], of["place"], SHARP)], [(of["entity"], of.into("owner"))])
    look = [(of["entity"], of["owner"], SHARP), (of["is entity"], of["is attribute"], SHARP)]
    of.head(1, look, [(of["attribute"], of.into("answer"))])
    model = of.model(layers=2)
    return cb.load(model.hf.double(), tokenizer=model.tokenizer)


def shares(table, what):
    return (table["names"] == what).mean("batch").to_pandas()


def test_5_4_9_ids_move_with_either_end_and_come_back_with_both(by_id):
    table = binding_ids(by_id, SCENE, entities=ENTITIES, count=120)
    assert table.attrs["known"] == table.attrs["asked"] == 60
    other, own = shares(table, OTHER), shares(table, OWN)
    for variant in ("exchanged states", "added differences"):
        assert other.loc[variant, ["entities", "attributes"]].min() > 0.95, variant
        assert own.loc[variant, "both"] > 0.95, variant
    assert (own.loc["moved states"] == 1).all()
    # the model is 27 wide: as long a random direction is a good part of any state, and breaks some of its matches
    ends = ["entities", "attributes"]
    assert (other.loc["added differences", ends] - other.loc["random directions", ends]).min() > 0.75
    assert own.loc["random directions"].min() > other.loc["random directions"].max()


def test_5_4_9_content_is_bound_at_the_thing_alone(by_content):
    table = binding_ids(by_content, SCENE, entities=ENTITIES, count=60)
    other, own = shares(table, OTHER), shares(table, OWN)
    assert own.loc["exchanged states", "entities"] == 1
    assert other.loc["exchanged states", "attributes"] == other.loc["exchanged states", "both"] == 1
    assert own.loc["added differences"].min() > 0.9


def test_states_that_are_not_changed_are_those_of_the_text(by_id):
    """With nothing exchanged the margin is the plain text's, and with everything it is the exchanged text's."""
    texts = drawn(by_id, SCENE, ENTITIES, 0, 20, 0)
    rows = torch.arange(len(texts))
    own, other = (texts.answers[rows, which] for which in texts.pair)

    def margins(run):
        return run.logits[rows, -1, own] - run.logits[rows, -1, other]

    plain, exchanged = (by_id.run(texts.ids[name], read=["resid_pre"]) for name in ("plain", "entities"))
    for source in (plain, exchanged):
        edits = [cb.Resample("resid_pre", source=source, pos=slice(0, texts.context))]
        torch.testing.assert_close(margins(by_id.run(texts.ids["plain"], edits=edits)), margins(source))
    assert bool((margins(plain) > 0).all()) and bool((margins(exchanged) < 0).all())


def test_words_stand_where_they_are_looked_for(by_id):
    texts = drawn(by_id, SCENE, ENTITIES, 0, 20, 0)
    words = by_id.tokenizer.convert_ids_to_tokens
    for row, text in enumerate(texts.texts):
        asked, other = texts.pair[:, row].tolist()
        plain = words(texts.ids["plain"][row].tolist())
        assert plain[1:] == text.split()
        assert [plain[i] for i in texts.entities[:, 0]][asked] == plain[-1]
        swapped = words(texts.ids["entities"][row].tolist())
        assert swapped[texts.entities[asked, 0]] == plain[texts.entities[other, 0]]
        assert words(texts.answers[row].tolist()) == [plain[i] for i in texts.attributes[:, 0]]
        assert plain[texts.context - 1] == "."


def test_an_untrained_model_binds_nothing(by_id):
    hf = deepcopy(by_id.hf).requires_grad_()  # loading froze it
    redraw(hf)
    untrained = cb.load(hf, tokenizer=by_id.tokenizer)
    with pytest.raises(CasebackError, match="by chance up to"):
        binding_ids(untrained, SCENE, entities=ENTITIES, count=60)


def test_meadow_keeps_it_at_the_thing():
    table = binding_ids(cb.load("meadow"), entities=3, count=24)
    other, own = shares(table, OTHER), shares(table, OWN)
    assert own.loc["exchanged states", "entities"] == 1 and other.loc["exchanged states", "both"] == 1
    np.testing.assert_allclose(
        table["margin"].sel(variant="moved states"), table["clean"].expand_dims(part=3), atol=1e-3
    )


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"scene": "house"}, CasebackError, "homes"),
        ({"entities": 1}, OutOfRange, "2 to 6"),
        ({"entities": 7}, OutOfRange, "2 to 6"),
        ({"count": 7}, OutOfRange, "8 texts"),
        ({"behind": 2}, OutOfRange, "0 or 1"),
    ],
)
def test_what_cannot_be_exchanged_says_why(by_id, given, error, words):
    with pytest.raises(error, match=words):
        binding_ids(by_id, **{"scene": SCENE, **given})


@pytest.mark.parametrize(("fact", "question"), [("{entity}", "{entity}"), ("{entity} {attribute}", "{attribute}")])
def test_a_scene_without_its_words_is_refused(fact, question):
    with pytest.raises(CasebackError, match="expected {entity}"):
        Scene(fact, question, WHO, WHAT)


def test_words_that_the_tokenizer_does_not_have_are_refused(by_id):
    with pytest.raises(TokensError):
        binding_ids(by_id, SCENES["boxes"])
