"""PRIMER 3.2.32: interchange interventions in a network, and how often they do what the causal model says."""

import planted_truth
import pytest
import torch
from planted_truth import SUM, said

import caseback as cb
import shelf
import zoo
from caseback.errors import CasebackError, EditError, OutOfRange, TokensError, UnknownSite
from caseback.localize.abstraction import At, CausalModel, Interchanges, interchange_accuracy, interchange_map
from caseback.localize.abstraction.accuracy import swaps
from caseback.localize.abstraction.alignment import seats
from caseback.model.algebra.rotation import random_rows
from caseback.model.prompts.places import placed
from caseback.organisms.compiled import build
from exact import exact

LENGTHS = (6, 4, 5)


def prompts(seed=0, lengths=LENGTHS):
    return shelf.ids(lengths, seed)


def examples(model, base, source, seed=3, **how):
    ids = torch.randint(1, zoo.VOCAB, (2, len(base)), generator=torch.Generator().manual_seed(seed)).tolist()
    return Interchanges.of(model, base, source, *ids, **how)


def swapped(model, data, at):
    """Logits at the answers of a whole run with the interchange."""
    run = model.run(data.base, edits=swaps(seats(model, data, {"variable": at})))
    return run.logits[torch.arange(len(data)), data.base.column(data.pos)]


@pytest.mark.parametrize("variable, site", [("a", "resid_mid"), ("b", "resid_mid"), ("sum", "resid_post")])
def test_3_2_32_a_written_model_is_abstracted_by_its_program(variable, site):
    """Every pair of inputs as base, every value as source; a random subspace of the size does not do it."""
    model, truth = planted_truth.modular(frequencies=2)
    every = [{"a": a, "b": b} for a in range(7) for b in range(7)]
    turn = [every[(7 * i + 11) % 49] for i in range(49)]
    data = Interchanges.sample(
        model, SUM, said, variable, 49, inputs=(v for pair in zip(every, turn, strict=True) for v in pair)
    )
    at = At(site, layer=0, pos=-1)
    found = interchange_accuracy(model, data, {variable: at.holding(truth[variable])})
    assert found.attrs["accuracy"] == found.attrs["task_accuracy"] == found.attrs["accuracy_where_changed"] == 1.0
    drawn = interchange_accuracy(
        model, data, {variable: at.holding(random_rows(len(truth[variable]), model.d_model, 1))}
    )
    assert drawn.attrs["accuracy"] < 0.7 and drawn.attrs["task_accuracy"] == 1.0
    assert found.dims == ("batch",) and "3.2.32" in found.attrs["entry"]


def test_3_2_32_sources_of_several_variables_compose():
    """a from one source and b from another, at once: the model answers a' + b', in whatever order and place."""
    model, truth = planted_truth.modular(frequencies=2)
    data = planted_truth.sums(model, ["a", "b"], 80, swap="any")
    at = At("resid_mid", layer=0, pos=-1)
    both = {"a": at.holding(truth["a"]), "b": at.holding(truth["b"])}
    assert interchange_accuracy(model, data, both).attrs["accuracy"] == 1.0
    assert interchange_accuracy(model, data, dict(reversed(both.items()))).attrs["accuracy"] == 1.0
    early = {"a": At("embed", pos=1), "b": at.holding(truth["b"])}
    assert interchange_accuracy(model, data, early).attrs["accuracy"] == 1.0
    assert interchange_accuracy(model, data, {"a": both["b"], "b": both["a"]}).attrs["accuracy"] < 0.5


def test_3_2_32_the_identity_site_gives_the_task_s_accuracy():
    """At the logits the source's answer is put whole, so right is what is right on the sources."""
    model = shelf.model("llama")
    base, source = prompts(0, (5,) * 30), prompts(1, (5,) * 30)
    own = model.run(source).logits[:, -1].argmax(-1)
    told = torch.where(torch.arange(30) < 18, own, (own + 1) % model.d_vocab)
    data = Interchanges.of(model, base, source, told, own)
    found = interchange_accuracy(model, data, {"variable": At("logits", pos=-1)})
    assert found.attrs["accuracy"] == 0.6
    whole = interchange_accuracy(model, data, {"variable": At("embed")})
    assert whole.attrs["accuracy"] == 0.6


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mixtral"])
def test_3_2_32_the_same_source_is_no_change(name):
    model = shelf.model(name)
    for site, layer, head in (
        ("resid_post", 1, None),
        ("z", 0, 1),
        ("k", 1, 0),
        ("mlp_out", 0, None),
        ("embed", None, None),
    ):
        data = examples(model, prompts(), prompts())
        width = model.run(data.base, read=[(site, layer) if layer is not None else site])[site, layer].shape[-1]
        at = At(site, layer=layer, head=head).holding(random_rows(2, width, 0))
        with exact():
            clean = model.run(data.base).logits[torch.arange(3), data.base.column(-1)]
            assert torch.allclose(swapped(model, data, at), clean, atol=1e-12)
    right = Interchanges.of(model, prompts(), prompts(), *2 * [clean.argmax(-1)])
    found = interchange_accuracy(model, right, {"variable": at})
    assert (
        found.attrs["accuracy"] == found.attrs["task_accuracy"] == 1.0 and "accuracy_where_changed" not in found.attrs
    )


