"""A graph comes back from circuits, viewers' files and netCDF as it was."""

import json

import numpy as np
import pytest
import xarray as xr

import caseback as cb
import shelf
from caseback.errors import (
    ResultError,
)
from caseback.localize.circuits import (
    attribution_graph,
    circuit_graph,
    graph_circuit,
    graph_effects,
    graph_scores,
    load_graph,
    node_influence,
    prune_graph,
    save_graph,
)
from graph_parts import PROMPT, transcoders


def test_a_graph_is_the_same_graph_after_a_circuit_and_a_viewers_file(tmp_path):
    model = shelf.model("llama")
    graph = prune_graph(attribution_graph(model, PROMPT, transcoders(model), first=1, mass=0.5), node=0.9)
    save_graph(graph, tmp_path / "one.json", model=model)
    for read in (circuit_graph(graph_circuit(graph)), load_graph(tmp_path / "one.json")):
        xr.testing.assert_allclose(
            read.weight.reset_coords(drop=True), graph.weight.reset_coords(drop=True).sortby("writer").sel(
                reader=read.reader.values, writer=read.writer.values)
        )  # fmt: skip
        assert graph_scores(read) == pytest.approx(graph_scores(graph))
        np.testing.assert_allclose(read.activation.sel(writer=graph.writer.values), graph.activation, atol=1e-6)
        assert read.id.values.tolist() == PROMPT[0]


def test_a_viewers_file_has_what_viewers_require(tmp_path):
    """The published schema: ids that are told apart, features paired with layers, logits above the last layer."""
    model = shelf.model("llama")
    graph = prune_graph(attribution_graph(model, PROMPT, transcoders(model), first=1, most_logits=2), node=0.95)
    save_graph(graph, tmp_path / "one.json", model=model)
    data = json.loads((tmp_path / "one.json").read_text())
    needed = {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"}
    assert all(needed <= set(node) for node in data["nodes"])
    ids = [node["node_id"] for node in data["nodes"]]
    assert len(set(ids)) == len(ids) == graph.sizes["writer"] + 2 - 1  # logits are none of the writers, biases no node
    kinds = {node["feature_type"] for node in data["nodes"]}
    assert kinds <= {"embedding", "cross layer transcoder", "mlp reconstruction error", "logit"}
    logits = [node for node in data["nodes"] if node["feature_type"] == "logit"]
    assert {node["layer"] for node in logits} == {str(model.n_layers + 1)}
    assert sum(node["token_prob"] for node in logits) == pytest.approx(float(graph.target_weight.sum()))
    feature = next(node for node in data["nodes"] if node["feature_type"] == "cross layer transcoder")
    layer, index, pos = map(int, feature["node_id"].split("_"))
    assert feature["feature"] == (layer + index) * (layer + index + 1) // 2 + index and feature["ctx_idx"] == pos
    held = sorted(node["influence"] for node in data["nodes"] if node["influence"] is not None)
    assert 0 < held[0] <= held[-1] <= 1 + 1e-6
    assert data["metadata"]["schema_version"] == 1 and data["metadata"]["prompt_tokens"]


def test_a_circuit_of_heads_is_no_attribution_graph():
    with pytest.raises(ResultError, match="is no attribution graph"):
        circuit_graph(cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits"))
    with pytest.raises(ResultError, match="is no attribution graph: it has no"):
        node_influence(xr.Dataset())


def test_a_graph_with_a_foil_comes_back_from_netcdf_and_from_a_file(tmp_path):
    model = cb.load("meadow")
    graph = attribution_graph(model, "Mary gave the ball to", targets=" John", foil=" Mary", max_nodes=20)
    graph.to_netcdf(tmp_path / "graph.nc")
    stored = xr.load_dataset(tmp_path / "graph.nc")
    save_graph(stored, tmp_path / "graph.json", model=model)
    back = load_graph(tmp_path / "graph.json")
    effects = graph_effects(model, graph, groups=["embed@1"])
    for other in (stored, back):
        again = graph_effects(model, other, groups=["embed@1"])
        np.testing.assert_allclose(again.measured, effects.measured, rtol=1e-6)
        np.testing.assert_allclose(again.predicted, effects.predicted, rtol=1e-6)
    (label,) = [n["clerp"] for n in json.loads((tmp_path / "graph.json").read_text())["nodes"] if n["is_target_logit"]]
    assert label.endswith(f"(p={float(graph.probability[-1]):.3f})")  # and not the weight, which is 1
    assert float(back.probability[-1]) == pytest.approx(float(graph.probability[-1]))
