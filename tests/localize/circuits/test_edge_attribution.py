"""Edge attribution: derivatives of exact edge patches, sums over a writer's edges, completeness."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.jobs import budget
from caseback.localize.circuits import edge_attribution, hisp, mean_writes, node_attribution, run_circuit, select
from caseback.localize.circuits.machinery.writes import changes, sites_of_writes
from caseback.localize.components.attribution_patching import attribution_patching
from caseback.model.circuit import Circuit
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.model.graph.graph import Graph
from exact import exact

NAMES = "gpt2 gpt_neox llama gemma2 qwen3 mixtral crystal falcon olmo2".split()
CLEAN = shelf.ids((7, 7))
CORRUPT = shelf.ids((7, 7), seed=1)
METRIC = cb.logit_diff([3, 8], [5, 11])


def patched(model, tokens, change, edge, graph, size):
    """The metric where one reader sees ``size`` times one writer's change."""
    writers = {node: i for i, node in enumerate(graph.writers)}
    value = size * change[:, writers[edge.source]]
    if edge.target.kind == "logits":
        edit = cb.Add("resid_post", value, layer=-1)
    elif edge.target.kind == "mlp":
        edit = cb.Add("mlp_in", value, layer=edge.target.layer)
    else:
        edit = cb.Add(f"{edge.slot}_in", value, layer=edge.target.layer, head=edge.target.index)
    return METRIC(model.run(tokens, edits=edit))