SITES = {
    "gpt2": (("resid_post", 1, None), ("resid_mid", 1, None), ("q", 1, 2), ("head_out", 1, 0), ("mlp_pre", 0, None)),
    "llama": (("z", 1, 3), ("k", 1, 1), ("v", 0, None), ("q_in", 1, 2), ("k_in", 1, 0), ("mlp_gate", 1, None)),
    "gptj": (("resid_pre", 1, None), ("attn_norm", 1, None), ("mlp_in", 1, None), ("embed", None, None)),
    "gpt_neox": (("attn_out", 0, None), ("mlp_norm", 1, None), ("v", 1, 2)),
    "gemma2": (("resid_mid", 1, None), ("mlp_out", 1, None), ("head_out", 0, 1), ("final_norm", None, None)),
    "mixtral": (("expert", 1, None), ("attn_in", 1, None), ("v_in", 1, 0)),
}


@pytest.mark.parametrize("name", SITES)
def test_3_2_32_within_the_subspace_the_source_s_value_in_every_family(name):
    """Against cb.Swap of a whole run, at the same positions of prompts of equal and unequal length."""
    model = shelf.model(name)
    data = examples(model, prompts(), prompts(9))
    for site, layer, head in SITES[name]:
        read = site if layer is None else (site, layer)
        with exact():
            source = model.run(data.sources["variable"], read=[read])
            for pos in (None, [0, -1], -2):
                basis = random_rows(2, source[site, layer].shape[-1], 4)
                swap = cb.Swap(site, basis, source, layer=layer, head=head, pos=pos)
                told = model.run(data.base, edits=swap).logits[torch.arange(3), data.base.column(-1)]
                at = At(site, layer=layer, head=head, pos=pos, basis=basis)
                assert torch.allclose(swapped(model, data, at), told, atol=1e-10), (site, pos)
                if pos is None:
                    clean = model.run(data.base).logits[torch.arange(3), data.base.column(-1)]
                    assert (told - clean).abs().amax(-1).min() > 1e-6, site


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_base_and_source_may_differ_in_length_and_position(name):
    """Each base's own position takes what stood at its source's own one, by hand, with padding on either side."""
    model = shelf.model(name)
    base, source = prompts(0), prompts(7, (3, 7, 4))
    here, there = torch.tensor([4, 0, 2]), torch.tensor([1, 6, 0])
    at = At("resid_post", layer=0, pos=here, source_pos=there, basis=random_rows(3, model.d_model, 0))
    with exact():
        told = []
        for b in range(3):
            h = model.run([base[b]], read=["resid_post"])["resid_post", 0][0, here[b]]
            s = model.run([source[b]], read=["resid_post"])["resid_post", 0][0, there[b]]
            put = h + at.basis.T @ (at.basis @ (s - h))
            run = model.run([base[b]], edits=cb.Replace("resid_post", put[None], layer=0, pos=int(here[b])))
            told.append(run.logits[0, -1])
        for sides in (("right", "right"), ("left", "right"), ("right", "left"), ("left", "left")):
            padded = [model.tokens(p, padding=side) for p, side in zip((base, source), sides, strict=True)]
            got = swapped(model, examples(model, *padded), at)
            assert torch.allclose(got, torch.stack(told), atol=1e-10)


def test_a_text_names_a_place_of_several_tokens():
    """Each prompt's own tokens of it take what stood at the source's own, wherever they stand."""
    model = cb.load("meadow")
    base, source = ["the cat ran home", "a black cat ran home"], ["the old dog ran home", "a dog ran home"]
    data = Interchanges.of(model, base, source, " the", " a")
    at = At("resid_pre", layer=1, pos="cat ran", source_pos="dog ran")
    columns = [
        [row.index(word) for row in t.text] for t, word in ((data.base, " cat"), (data.sources["variable"], " dog"))
    ]
    assert columns[0][1] == columns[0][0] + 1 and columns[1][1] == columns[1][0] - 1
    here, there = map(torch.tensor, columns)
    tokens = range(len(placed("cat ran", data.base)[0]))
    assert len(tokens) > 1
    numbers = [At("resid_pre", layer=1, pos=here + i, source_pos=there + i) for i in tokens]
    told = model.run(data.base, edits=swaps(seats(model, data, {"variable": numbers})))
    assert torch.allclose(swapped(model, data, at), told.logits[torch.arange(2), data.base.column(-1)], atol=1e-5)


