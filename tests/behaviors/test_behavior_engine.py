"""Behaviors: hand-made circuits are found with all their roles and nothing else, and effects are those of single runs."""

import json
import string

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import caseback as cb
from caseback.behaviors import BEHAVIORS, Behavior, Role, behavior, overlap
from caseback.behaviors.mechanisms.chance import margin
from caseback.behaviors.mechanisms.scene import Scene, name_of, parts_of
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.circuits.path_patching import path_patch
from caseback.organisms.compiled import build
from caseback.organisms.compiled.indirect_object import NAMES, ROLES, TEMPLATES
from caseback.reports.behavior import behavior_document
from zoo import redraw, tiny


@pytest.fixture(scope="module")
def giving():
    task = cb.tasks.ioi(templates=TEMPLATES).with_fillers(names=NAMES)
    return behavior(build("indirect_object").model, "ioi", task=task)


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def untrained():
    model = cb.load("meadow").hf
    redraw(model, seed=1)
    return cb.load(model, tokenizer=cb.load("meadow").tokenizer)


def test_5_4_4_the_hand_made_circuit_has_its_roles_and_no_other(giving):
    assert giving.present
    expected = {(str(head), role.split(" (")[0]) for head, role in ROLES.items() if not role.startswith("backup")}
    proved = {(head.component, head.kind) for head in giving.heads if head.grade == "proved"}
    assert proved == expected


def test_5_1_6_the_compiled_induction_circuit_is_found():
    model = build("induction", alphabet=tuple(string.ascii_lowercase), max_length=16).model
    report = behavior(model, "induction", task=cb.tasks.induction(length=6), prompts=12)
    assert (report.proved("induction"), report.proved("previous token")) == (("L1H0",), ("L0H0",))


def test_a_model_that_was_not_trained_has_no_behavior_and_no_head_is_named(untrained):
    for name in ("ioi", "agreement", "successor", "induction"):
        report = behavior(untrained, name, prompts=10)
        assert not report.present and not report.roles and not len(report.heads) and report.carried is None
        (row,) = behavior_document(untrained, [report])["behaviors"]
        assert row["heads"] == [] and row["present"] is False


def test_the_trained_model_has_behaviors_that_it_has_learned(meadow):
    reports = {name: behavior(meadow, name, places=False) for name in BEHAVIORS}
    assert all(report.present for report in reports.values())
    assert reports["multiple_choice"].proved("content gatherer")[0] == "L3H2"
    assert set(reports["induction"].proved("previous token")) == {"L0H2", "L1H4"}
    found = set(reports["induction"].proved("induction"))
    assert len(found) >= 4 and found <= {f"L2H{head}" for head in range(5)}
    assert "L2H0" in reports["ioi"].proved("first-name mover") and not reports["ioi"].proved("name mover")
    assert "L2H3" in reports["ioi"].proved("second-name mover")
    document = behavior_document(meadow, list(reports.values()))
    assert json.loads(json.dumps(document)) == document


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox", "mixtral", "olmo2"])
def test_falls_are_those_of_single_runs_in_every_family(family):
    model = cb.load(tiny(family, torch.float32))
    own = BEHAVIORS["induction"]
    prompts = cb.tasks.induction(length=6).prompts(model, 4)
    scene = Scene(model, own, prompts)
    clean, corrupt = model.run(prompts.clean), model.run(prompts.corrupt, read=["z"])
    direct, total = own.roles
    parts = parts_of(model, "head")
    falls = scene.falls(total, [[part] for part in parts], {})
    lookups = scene.look("B", "A")
    pattern = model.run(prompts.clean, read=["pattern"])
    for i, (_, layer, head) in enumerate(parts):
        edit = cb.Resample("z", corrupt, layer=layer, head=head, pos=prompts.at("B"))
        alone = prompts.metric(clean) - prompts.metric(model.run(prompts.clean, edits=edit))
        np.testing.assert_allclose(falls[i], alone.double().numpy(), atol=1e-5)
        for row in range(4):
            first = int(prompts.clean.first[row])
            q, k = (first + int(prompts.at(place)[row]) for place in ("B", "A"))
            assert lookups[i, row] == pytest.approx(float(pattern["pattern", layer][row, head, q, k]), abs=1e-6)
    ways = {"receivers": ["logits"], "senders": [name_of(part) for part in parts], "pos": -1}
    alone = path_patch(model, prompts.clean, prompts.corrupt, prompts.metric, **ways)
    np.testing.assert_allclose(scene.falls(direct, [[part] for part in parts], {}), -alone.values, atol=1e-6)


def test_what_a_set_does_is_one_run_with_all_its_edits(meadow):
    prompts = cb.tasks.agreement().prompts(meadow, 6)
    scene = Scene(meadow, BEHAVIORS["agreement"], prompts)
    role = BEHAVIORS["agreement"].roles[0]
    corrupt = meadow.run(prompts.corrupt, read=["z"])
    edits = [cb.Resample("z", corrupt, layer=layer, head=0, pos=-1) for layer in (1, 2)]
    alone = prompts.metric(meadow.run(prompts.clean)) - prompts.metric(meadow.run(prompts.clean, edits=edits))
    (together,) = scene.together(role, [[("head", 1, 0), ("head", 2, 0)]])
    np.testing.assert_allclose(together, alone.double().numpy(), atol=1e-4)


