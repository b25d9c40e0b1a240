"""Findings carry their controls: planted heads are proved, a model without the behavior yields none."""

import json

import numpy as np
import pytest

import caseback as cb
from caseback.behaviors import find_ioi_heads, ioi_heads
from caseback.errors import CasebackError, OutOfRange
from caseback.model.findings import Finding, Findings, band_of_best
from caseback.organisms.compiled import build
from caseback.organisms.compiled.indirect_object import NAMES, TEMPLATES


def prompts_of(model, n=40):
    return cb.tasks.ioi(templates=TEMPLATES).with_fillers(names=NAMES).prompts(model, n)


def test_the_heads_of_the_written_circuit_are_proved_and_no_other_is():
    organism = build("indirect_object")
    model, prompts = organism.model, prompts_of(organism.model)
    findings = find_ioi_heads(model, prompts)
    written = {str(node) for node, role in organism.circuit.roles.items() if node.kind == "head"}
    assert {f.component for f in findings} <= written
    assert {"name mover", "S-inhibition"} <= set(findings.kinds)
    measured = ioi_heads(model, prompts)
    for finding in findings:
        assert finding.score > finding.band >= finding.control - 1e-9 and finding.unit == "logit difference"
        at = measured.component.values.tolist().index(finding.component)
        assert finding.effect == pytest.approx(float(measured.total.values[at].mean()))
        assert finding.kind == measured.role.values[at]
        source = model.run(prompts.corrupt, read=["z"])
        patched = model.run(
            prompts.clean,
            edits=cb.Resample("z", source, layer=int(measured["layer"][at]), head=int(measured["head"][at])),
        )
        metric = prompts.measured("logit_diff")
        by_hand = float((metric(model.run(prompts.clean)) - metric(patched)).mean())
        assert finding.effect == pytest.approx(by_hand, abs=1e-4)


def test_heads_that_look_without_the_relation_are_no_findings():
    """A model whose heads look at the same places whatever stands there: the control takes them away."""
    organism = build("indirect_object")
    model, prompts = organism.model, prompts_of(organism.model)
    scores = np.ones((3, 10)) * np.array([[0.9], [0.1], [0.2]])
    assert band_of_best(scores) == pytest.approx(0.9)
    assert len(find_ioi_heads(model, prompts, effect=1e9)) == 0


def test_the_band_is_the_quantile_of_the_largest_resampled_mean():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(7, 30))
    draws = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=1000)
    by_hand = np.quantile([max(float((row * d).sum() / 30) for row in scores) for d in draws], 0.95)
    assert band_of_best(scores) == pytest.approx(by_hand)
    with pytest.raises(OutOfRange, match="one of each at least"):
        band_of_best(np.zeros((0, 3)))
    with pytest.raises(OutOfRange, match="expected 0 to 1"):
        band_of_best(scores, quantile=2)


def test_findings_are_plain_data_and_come_back():
    one = Finding("L3H2", "name mover", 0.9, 0.1, 0.2, -1.5, "logit difference", "seen", {"key": "IO"})
    found = Findings((one,), {"model": "tiny"})
    assert Findings.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(CasebackError, match="grade 'sen' is unknown. Did you mean seen"):
        Finding("L3H2", "name mover", 0.9, 0.1, 0.2, -1.5, "logit difference", "sen")
    for data in ([], {"format": "other"}, {"format": "caseback findings 1", "about": {}, "findings": [{"kind": "x"}]}):
        with pytest.raises(CasebackError, match="findings"):
            Findings.from_json(data)
