"""ACDC: the same circuit whatever is batched, its rule followed edge by edge, interruption and resumption."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.circuits import edge_removal as module
from caseback.localize.circuits.edge_removal import acdc
from caseback.localize.circuits.running import run_circuit
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from exact import exact

CLEAN, CORRUPT = shelf.ids((6, 6)), shelf.ids((6, 6), seed=1)
METRIC = cb.logit_diff([3, 8], [5, 11])


def one_by_one(model, metric, sign, threshold):
    """The algorithm as it is told: one edge, one run."""
    graph = Graph.of(model.anatomy)
    mask = graph.exists.clone()
    value = lambda m: sign * float(run_circuit(model, CLEAN, CORRUPT, metric, m)[0].mean())  # noqa: E731
    now = value(mask)
    for r in reversed(range(len(graph.readers))):
        for w in reversed(graph.exists[:, r].nonzero()[:, 0].tolist()):
            without = mask.clone()
            without[w, r] = False
            then = value(without)
            if then - now < threshold:
                mask, now = without, then
    return graph.circuit(graph.connected(mask))


@pytest.mark.slow
def test_3_2_24_batched_trials_find_the_circuit_of_one_edge_at_a_time():
    model = shelf.model("llama")
    with exact():
        kl, threshold = cb.kl(model.run(CLEAN)), 0.02
        found = acdc(model, CLEAN, CORRUPT, threshold=threshold, at_once=32)
        assert 0 < len(found) < len(found.scores)
        assert found == one_by_one(model, kl, 1.0, threshold)
        assert found.about["objective"] == pytest.approx(float(run_circuit(model, CLEAN, CORRUPT, kl, found).mean()))


@pytest.mark.slow
def test_3_2_24_a_metric_is_kept_from_falling():
    model = shelf.model("gpt2")
    with exact():
        found = acdc(model, CLEAN, CORRUPT, METRIC, threshold=0.3)
        assert found == acdc(model, CLEAN, CORRUPT, METRIC, threshold=0.3, at_once=1)


def test_a_threshold_out_of_reach_leaves_nothing_and_a_tiny_one_all_that_matters():
    model = shelf.model("llama")
    with exact():
        assert acdc(model, CLEAN, CORRUPT, threshold=1e9) == Circuit()
        found = acdc(model, CLEAN, CORRUPT, threshold=1e-13)
        ran = run_circuit(model, CLEAN, CORRUPT, METRIC, found)
        torch.testing.assert_close(torch.tensor(ran[0].values), torch.tensor(ran.whole.values), rtol=1e-3, atol=1e-3)


def test_an_interrupted_search_goes_on_to_the_same_circuit(tmp_path, monkeypatch):
    model, file = shelf.model("gpt2"), tmp_path / "search.safetensors"
    with exact():
        whole = acdc(model, CLEAN, CORRUPT, threshold=0.02)
        steps, step = [], module._Search.step

        def stops(self, at_once):
            if len(steps) == 5:
                raise KeyboardInterrupt
            steps.append(step(self, at_once))
            return steps[-1]

        monkeypatch.setattr(module._Search, "step", stops)
        with pytest.raises(KeyboardInterrupt):
            acdc(model, CLEAN, CORRUPT, threshold=0.02, checkpoint=file)
        done = []
        monkeypatch.setattr(module._Search, "step", lambda self, at_once: done.append(self.at) or step(self, at_once))
        found = acdc(model, CLEAN, CORRUPT, threshold=0.02, checkpoint=file)
        assert done[0] == sum(steps) > 0
        assert found == whole and found.scores == pytest.approx(whole.scores)
        with pytest.raises(CasebackError, match="was written by another call"):
            acdc(model, CLEAN, CORRUPT, threshold=0.5, checkpoint=file)


def test_what_cannot_be_searched_is_refused():
    model = shelf.model("gpt2")
    for options in ({"threshold": 0.0}, {"threshold": 0.1, "at_once": 0}):
        with pytest.raises(OutOfRange, match="expected a positive number"):
            acdc(model, CLEAN, CORRUPT, **options)