def test_what_a_place_carries_is_one_run(meadow):
    prompts = cb.tasks.agreement().prompts(meadow, 6)
    scene = Scene(meadow, BEHAVIORS["agreement"], prompts)
    shares = scene.carried([0, 3])
    clean, corrupt = (meadow.run(side, read=["resid_pre"]) for side in (prompts.clean, prompts.corrupt))
    gap = float((prompts.metric(clean) - prompts.metric(corrupt)).mean())
    edit = cb.Resample("resid_pre", corrupt, layer=3, pos=-1)
    lost = prompts.metric(clean) - prompts.metric(meadow.run(prompts.clean, edits=edit))
    assert shares[2, 1] == pytest.approx(float(lost.mean()) / gap, abs=1e-5)
    assert shares[0, 0] == pytest.approx(1, abs=1e-5)  # before all layers the subject alone differs


def test_chance_is_the_mean_over_all_pairs_of_prompts_and_answers(meadow):
    prompts = cb.tasks.successor().prompts(meadow, 12)
    run = meadow.run(prompts.clean)
    logits = run.logits[torch.arange(12), prompts.clean.column(-1)]
    pairs = torch.tensor(
        [[float(row[t[0]] - row[f[0]]) for t, f in zip(prompts.target, prompts.foil, strict=True)] for row in logits]
    )
    measured = margin(meadow, prompts)
    spread = 200**-0.5 * float(pairs.std()) / 12**0.5
    assert measured.chance == pytest.approx(float(pairs.mean()), abs=6 * spread)
    assert measured.clean == pytest.approx(float(pairs.diagonal().mean()), abs=1e-5)
    assert measured.band > measured.chance and 0 <= measured.right <= 1


def test_a_behavior_of_ones_own_is_measured(meadow):
    own = Behavior(
        "its capital",
        "The capital of a country.",
        lambda: cb.tasks.relation(),
        (Role("reader", "reads the end", "end", by="direct"), Role("late MLP", "writes", "end", sort="mlp")),
        "5.4.19",
        "nobody",
    )
    report = behavior(meadow, own, prompts=8)
    assert report.present and {role.name for role in report.roles} == {"reader", "late MLP"}
    assert all(head.draw["random_parts"] > 0 for head in report.heads)


def test_overlap_is_that_of_random_sets(giving):
    same = overlap(giving, giving)
    assert same.jaccard == 1.0 and same.chance is not None and same.chance < 1
    sizes, total = same.sizes[0], giving.about_model["parts"]
    rng = np.random.default_rng(0)
    drawn = [len(set(rng.permutation(total)[:sizes]) & set(rng.permutation(total)[:sizes])) for _ in range(4000)]
    jaccards = np.array(drawn) / (2 * sizes - np.array(drawn))
    assert same.chance == pytest.approx(jaccards.mean(), abs=0.01)
    assert same.p == pytest.approx(np.mean(np.array(drawn) >= sizes), abs=0.01)


@pytest.mark.parametrize("cut", ["whole", "digits"])
def test_the_decade_is_where_the_two_years_differ(meadow, assets, cut):
    model = meadow if cut == "whole" else AutoTokenizer.from_pretrained(assets / "models" / "stories3M")
    prompts = cb.tasks.greater_than().prompts(model, 6)
    at = BEHAVIORS["greater_than"].at(prompts, "decade") + prompts.clean.first.cpu()
    rows = torch.arange(6)
    assert bool((prompts.clean.ids[rows, at] != prompts.corrupt.ids[rows, at]).all())


def test_names_of_parts():
    assert [name_of(part) for part in (("head", 1, 2), ("mlp", 3, -1))] == ["L1H2", "MLP 3"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Role("a", "b", "end", "IO", sort="mlp"), "an MLP looks nowhere"),
        (lambda: Role("a", "b", "S2", by="direct"), "logits are read at the end"),
        (lambda: Role("a", "b", "end", sort="neuron"), "sort 'neuron' is unknown"),
        (lambda: Behavior("a", "b", cb.tasks.ioi, (Role("c", "d", "end", by="e"),), "5.4.4", "f"), "a role before it"),
        (lambda: Behavior("a", "b", cb.tasks.ioi, (Role("c", "d", "end"),) * 2, "5.4.4", "f"), "two roles are called"),
    ],
)
def test_roles_that_cannot_be_are_refused(make, words):
    with pytest.raises(CasebackError, match=words):
        make()


def test_bad_input_is_refused(meadow, giving):
    with pytest.raises(CasebackError, match="no behavior is called 'ionic'"):
        behavior(meadow, "ionic")
    with pytest.raises(OutOfRange, match="3 prompts"):
        behavior(meadow, "ioi", prompts=3)
    with pytest.raises(OutOfRange, match="top is 0"):
        behavior(meadow, "ioi", top=0)
    with pytest.raises(CasebackError, match="no position is called"):
        behavior(meadow, "ioi", task=cb.tasks.agreement(), prompts=8)
    with pytest.raises(CasebackError, match="expected two of one model"):
        overlap(giving, behavior(meadow, "induction", prompts=4, places=False))
    with pytest.raises(CasebackError, match="expected reports of 'meadow'"):
        behavior_document(meadow, [giving])
    with pytest.raises(CasebackError, match="no behavior was measured"):
        behavior_document(meadow, [])
