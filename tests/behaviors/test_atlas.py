"""The atlas: planted heads are found in every kind of family, nothing on the control; known organisms and meadow."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors import KINDS, atlas, load_atlas, save_atlas
from caseback.behaviors.kinds import Look, false_labels, labels, look_at
from caseback.behaviors.proofs.proving import Likeness
from caseback.behaviors.stream.facts import ENTRIES as FACT_ENTRIES
from caseback.behaviors.synthetic import FOLDS, streams
from caseback.errors import CasebackError, LoadError
from caseback.organisms.compiled import build
from caseback.reports.atlas import atlas_document
from caseback.reports.explain import explain
from caseback.stream import collect
from zoo import tiny

FAMILIES = (
    "gpt2",
    "llama",
    "bloom",
    "gpt_neox",
    "mixtral",
    "gemma2",
)  # learned, rotary, ALiBi, parallel, MoE, post-norm
HEADS = ("previous token", "duplicate token", "induction")


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


def _planted(name, offset):
    """A tiny random model whose L1H0 looks a fixed distance back, whatever it reads."""

    def look_back(pattern):
        # (token, head, key): rows without padding, one behind another
        width = pattern.shape[-1]
        planted = torch.zeros_like(pattern)
        tokens = torch.arange(len(pattern))
        planted[tokens, :, (tokens % width - offset).clamp_min(0)] = 1
        return planted

    return cb.load(tiny(name)).edited([cb.Apply("pattern", layer=1, head=0, function=look_back)])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_planted_previous_token_head_is_found_and_nothing_else(name):
    found = atlas(_planted(name, 1), kinds=HEADS, proofs=False)
    assert found.labels() == {"L1H0": ["previous token"]}
    assert [report.false_labels for report in found.kinds] == [0, 0, 0]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_random_model_has_no_head_of_a_kind(name):
    found = atlas(cb.load(tiny(name)), kinds=HEADS, proofs=False)
    assert found.labels() == {}


def test_a_head_of_a_fixed_distance_is_no_induction_head():
    model = cb.load(tiny("llama"))
    rows = streams(model)["repeated"][0]
    span = sum(place >= 0 for place in rows[0][1]["same"])
    found = atlas(_planted("llama", span - 1), kinds=["induction"], proofs=False)
    scores = found.scores["induction"].set_index("unit")
    assert found.labels() == {} and scores.score["L1H0"] < 0.2


def test_heads_that_change_places_change_labels():
    hf = tiny("gpt2")
    first = atlas(cb.load(hf), kinds=HEADS, proofs=False)
    swapped = tiny("gpt2")
    attn = swapped.transformer.h[0].attn
    d_head, d = attn.head_dim, attn.embed_dim
    order = torch.arange(d).view(-1, d_head).flip(0).flatten()
    with torch.no_grad():
        columns = torch.cat([order + part * d for part in range(3)])
        attn.c_attn.weight.copy_(attn.c_attn.weight[:, columns])
        attn.c_attn.bias.copy_(attn.c_attn.bias[columns])
        attn.c_proj.weight.copy_(attn.c_proj.weight[order])
    second = atlas(cb.load(swapped), kinds=HEADS, proofs=False)
    n = d // d_head
    for kind in HEADS:
        one, other = (a.scores[kind].set_index("unit").score for a in (first, second))
        for head in range(n):
            np.testing.assert_allclose(other[f"L0H{head}"], one[f"L0H{n - 1 - head}"], atol=1e-10)


def test_known_heads_of_organisms_are_proved():
    found = atlas(build("induction").model, kinds=HEADS)
    assert {(f.component, f.kind, f.grade) for f in found.findings} == {
        ("L0H0", "previous token", "proved"),
        ("L1H0", "induction", "proved"),
    }


def test_the_strongest_pattern_of_meadow_is_not_the_cause(meadow):
    found = atlas(meadow, kinds=["previous token", "induction"], top=2)
    previous = {f.component: f for f in found.candidates.of("previous token")}
    assert previous["L1H4"].score > previous["L0H2"].score  # on random tokens alone
    assert previous["L0H2"].draw["proved"] == "alone" and previous["L0H2"].effect < 10 * previous["L1H4"].effect < 0
    # dispensable while L0H2 is there; with it gone, a third of what both carry
    assert previous["L1H4"].draw["proved"] == "among its kind" and 0.2 < previous["L1H4"].draw["restores"] < 0.5
    induction = {unit for unit, kinds in found.labels().items() if "induction" in kinds}
    assert {f"L2H{head}" for head in range(5)} <= induction


def test_induction_heads_of_meadow_are_proved_together_where_one_is_dispensable(meadow):
    heads = atlas(meadow, kinds=["induction"], top=2).candidates.of("induction")
    for head in heads:
        alone, together = abs(head.effect), abs(head.draw["all of the kind"])
        assert alone < 0.1 < together and head.draw["restores"] > 0.1
        assert together > abs(head.draw["matched sets"]) and head.grade == "proved"
        assert head.unit == "nats a token"


def test_streams_stand_in_the_relations_that_they_name(meadow):
    rows = streams(meadow, rows=FOLDS)
    for (ids, labeled), (other, _) in zip(rows["shuffled"][0], rows["fresh"][0], strict=True):
        for i, (same, after) in enumerate(zip(labeled["same"], labeled["next"], strict=True)):
            if same >= 0:
                assert ids[same] == ids[i] and other[i] not in other[:i]
            if after >= 0:
                assert after == same + 1


def test_a_relation_by_labels_is_the_attention_to_the_place_that_they_name(meadow):
    ids = meadow.tokens("Mary and John went to the store").ids[0].tolist()
    to = [-1, -1, 0, 2, 1, 4, -1, 3][: len(ids)]
    table = {"attention_relations": {"relations": ("to:place",), "skip": 0}}
    got = collect(meadow, [(ids, {"place": to})], [table], bos=False)["attention_relations"]["mean"][0, 1, 0]
    pattern = meadow.run([ids], read=["pattern"])["pattern", 0][0, 1]
    expected = np.mean([float(pattern[i, j]) for i, j in enumerate(to) if j >= 0])
    np.testing.assert_allclose(float(got), expected, rtol=1e-5)


def test_labels_and_false_labels_are_of_different_halves():
    score, control = np.zeros((3, 8)), np.zeros((3, 8))
    score[0], score[1, :4], control[2, 4:] = 1, 1, 1
    look = look_at(score, control)
    assert labels(look, 0.5).tolist() == [True, False, False]  # the second only where it was ranked
    assert false_labels(look, 0.5) == 1
    raised = dataclasses.replace(look, band=2.0)
    assert isinstance(raised, Look) and not labels(raised, 0.5).any()


def test_controls_are_unlabeled_and_near(meadow):
    found = atlas(meadow, kinds=["induction"], top=1)
    assert found.candidates.of("induction")[0].draw["matched units"] is not None
    from caseback.behaviors.evidence import collect_evidence

    evidence = collect_evidence(meadow, None, {"fresh": ["head_moments"]})
    like = Likeness(evidence, "head", labelled=[10, 11])
    near = like.nearest(0)
    assert 0 not in near and 10 not in near and len(near) == len(evidence.heads) - 3
    assert len(like.pool([0, 5], size=6)) == 6 and not {0, 5, 10, 11} & set(like.pool([0, 5], size=6))


def test_an_atlas_comes_back_from_its_folder(meadow, tmp_path):
    found = atlas(meadow, kinds=["induction", "attention sink"], top=1)
    save_atlas(found, tmp_path / "meadow")
    back = load_atlas(tmp_path / "meadow")
    assert json.dumps(atlas_document(back)) == json.dumps(atlas_document(found))
    assert back.labels() == found.labels()
    (tmp_path / "meadow" / "units.csv.gz").write_text("unit,kind\n")
    with pytest.raises(LoadError, match="no whole atlas"):
        load_atlas(tmp_path / "meadow")


def test_explain_says_what_parts_are_known_for(meadow):
    prompt = "When Mary and John went to the store, John gave a drink to"
    found = atlas(meadow, kinds=["induction", "copying"], top=1, proofs=False)
    story = explain(meadow, prompt, depth="quick", steps=4, atlas=found)["story"]
    known = {part["name"]: part["known"] for part in story["parts"]}
    assert known and known == {name: [f"{f.kind} ({f.grade})" for f in found.of(name)] for name in known}
    with pytest.raises(CasebackError, match="of another model: its model is 'meadow'"):
        explain(cb.load(tiny("gpt2")), [1, 2, 3], atlas=found)


def test_what_cannot_be_looked_for_says_why(meadow):
    missing = {report.kind: report.missing for report in atlas(meadow, top=1, proofs=False).kinds if report.missing}
    assert missing["attention sink"] == "no text was given"
    small = {report.kind: report.missing for report in atlas(build("and_gate").model, proofs=False).kinds}
    assert "expected room for two different spans" in small["induction"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kinds": ["inducton"]}, "Did you mean"),
        ({"kinds": []}, "no kind is named"),
        ({"top": 0}, "expected 1 candidate"),
        ({"corpus": ["one document alone"], "kinds": ["attention sink"]}, "two at least"),
    ],
)
def test_bad_input_is_refused_in_words(meadow, given, words):
    with pytest.raises(CasebackError, match=words):
        atlas(meadow, **given)


def test_a_finding_says_whether_it_is_proved_with_proofs_and_without(meadow):
    for proofs in (True, False):
        found = atlas(meadow, kinds=["induction"], top=2, proofs=proofs)
        assert all(f.draw["proved"] in ("", "alone", "among its kind") for f in found.candidates)
        assert any(f.draw["proved"] for f in found.candidates) is proofs


def test_the_entries_of_the_atlas_are_those_of_its_kinds_and_facts():
    listed = set(atlas.technique.entry)
    assert listed >= {kind.entry for kind in KINDS.values()} | {"5.3.1", "5.3.5", "5.3.7"}
    assert listed - {kind.entry for kind in KINDS.values()} <= {*FACT_ENTRIES, "B.18", "B.19"}


def test_an_atlas_comes_from_the_hub_too(meadow, tmp_path, monkeypatch):
    import huggingface_hub

    found = atlas(meadow, kinds=["induction"], top=1, proofs=False)
    save_atlas(found, tmp_path)
    asked = []

    def download(repository, path, revision=None):
        asked.append((repository, path, revision))
        return str(tmp_path / path.rsplit("/")[-1])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert load_atlas("hf://ours/atlases/meadow?revision=v2").labels() == found.labels()
    assert asked == [("ours/atlases", f"meadow/{name}", "v2") for name in ("atlas.json", "units.csv.gz")]


def test_every_kind_says_what_it_looks_at():
    for kind in KINDS.values():
        assert kind.entry and kind.citation and kind.looks_at and kind.control_is
        assert kind.sort in ("head", "neuron", "expert", "dimension") and kind.sign in (-1, 0, 1)


def test_proofs_go_on_after_an_interruption(meadow, tmp_path, monkeypatch):
    from caseback.behaviors.proofs import of_candidates

    ran, proves, stop = [], of_candidates.outcomes_of, [None]

    def outcomes_of(evidence, experiment, plans, **how):
        if experiment.name == stop[0]:
            raise KeyboardInterrupt
        ran.append(experiment.name)
        return proves(evidence, experiment, plans, **how)

    monkeypatch.setattr(of_candidates, "outcomes_of", outcomes_of)
    given = {"kinds": ["copying", "successor"], "top": 1}
    plain = atlas(meadow, **given).candidates.to_json()
    assert len(ran) == 2 and len(set(ran)) == 2
    stop[0] = ran[1]
    with pytest.raises(KeyboardInterrupt):
        atlas(meadow, **given, folder=tmp_path)
    first, stop[0] = ran[0], None
    ran.clear()
    assert atlas(meadow, **given, folder=tmp_path).candidates.to_json() == plain
    assert ran and first not in ran  # only the one that was interrupted
    ran.clear()
    assert atlas(meadow, **given, folder=tmp_path).candidates.to_json() == plain and not ran
    # of another model, another number of candidates or another seed they are others
    for other in ({"seed": 1}, {"top": 2}):
        ran.clear()
        atlas(meadow, **given | other, folder=tmp_path)
        assert first in ran
    atlas(meadow, **given, folder=tmp_path)
    (tmp_path / "proofs" / f"{first.replace(' ', '-')}.json").write_text("{")
    ran.clear()
    assert atlas(meadow, **given, folder=tmp_path).candidates.to_json() == plain and ran == [first]
