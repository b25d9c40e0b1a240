"""Heads that find in the context what is asked for, and heads that rest and write nothing."""

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors import KINDS, atlas, context_streams
from caseback.behaviors.context_streams import CLASSES, IN_CONTEXT, RELATIONS, tokens_of
from caseback.behaviors.evidence import collect_evidence
from caseback.behaviors.heads import in_context
from caseback.behaviors.proofs.in_context import FIRST, MAKES
from caseback.errors import TokensError
from zoo import tiny

FAMILIES = ("gpt2", "llama", "bloom", "gpt_neox", "olmoe", "olmo2")  # windows of others do not reach the first token


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


def _places(row, name):
    ids, labels = row
    return [(i, place) for i, place in enumerate(labels[name]) if place >= 0]


def test_questions_name_the_word_that_is_asked_for(meadow):
    rows = [row for fold in IN_CONTEXT["questions"](meadow, 16, 0) for row in fold]
    asking, null = rows[::2], rows[1::2]
    for row, other in zip(asking, null, strict=True):
        ids, text = row[0], [meadow.token_text(token) for token in row[0]]
        (start, gold), *rest = _places(row, "gold")
        assert [place for _, place in rest] == [gold] * len(rest) and len(rest) + start == len(ids) - 1
        # the word stands behind the same name as the question has
        assert "".join(text[gold - 3 : gold]).endswith(f"{text[start]} is") and gold < start
        assert {place for _, place in _places(row, "other")} != {gold} and not _places(row, "gold_null")
        # the null question differs by a name that was never told
        assert other[0][:start] == ids[:start] and other[0][start] not in ids and not _places(other, "gold")
        assert _places(other, "gold_null") == _places(row, "gold")


@pytest.mark.parametrize("stream", IN_CONTEXT)
def test_prompts_that_a_row_would_cut_are_refused(meadow, monkeypatch, stream):
    monkeypatch.setattr(context_streams, "row_length", lambda model, length: 8)
    with pytest.raises(TokensError, match="a row has 8: they would be cut"):
        IN_CONTEXT[stream](meadow, 16, 0)


def test_options_name_the_word_of_the_class(meadow):
    of_class = {kind: {tokens_of(meadow, f" {word}")[0] for word in words} for kind, words in CLASSES.items()}
    rows = [row for fold in IN_CONTEXT["options"](meadow, 16, 0) for row in fold]
    for row in rows[::2]:
        text = "".join(meadow.token_text(token) for token in row[0])
        kind = next(kind for kind in CLASSES if f"The {kind} among" in text)
        ((end, right),) = _places(row, "right")
        others = [_places(row, f"other{i}")[0][1] for i in (1, 2, 3)]
        assert end == len(row[0]) - 1 and row[0][right] in of_class[kind] and others == sorted(others)
        assert right not in others and not any(row[0][place] in of_class[kind] for place in others)


def test_things_have_owners_that_are_not_the_nearest_name(meadow):
    rows = [row for fold in IN_CONTEXT["bound"](meadow, 32, 0) for row in fold]
    nearest = distances = 0
    seen = set()
    for row, null in zip(rows[::2], rows[1::2], strict=True):
        text = [meadow.token_text(token) for token in row[0]]
        for (thing, owner), (_, other) in zip(_places(row, "owner"), _places(row, "other"), strict=True):
            said = "".join(text[owner + 1 : thing])
            assert said.endswith(" the") and (" has" in said or " took" in said) and "." not in said
            nearest += owner < other
            distances += 1
            seen.add(thing - owner)
        assert len(_places(null, "owner_null")) == len(_places(row, "owner")) and not _places(null, "owner")
    assert nearest > distances / 3 and len(seen) > 2
    with pytest.raises(TokensError, match="tokenizer"):
        IN_CONTEXT["bound"](cb.load(tiny("gpt2")), 8, 0)