@pytest.mark.parametrize("name", NAMES)
def test_3_2_25_a_score_is_the_derivative_of_the_exact_edge_patch(name):
    model = shelf.model(name)
    tokens, other = model.tokens(CLEAN), model.tokens(CORRUPT)
    graph = Graph.of(model.anatomy)
    with exact():
        scores = edge_attribution(model, tokens, other, METRIC)
        reads = sites_of_writes(model, graph)
        change = changes(model, model.run(tokens, read=reads), model.run(other, read=reads), graph)
        edges = graph.edges[:: max(1, len(graph.edges) // 30)] + graph.edges[-3:]
        for edge in edges:
            reader = str(edge.target) + (f".{edge.slot}" if edge.slot else "")
            up, down = (patched(model, tokens, change, edge, graph, sign * 1e-4) for sign in (1, -1))
            slope = ((up - down) / 2e-4).numpy()
            np.testing.assert_allclose(
                scores.sel(writer=str(edge.source), reader=reader).values,
                slope,
                rtol=1e-5,
                atol=1e-5,
                err_msg=str(edge),
            )


@pytest.mark.parametrize("name", NAMES)
def test_3_2_15_a_writers_edges_sum_to_its_node_estimate(name):
    model = shelf.model(name)
    with exact():
        scores = edge_attribution(model, CLEAN, CORRUPT, METRIC).sum("reader")
        nodes = attribution_patching(model, CLEAN, CORRUPT, METRIC, sites=["head_out", "mlp_out", ("resid_pre", 0)])
    np.testing.assert_allclose(scores.sel(writer="embed"), nodes["resid_pre"].sel(layer=0).sum("pos"), rtol=1e-9)
    for layer in range(model.n_layers):
        mlp = nodes["mlp_out"].sel(layer=layer).sum("pos")
        np.testing.assert_allclose(scores.sel(writer=f"MLP {layer}"), mlp, rtol=1e-9, atol=1e-12)
        for head in range(model.n_heads):
            mine = nodes["head_out"].sel(layer=layer, head=head).sum("pos")
            np.testing.assert_allclose(scores.sel(writer=f"L{layer}H{head}"), mine, rtol=1e-9, atol=1e-12)


# RMSNorm bends more where an interpolated embedding is short, so Llama's shapes need more points
@pytest.mark.parametrize(
    ("name", "points"), [("gpt2", 60), ("gpt_neox", 60), ("gemma2", 60), ("llama", 120), ("qwen3", 250)]
)
def test_3_2_26_over_the_inputs_edges_ig_sums_to_the_metrics_difference(name, points):
    model = shelf.model(name)
    with exact():
        scores = edge_attribution(model, CLEAN, CORRUPT, METRIC, steps=points, rule="gauss_legendre")
    total = scores.sel(writer="embed").sum("reader")
    np.testing.assert_allclose(total, scores.corrupt - scores.clean, rtol=1e-6, atol=1e-6)


def linear_model():
    """A residual DAG of linear maps: no norms, attention uniform, MLPs linear."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 2}
    hf = CrystalForCausalLM(CrystalConfig(**sizes, hidden_act="linear", initializer_range=0.3)).double().eval()
    for layer in hf.model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
    return cb.load(hf)


def test_3_2_25_on_a_linear_dag_every_score_is_its_exact_patch():
    model, metric = linear_model(), cb.logit_diff([3, 5], [7, 2])
    graph = Graph.of(model.anatomy)
    pair = [[1, 2, 3], [4, 4, 9]], [[4, 5, 6], [1, 2, 3]]
    scores = edge_attribution(model, *pair, metric)
    masks = torch.stack([graph.exists & ~graph.mask(Circuit(frozenset([edge]))) for edge in graph.edges])
    ran = run_circuit(model, *pair, metric, masks)
    for edge, exact_value in zip(graph.edges, ran.values - ran.whole.values, strict=True):
        reader = str(edge.target) + (f".{edge.slot}" if edge.slot else "")
        told = scores.sel(writer=str(edge.source), reader=reader).values
        np.testing.assert_allclose(told, exact_value, rtol=1e-9, atol=1e-12, err_msg=str(edge))
    # nothing but what the logits read of each writer makes the metric
    np.testing.assert_allclose(scores.sel(reader="logits").sum("writer"), scores.corrupt - scores.clean, rtol=1e-9)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox"])
def test_memory_is_that_of_the_writes_of_some_prompts(name):
    """No tensor of edges and activations is formed, and taking less at a time changes no score."""
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    largest = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            largest.extend(x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor))
            return made

    with exact():
        whole = edge_attribution(model, CLEAN, CORRUPT, METRIC)
        with budget.override(contraction_numbers=3 * len(graph.writers) * 16), Sizes():
            parts = edge_attribution(model, CLEAN, CORRUPT, METRIC)
            steps = edge_attribution(model, CLEAN, CORRUPT, METRIC, steps=2)
        np.testing.assert_allclose(parts, whole, rtol=1e-9, atol=1e-12)
        whole = edge_attribution(model, CLEAN, CORRUPT, METRIC, steps=2)
        np.testing.assert_allclose(steps, whole, rtol=1e-9, atol=1e-12)
    activation = 2 * 7 * model.d_model
    assert max(largest) < max(len(graph.writers), len(graph.readers)) * activation < len(graph.edges) * activation / 5


def test_edges_may_carry_constants():
    model = shelf.model("gpt2")
    with exact():
        mean = mean_writes(model, shelf.ids((8, 6), seed=3))
        to_mean = edge_attribution(model, CLEAN, None, METRIC, constants=mean)
        to_zero = edge_attribution(model, CLEAN, None, METRIC)
        again = edge_attribution(model, CLEAN, None, METRIC, constants=torch.zeros_like(mean))
        np.testing.assert_allclose(again, to_zero, rtol=1e-9, atol=1e-12)
        # of one edge into the logits of a model whose final norm is all that bends, the slope is the patch's
        ablated = model.run(CLEAN, read=["mlp_out", "resid_post"], grad=True)
        slope = ablated.grad(METRIC, [("resid_post", -1)])["resid_post", -1]
        last = model.n_layers - 1
        row = [str(w) for w in Graph.of(model.anatomy).writers].index(f"MLP {last}")
        change = (mean[row] - ablated["mlp_out", last].detach()) * ablated.tokens.mask[..., None]
        expected = (change * slope).sum((1, 2))
        np.testing.assert_allclose(to_mean.sel(writer=f"MLP {last}", reader="logits"), expected, rtol=1e-9)


def test_node_attribution_is_the_sum_of_a_nodes_edges_and_hisp_its_size():
    model = shelf.model("qwen3")
    with exact():
        edges = edge_attribution(model, CLEAN, CORRUPT, METRIC, steps=3)
        nodes = node_attribution(model, CLEAN, CORRUPT, METRIC, steps=3)
        np.testing.assert_allclose(nodes, edges.sum("reader"), rtol=1e-12)
        plain = node_attribution(model, CLEAN, CORRUPT, METRIC)
        sizes = hisp(model, CLEAN, CORRUPT, METRIC, normalise=False)
        np.testing.assert_allclose(sizes, abs(plain).mean("batch").sel(writer=sizes.writer), rtol=1e-12)
        shares = hisp(model, CLEAN, CORRUPT, METRIC)
    for layer in range(model.n_layers):
        heads = [f"L{layer}H{h}" for h in range(model.n_heads)]
        np.testing.assert_allclose((shares.sel(writer=heads) ** 2).sum(), 1.0)
        np.testing.assert_allclose(shares.sel(writer=f"MLP {layer}"), 1.0)
        np.testing.assert_allclose(
            shares.sel(writer=heads) / shares.sel(writer=heads[0]), sizes.sel(writer=heads) / sizes.sel(writer=heads[0])
        )
    assert len(select(model, shares, 3)) > 0


def test_a_metric_that_is_flat_all_the_way_is_refused():
    model = shelf.model("llama")
    flat = cb.function(lambda x: (0.0 * x).sum(-1), name="flat")
    for options in ({}, {"steps": 2}, {"along": "ends"}, {"steps": 1, "along": "activations"}):
        with pytest.raises(CasebackError, match="has no gradient at"):
            edge_attribution(model, CLEAN, CORRUPT, flat, **options)


def test_3_2_26_one_left_step_is_edge_attribution_and_one_right_step_that_of_the_other_end():
    model = shelf.model("llama")
    with exact():
        plain = edge_attribution(model, CLEAN, CORRUPT, METRIC)
        left = edge_attribution(model, CLEAN, CORRUPT, METRIC, steps=1)
        right = edge_attribution(model, CLEAN, CORRUPT, METRIC, steps=1, rule="riemann_right")
        other_end = -edge_attribution(model, CLEAN, CORRUPT, METRIC, direction="denoising")
        ends = edge_attribution(model, CLEAN, CORRUPT, METRIC, along="ends")
    np.testing.assert_allclose(left, plain, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(right, other_end, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ends, (plain + other_end) / 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_along_activations_a_blocks_edges_sum_to_what_patching_that_block_changes(name):
    model = shelf.model(name)
    with exact():
        scores = edge_attribution(
            model, CLEAN, CORRUPT, METRIC, steps=40, along="activations", rule="gauss_legendre"
        ).sum("reader")
        source = model.run(CORRUPT, read=["z", "mlp_out"])
        clean = METRIC(model.run(CLEAN)).numpy()
        for layer in range(model.n_layers):
            for site, writers in (
                ("mlp_out", [f"MLP {layer}"]),
                ("z", [f"L{layer}H{h}" for h in range(model.n_heads)]),
            ):
                whole = METRIC(model.run(CLEAN, edits=cb.Resample(site, source, layer=layer))).numpy() - clean
                np.testing.assert_allclose(scores.sel(writer=writers).sum("writer"), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_batches_change_nothing(side):
    model = shelf.model("llama")
    clean, corrupt = shelf.ids((9, 5, 7)), shelf.ids((9, 5, 7), seed=1)
    metric = cb.logit_diff([3, 8, 2], [5, 11, 4])
    with exact():
        together = edge_attribution(
            model, model.tokens(clean, padding=side), model.tokens(corrupt, padding=side), metric
        )
        for rows in (1, 2):
            parts = edge_attribution(model, model.tokens(clean, padding=side), corrupt, metric, batch_size=rows)
            np.testing.assert_allclose(parts, together, rtol=1e-9, atol=1e-12)
        for i, (target, foil) in enumerate(((3, 5), (8, 11), (2, 4))):
            alone = edge_attribution(model, clean[i], corrupt[i], cb.logit_diff(target, foil))
            np.testing.assert_allclose(together[..., i : i + 1], alone, rtol=1e-9, atol=1e-12)


def test_position_embeddings_as_a_writer_of_their_own():
    model = shelf.model("gpt2")
    with exact():
        one = edge_attribution(model, CLEAN, None, METRIC)
        two = edge_attribution(model, CLEAN, None, METRIC, inputs=("embed", "pos_embed"))
    both = two.sel(writer=["embed", "pos_embed"]).sum("writer", skipna=False)
    np.testing.assert_allclose(both, one.sel(writer="embed"), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(two.sel(writer="L1H2"), one.sel(writer="L1H2"), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"rule": "simpson"}, CasebackError, "rule 'simpson' is unknown"),
        ({"along": "weights"}, CasebackError, "along 'weights' is unknown"),
        ({"steps": 0}, OutOfRange, "steps=0"),
        ({"direction": "up"}, CasebackError, "direction 'up' is unknown"),
        ({"metric": cb.kl(torch.zeros(2, 7, 61))}, CasebackError, None),
        ({"corrupt": shelf.ids((7, 6))}, TokensError, "not token-aligned"),
        ({"corrupt": None, "steps": 3}, CasebackError, "cut to zero"),
        ({"constants": torch.zeros(3, 4)}, CasebackError, "not both"),
        ({"corrupt": None, "constants": torch.zeros(3, 4)}, CasebackError, "expected \\(writer, d_model\\)"),
    ],
)
def test_what_cannot_be_attributed_is_refused(options, error, says):
    model = shelf.model("llama")
    given = {"corrupt": CORRUPT, "metric": METRIC, **options}
    if says is None:
        given["metric"] = cb.kl(model.run(CLEAN))
        says = "gradient"
    with pytest.raises(error, match=says):
        edge_attribution(model, CLEAN, given.pop("corrupt"), given.pop("metric"), **given)


@pytest.mark.parametrize("options", [{}, {"steps": 2}, {"steps": 2, "along": "activations"}, {"along": "ends"}])
def test_a_metric_of_all_positions_is_attributed_as_any_other(options):
    model = shelf.model("gpt2")
    tokens = model.tokens(CLEAN)
    with exact():
        whole = edge_attribution(model, tokens, CORRUPT, cb.loss(), **options)
        rest = [cb.log_prob(tokens.ids[:, i + 1].tolist(), pos=i) for i in range(tokens.shape[1] - 1)]
        parts = [edge_attribution(model, tokens, CORRUPT, metric, **options) for metric in rest]
    np.testing.assert_allclose(whole, -sum(parts) / len(parts), rtol=1e-8, atol=1e-10)