def test_all_positions_of_prompts_of_unequal_length_are_swapped_once():
    model = shelf.model("gpt2")
    data = examples(model, prompts(), prompts(9))
    seat = seats(model, data, {"variable": At("resid_post", layer=0)})[0]
    assert torch.stack([edit.on for edit in seat.edits()]).sum(0).tolist() == list(LENGTHS)


def test_answers_may_be_told_at_another_position_and_among_some_tokens():
    model = shelf.model("gpt2")
    base, source = prompts(0, (6, 6)), prompts(9, (6, 6))
    own = model.run(source).logits[:, 3]
    data = Interchanges.of(model, base, source, own.argmax(-1), (own.argmax(-1) + 1) % 61, pos=torch.tensor([3, 3]))
    assert interchange_accuracy(model, data, {"variable": At("embed")}).attrs["accuracy"] == 1.0
    worst = own.argmin(-1).tolist()
    some = Interchanges.of(model, base, source, worst, 0, pos=3)
    found = interchange_accuracy(model, some, {"variable": At("embed")}, among=worst)
    assert interchange_accuracy(model, some, {"variable": At("embed")}).attrs["accuracy"] == 0.0
    kept = [worst[i] for i in own[:, worst].argmax(-1).tolist()]
    assert found.answer.values.tolist() == kept
    assert found.values.tolist() == [float(a == b) for a, b in zip(kept, worst, strict=True)]


def test_a_map_is_each_place_alone_and_goes_on_from_a_file(tmp_path):
    model = build("modular_addition", p=7, frequencies=1).model
    data = planted_truth.sums(model, "a", 40)
    found = interchange_map(model, data, site="resid_pre", checkpoint=tmp_path / "map.npz")
    again = interchange_map(model, data, site="resid_pre", checkpoint=tmp_path / "map.npz")
    assert found.dims == ("layer", "pos") and found.equals(again)
    alone = [interchange_accuracy(model, data, {"a": At("resid_pre", 0, pos=p)}).attrs["accuracy"] for p in range(4)]
    assert found.values[0].tolist() == alone and alone[1] == 1.0 and max(alone[0], *alone[2:]) < 0.4
    by_head = interchange_map(model, data, site="z", heads=[0, 1], pos=[-1])
    assert by_head.dims == ("layer", "head", "pos") and by_head.values[0, :, 0].tolist()[0] == 1.0
    assert interchange_map(model, data, site="embed", pos=[1]).layer.values.tolist() == [-1]


def test_bad_places_are_refused():
    model = shelf.model("llama")
    data = examples(model, prompts(), prompts(9))
    score = lambda at: interchange_accuracy(model, data, {"variable": at})  # noqa: E731
    with pytest.raises(UnknownSite, match="no site is called 'resid_pots'. Did you mean"):
        score(At("resid_pots", layer=0))
    with pytest.raises(UnknownSite, match="layer 9 is out of range"):
        score(At("resid_post", layer=9))
    with pytest.raises(EditError, match="give layer="):
        score(At("resid_post"))
    with pytest.raises(EditError, match="leave out layer"):
        score(At("embed", layer=0))
    with pytest.raises(EditError, match="no subspace to swap at 'pattern'"):
        score(At("pattern", layer=0))
    with pytest.raises(EditError, match="out of range at 'k': there are"):
        score(At("k", layer=0, head=7))
    with pytest.raises(EditError, match="'resid_post' has no heads"):
        score(At("resid_post", layer=0, head=1))
    with pytest.raises(EditError, match="a subspace of 40 dimensions at .* which is 32 wide"):
        score(At("resid_post", layer=0, basis=torch.randn(40, 32)))
    with pytest.raises(EditError, match="expected numbers"):
        score(At("resid_post", layer=0, basis=torch.randn(2, 31)))
    with pytest.raises(OutOfRange, match="position 5 is out of range: prompt 1"):
        score(At("resid_post", layer=0, pos=5))
    with pytest.raises(TokensError, match="1 positions in the base, 2 in its source"):
        score(At("resid_post", layer=0, pos=0, source_pos=[0, 1]))
    with pytest.raises(CasebackError, match="'other' is aligned but has no source"):
        interchange_accuracy(model, data, {"other": At("embed")})
    with pytest.raises(CasebackError, match="'variable' has sources but no place"):
        interchange_accuracy(model, data, {"variable": []})
    with pytest.raises(TokensError, match="prompts of 4 to 6 tokens have no positions in common"):
        interchange_map(model, data)
    with pytest.raises(CasebackError, match="leave out layers"):
        interchange_map(model, data, site="embed", layers=[0], pos=[0])
    assert isinstance(SUM, CausalModel)
