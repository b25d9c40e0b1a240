"""Edits alike of several variants are written in one call: the same to the bit as one after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import caseback as cb
import shelf
from caseback.model.anatomy.sites import Site
from caseback.model.running.edit import apply_edits, in_turns
from caseback.model.running.frames import Frame, Span
from exact import exact

ROWS = shelf.ids((6, 4))
SITES = ("resid_post", "z", "pattern", "mlp_post")


@pytest.fixture(scope="module")
def runs():
    model = shelf.model("llama")
    return {name: model.run(ROWS, read=[name]) for name in SITES}


@st.composite
def an_edit(draw, name, runs):
    """Any edit of a kind that is made together, and of some that are not."""
    run = runs[name]
    where = {"layer": 1}
    if name in ("z", "pattern"):
        where["head"] = draw(st.sampled_from([None, 0, 1, [0, 1], [1, 3], slice(0, 2)]))
    where["pos"] = draw(st.sampled_from([None, 0, -1, [0, 2], slice(1, None), torch.tensor([1, 3])]))
    where["unit"] = draw(st.sampled_from([None, 0, 2, [1, 3]]))
    number = draw(st.sampled_from([0.5, -2.0]))
    width = run[name, 1].shape[-1]
    kind = draw(st.sampled_from("zero resample replace add scale mean vector apply".split()))
    if kind == "vector" and where["unit"] is None and where.get("head") is None:
        return cb.Add(name, torch.full((width,), number, dtype=torch.float64), **where)
    if kind == "mean" and name != "pattern":
        return cb.Mean(name, over=run, **where)
    return {
        "resample": cb.Resample(name, run, **where),
        "replace": cb.Replace(name, number, **where),
        "add": cb.Add(name, number, **where),
        "scale": cb.Scale(name, number, **where),
        "apply": cb.Apply(name, lambda x: x * number, **where),
    }.get(kind, cb.Zero(name, **where))


@settings(deadline=None)
@given(st.data())
def test_edits_of_several_variants_are_those_of_each_alone(runs, data):
    name = data.draw(st.sampled_from(SITES))
    acts = runs[name][name, 1]
    own = acts.transpose(1, 2) if name == "pattern" else acts
    lengths, firsts = [6, 4], [0, 0]
    spans, row, variants = [], 0, data.draw(st.integers(1, 4))
    for owner in range(variants):
        for example, n in enumerate(lengths):
            first = data.draw(st.integers(0, 3))
            spans.append(Span(owner, example, first, n - first, row))
            row += n - first
    frame, site = Frame(spans, lengths), Site(name, 1)
    x = torch.cat([own[s.example, s.first : s.first + s.count] for s in spans]) + 1.0
    edits = [
        (data.draw(st.integers(0, variants - 1)), data.draw(an_edit(name, runs)))
        for _ in range(data.draw(st.integers(1, 5)))
    ]
    before = lambda rows: torch.tensor(firsts).numpy()[rows.at[1]]  # noqa: E731
    with exact():
        together, alone = apply_edits(edits, x, frame, site, before), x
        for owner, edit in edits:
            alone = apply_edits([(owner, edit)], alone, frame, site, before)
    assert torch.equal(together, alone)


def test_turns_keep_the_order_of_each_owner_and_standing_edits_come_first():
    standing, first, second = cb.Zero("z", layer=0), cb.Add("z", 1.0, layer=0, head=0), cb.Scale("z", 2.0, layer=0)
    turns = in_turns([(None, standing), (0, first), (0, second), (1, second), (1, first), (2, first)])
    kinds = [[(owner, type(edit).__name__) for owner, edit in turn] for turn in turns]
    assert kinds == [
        [(None, "Zero")],
        [(0, "Add"), (2, "Add")],
        [(1, "Scale")],
        [(0, "Scale")],
        [(1, "Add")],
    ]


def test_a_call_of_several_edits_is_asked_for_what_each_holds(monkeypatch):
    """Two variants that add different vectors at different places: one call, each row with its own edit's vector."""
    calls = []
    new = cb.Add.new
    monkeypatch.setattr(cb.Add, "new", lambda self, old, where: calls.append(len(where.edits)) or new(self, old, where))
    model = shelf.model("gpt2")
    edits = [cb.Add("resid_post", torch.full((32,), float(i)).double(), layer=0, pos=i) for i in range(4)]
    with exact():
        swept = model.sweep(ROWS[:1], edits, cb.logit(3))
        assert calls == [4]
        alone = [cb.logit(3)(model.run(ROWS[:1], edits=edit))[0].item() for edit in edits]
    torch.testing.assert_close(
        torch.tensor(swept.values[:, 0]), torch.tensor(alone, dtype=torch.float64), rtol=1e-10, atol=1e-10
    )