@pytest.mark.parametrize("name", ["query-focused retrieval", "filter", "binding"])
def test_looks_take_what_null_prompts_and_others_have(name, monkeypatch):
    """Of six heads one attends to what is asked for; one to it whatever is asked, one to everything, one to others."""
    stream = {"query-focused retrieval": "questions", "filter": "options", "binding": "bound"}[name]
    first, *others = RELATIONS[stream]

    def attention(evidence, asked, label):
        assert asked == stream
        values = np.full((6, 8), 0.01)
        values[0] = 0.6 if label == first else 0.01
        values[1] = 0.6 if label.startswith(first) else 0.01
        values[2] = 0.5
        values[3] = 0.6 if label in others else 0.01
        return values

    monkeypatch.setattr(in_context, "attention", attention)
    look = KINDS[name].look(None)
    assert look.score[0] == pytest.approx(0.59) and look.control[0] == 0
    assert look.score[2] == look.control[2] == 0 and look.score[3] <= 0
    if name == "query-focused retrieval":  # its null prompts are taken off, and the control is another's word
        assert look.score[1] == 0 and look.control[3] == pytest.approx(0.59)
    else:
        assert look.control[1] == pytest.approx(0.59)


def test_meadow_s_heads_for_questions_are_query_focused(meadow):
    found = atlas(meadow, kinds=["query-focused retrieval", "filter", "binding"], top=2)
    proved = {f.kind for f in found.findings if f.grade == "proved"}
    best = found.candidates.of("query-focused retrieval")[0]
    assert proved == {"query-focused retrieval"} and best.component == "L2H0"
    assert best.effect < -3 and best.draw["matched units"] > -1 and best.control < 0.05
    assert not [f for f in found.findings if f.kind in ("filter", "binding")]
    assert all(report.false_labels == 0 for report in found.kinds)


def test_what_is_replaced_is_what_a_proof_says(meadow):
    evidence = collect_evidence(meadow, None, {"fresh": ("head_moments",)})
    unseen = MAKES["a question without a view of the text"](evidence)
    edits = unseen.replaced(("head", 2, 0))
    run = meadow.run(unseen.tokens, read=["pattern"], edits=edits)
    clean = meadow.run(unseen.tokens, read=["pattern"])
    assert unseen.worth > 5  # the model answers
    hidden = 0
    for edit in edits:
        at = (edit.prompt[0], 0, slice(edit.pos.start, edit.pos.stop), slice(FIRST, edit.unit.stop))
        assert float(run["pattern", 2][at].max()) == 0 < float(clean["pattern", 2][at].max())
        hidden += len(edit.prompt)
    assert hidden == len(unseen.tokens)
    torch.testing.assert_close(run["pattern", 2][:, 1], clean["pattern", 2][:, 1])
    owners = MAKES["owners exchanged"](evidence)
    edit = owners.replaced(("head", 1, 2))
    z = [meadow.run(owners.tokens, read=["z"], edits=own)["z", 1] for own in ([edit], [])]
    changed = (z[0] != z[1]).any(-1).any(0)  # (pos, head)
    assert changed.nonzero().tolist() == [[place, 2] for place in edit.pos]
    other = MAKES["the query of another choice"](evidence)
    edit = other.replaced(("head", 1, 3))
    q = [meadow.run(other.tokens, read=["q"], edits=own)["q", 1] for own in ([edit], [])]
    last = other.tokens.lengths - 1
    assert (q[0] != q[1]).any(-1).nonzero()[:, 1:].tolist() == [[int(place), 3] for place in last]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_that_rests_on_what_never_changes_is_a_no_op(name):
    """L1H0 looks at the rows' first token, which is the same everywhere; L1H1 at it too, half of the time."""

    def planted(pattern):
        half = pattern.clone()
        pattern = torch.zeros_like(pattern)
        pattern[..., 0] = 1
        return pattern if half.shape[1] == 1 else torch.cat([pattern[:, :1], half[:, 1:]], 1)

    model = cb.load(tiny(name)).edited([cb.Apply("pattern", layer=1, head=0, function=planted)])
    rng = np.random.default_rng(0)
    texts = [[1, *rng.integers(2, 60, 30).tolist()] for _ in range(60)]
    found = atlas(model, texts, kinds=["no-op", "attention sink"], proofs=False, length=40)
    assert found.labels() == {"L1H0": ["no-op", "attention sink"]}
    assert [report.false_labels for report in found.kinds] == [0, 0]
    # where the first token is another in every row it rests and writes
    texts = [rng.integers(1, 60, 31).tolist() for _ in range(60)]
    found = atlas(model, texts, kinds=["no-op", "attention sink"], proofs=False, length=40)
    assert found.labels() == {"L1H0": ["attention sink"]}
