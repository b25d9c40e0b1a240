"""Edge patching by a sweep: circuits less one edge, both directions, padding, estimates of small changes."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, TokensError
from caseback.jobs.budget import override
from caseback.jobs.job import Job
from caseback.localize.circuits import edge_attribution, patch_edges, run_circuit, select
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from exact import exact

CLEAN, CORRUPT = shelf.ids((6, 4)), shelf.ids((6, 4), seed=1)
METRIC = cb.logit_diff([3, 8], [5, 11])


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2", "qwen3"])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_3_2_22_every_effect_is_that_of_the_model_less_one_edge(name, direction):
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    edges = graph.edges[:: len(graph.edges) // 15] + graph.edges[-2:]
    pair = (CLEAN, CORRUPT) if direction == "noising" else (CORRUPT, CLEAN)
    masks = torch.stack([graph.exists & ~graph.mask(Circuit(frozenset([edge]))) for edge in edges])
    with exact():
        tokens = model.tokens(CLEAN, padding="left")
        found = patch_edges(model, tokens, CORRUPT, METRIC, edges, direction=direction)
        ran = run_circuit(model, *pair, METRIC, masks)
    assert int(found.isel(batch=0).notnull().sum()) == len(edges)
    for edge, expected in zip(edges, ran.values - ran.whole.values, strict=True):
        reader = str(edge.target) + (f".{edge.slot}" if edge.slot else "")
        told = found.sel(writer=str(edge.source), reader=reader)
        np.testing.assert_allclose(told, expected, rtol=1e-8, atol=1e-10, err_msg=str(edge))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_3_2_22_an_edge_may_carry_nothing_or_a_mean(name, ablation):
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    edges = graph.edges[:: len(graph.edges) // 10] + graph.edges[-2:]
    masks = torch.stack([graph.exists & ~graph.mask(Circuit(frozenset([edge]))) for edge in edges])
    with exact():
        found = patch_edges(model, CLEAN, None, METRIC, edges, ablation=ablation)
        ran = run_circuit(model, CLEAN, None, METRIC, masks, ablation=ablation)
    for edge, expected in zip(edges, ran.values - ran.whole.values, strict=True):
        reader = str(edge.target) + (f".{edge.slot}" if edge.slot else "")
        told = found.sel(writer=str(edge.source), reader=reader)
        np.testing.assert_allclose(told, expected, rtol=1e-8, atol=1e-10, err_msg=str(edge))


def test_3_2_22_into_the_logits_the_first_order_agrees():
    # all else is held there, so direct effects follow from the final norm alone
    model = shelf.model("gpt2")
    found, direct = (f(model, CLEAN, CORRUPT, METRIC)[:, -1].values.ravel() for f in (patch_edges, edge_attribution))
    assert np.corrcoef(found, direct)[0, 1] > 0.8


def test_all_edges_are_scores_that_choose_a_circuit():
    model = shelf.model("llama")
    effects = patch_edges(model, CLEAN, CORRUPT, METRIC)
    assert int(effects.isel(batch=0).notnull().sum()) == len(Graph.of(model.anatomy).edges)
    assert 0 < len(select(model, effects, 30)) <= 30
    again = patch_edges(model, CLEAN, CORRUPT, METRIC, select(model, effects, 30))
    np.testing.assert_allclose(again, effects.where(again.notnull()), rtol=1e-5, atol=1e-7)


def test_edges_that_cannot_be_patched_are_refused():
    model = shelf.model("llama")
    with pytest.raises(CasebackError, match="no edge to patch"):
        patch_edges(model, CLEAN, CORRUPT, METRIC, [])
    with pytest.raises(CasebackError, match="this model has no edge L9H0 -> logits"):
        patch_edges(model, CLEAN, CORRUPT, METRIC, ["L9H0 -> logits"])
    with pytest.raises(CasebackError, match="3 is no edge"):
        patch_edges(model, CLEAN, CORRUPT, METRIC, [3])
    with pytest.raises(TokensError, match="not token-aligned"):
        patch_edges(model, CLEAN, shelf.ids((6, 5)), METRIC, ["embed -> logits"])
    with pytest.raises(CasebackError, match="ablation 'none' is unknown"):
        patch_edges(model, CLEAN, CORRUPT, METRIC, ablation="none")
    with pytest.raises(CasebackError, match="give corrupt"):
        patch_edges(model, CLEAN, None, METRIC)
    with pytest.raises(CasebackError, match="no direction 'denoising'"):
        patch_edges(model, CLEAN, None, METRIC, ablation="zero", direction="denoising")


@pytest.mark.slow
def test_edges_in_a_folder_are_shared_out_and_come_to_the_same(tmp_path):
    model = shelf.model("gpt2")
    given = model, CLEAN, CORRUPT, METRIC
    plain = patch_edges(*given)
    with override(sweep_shard_tokens=60):
        many = patch_edges(*given, folder=tmp_path / "many", workers=2, threads=1)
        alone = patch_edges(*given, folder=tmp_path / "alone", threads=1)
    assert len(Job.open(tmp_path / "many")) > 3
    np.testing.assert_array_equal(many, alone)
    np.testing.assert_allclose(many, plain, rtol=1e-4, atol=1e-5)
