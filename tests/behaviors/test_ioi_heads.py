"""Indirect object identification, head by head: the hand-made circuit's roles are found, and effects are exact."""

import numpy as np
import pytest

import caseback as cb
from caseback.behaviors import ioi_heads
from caseback.errors import CasebackError
from caseback.model.circuit import Node
from caseback.organisms.compiled import build
from caseback.organisms.compiled.indirect_object import NAMES, ROLES, TEMPLATES


@pytest.fixture(scope="module")
def handmade():
    model = build("indirect_object").model
    return model, cb.tasks.ioi(templates=TEMPLATES).with_fillers(names=NAMES).prompts(model, 40)


def test_5_4_4_the_roles_of_the_hand_made_circuit_are_found(handmade):
    model, prompts = handmade
    found = ioi_heads(model, prompts)
    roles = dict(zip(found.component.values.tolist(), found.role.values.tolist(), strict=True))
    for head, role in ROLES.items():
        # the backup does nothing while the name movers work
        expected = "" if role.startswith("backup") else role.split(" (")[0]
        assert roles[str(head)] == expected, head
    assert found.direct.sel(component="L3H0").mean() > 1.5 and found.direct.sel(component="L4H0").mean() < -0.5


def test_effects_are_those_of_single_runs(handmade):
    model, prompts = handmade
    found = ioi_heads(model, prompts)
    clean, corrupt = (model.run(tokens, read=["z", "head_out"]) for tokens in (prompts.clean, prompts.corrupt))
    metric = prompts.metric
    head = cb.Resample("z", corrupt, layer=2, head=1)
    lost = (metric(clean) - metric(model.run(prompts.clean, edits=head))).numpy()
    np.testing.assert_allclose(found.total.sel(component="L2H1"), lost, atol=1e-4)
    change = (corrupt["head_out", 2] - clean["head_out", 2])[:, -1, 1]
    queries = [cb.Add("q_in", change, layer=3, head=mover, pos=-1) for mover in (0, 1)]
    same_length = len({len(row) for row in prompts.clean.text}) == 1
    if same_length:
        lost = (metric(clean) - metric(model.run(prompts.clean, edits=queries))).numpy()
        np.testing.assert_allclose(found.through_name_movers.sel(component="L2H1"), lost, atol=1e-4)


def test_silencing_the_movers_wakes_the_backup(handmade):
    model, prompts = handmade
    silenced = [cb.Zero("z", layer=3, head=head) for head in (0, 1)]
    left = prompts.metric(model.run(prompts.clean, edits=silenced))
    without = prompts.metric(model.run(prompts.clean, edits=[*silenced, cb.Zero("z", layer=4, head=1)]))
    assert Node.parse("L4H1") in build("indirect_object").circuit
    assert float(left.mean()) > 2 and abs(float(without.mean())) < 0.2


def test_prompts_of_another_task_are_refused():
    model = cb.load("meadow")
    with pytest.raises(CasebackError, match="these prompts name no IO"):
        ioi_heads(model, cb.tasks.greater_than().prompts(model, 3))


def test_a_real_model_moves_the_answer_from_the_second_mention_of_the_subject(assets):
    model = cb.load(assets / "models" / "stories3M")
    templates = (
        "{A} and {B} went to the {place}. {S2} gave the {thing} to",
        "One day, {A} and {B} were at the {place}. {S2} gave a {thing} to",
    )
    names = ("Tom", "Lily", "Tim", "Sue", "Ben", "Anna", "Max", "Mia", "Sam", "Lucy")
    words = {"places": ("park", "store", "beach", "farm"), "things": ("ball", "toy", "cake", "book")}
    prompts = cb.tasks.ioi(templates=templates).with_fillers(names=names, **words).prompts(model, 60)
    found = ioi_heads(model, prompts)
    roles = dict(zip(found.component.values.tolist(), found.role.values.tolist(), strict=True))
    assert roles["L4H4"] == "S2 mover" and roles["L2H2"] == "duplicate token"
    assert "name mover" not in roles.values()
    # what it moves is at S2 before its layer: the counterfactual's stream there alone takes more than half away
    run = model.run(prompts.corrupt, read=["resid_pre"])
    at = prompts.at("S2")
    swapped = prompts.metric(model.run(prompts.clean, edits=cb.Resample("resid_pre", run, layer=4, pos=at)))
    assert float(swapped.mean()) < 0.5 * float(found.clean.mean())
