"""Path patching: direct edges alone carry the counterfactual."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError
from caseback.localize.circuits import path_patch, run_circuit
from caseback.model.circuit import Circuit
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.model.graph.graph import Graph
from exact import exact

CLEAN, CORRUPT = shelf.ids((7, 5)), shelf.ids((7, 5), seed=1)
METRIC = cb.logit_diff([3, 8], [5, 11])


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_3_2_23_a_path_of_one_edge_is_that_edge_cut(name):
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    shared = "KV" if model.n_kv_heads < model.n_heads else "H"
    for receivers in (["logits"], ["MLP 2", "L2H1.q", f"L1{shared}0.v"]):
        with exact():
            tokens = model.tokens(CLEAN, padding="left")
            found = path_patch(model, tokens, CORRUPT, METRIC, receivers=receivers)
            for sender in ("embed", "L0H2", "MLP 0", "L1H1"):
                edges = [f"{sender} -> {receiver}" for receiver in receivers]
                known = {str(edge) for edge in graph.edges}
                cut = graph.mask(Circuit.of(*(edge for edge in edges if edge in known)))
                ran = run_circuit(model, tokens, CORRUPT, METRIC, graph.exists & ~cut)
                np.testing.assert_allclose(found.sel(writer=sender), ran[0] - ran.whole, rtol=1e-8, atol=1e-10)


def test_paths_into_the_logits_at_the_end_are_direct_effects_with_the_norm_free():
    model = shelf.model("llama")
    with exact():
        everywhere = path_patch(model, CLEAN, CORRUPT, METRIC, receivers=["logits"])
        at_end = path_patch(model, CLEAN, CORRUPT, METRIC, receivers=["logits"], pos=-1)
        np.testing.assert_allclose(at_end, everywhere, rtol=1e-9, atol=1e-12)
        # nothing but the last position is read by the metric
        early = path_patch(model, CLEAN, CORRUPT, METRIC, receivers=["logits"], pos=0)
        np.testing.assert_allclose(early, 0, atol=1e-12)


def test_3_2_23_in_a_linear_model_all_paths_sum_to_the_total_effect():
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 1}
    hf = CrystalForCausalLM(CrystalConfig(**sizes, hidden_act="linear", initializer_range=0.3)).double().eval()
    torch.nn.init.zeros_(hf.model.layers[0].self_attn.q_proj.weight)  # uniform attention: linear in what it reads
    model, metric = cb.load(hf), cb.logit_diff(3, 7)
    pair = [[1, 2, 3]], [[4, 5, 6]]
    total = float(metric(model.run(pair[1])) - metric(model.run(pair[0])))
    direct = path_patch(model, *pair, metric, receivers=["logits"])
    assert float(direct.sum()) == pytest.approx(total)
    heads = ["L0H0.v", "L0H1.v"]
    by_way = [path_patch(model, *pair, metric, receivers=[r], senders=["embed"]) for r in (*heads, "MLP 0", "logits")]
    # what the heads write also goes on through the MLP, so the paths out of the embedding are all there are
    assert float(sum(part.sum() for part in by_way)) == pytest.approx(total)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2", "qwen3"])
def test_3_2_23_with_mlps_recomputed_paths_through_them_count(name):
    """Wang et al.'s way, run by run: heads' queries, keys and values held, then the receivers' inputs put in."""
    model, shared = shelf.model(name), "KV" if name in ("llama", "qwen3", "gemma2") else "H"
    with exact():
        clean, tokens = model.run(CLEAN, read=["q", "k", "v"]), model.tokens(CLEAN, padding="left")
        for receivers, reads in (
            (["logits"], {("resid_post", 2): None}),
            (["L2H1.q", f"L2{shared}0.k"], {("q_in", 2): 1, ("k_in", 2): 0}),
            (["MLP 2"], {("mlp_in", 2): None}),
        ):
            found = path_patch(model, tokens, CORRUPT, METRIC, receivers=receivers, mlps="recomputed")
            base = model.run(CLEAN, read=["head_out", "mlp_out", ("resid_pre", 0)])
            other = model.run(CORRUPT, read=["head_out", "mlp_out", ("resid_pre", 0)])
            for sender, site, head in (("L0H1", ("head_out", 0), 1), ("MLP 0", ("mlp_out", 0), None)):
                change = other[site] - base[site] if head is None else (other[site] - base[site])[:, :, head]
                hold = [cb.Freeze(part, source=clean, layer=[1, 2]) for part in "qkv"]
                sent = cb.Add(site[0], change, layer=0, head=head)
                stream = [("attn_in" if key[0] in ("q_in", "k_in") else key[0], key[1]) for key in reads]
                held = model.run(CLEAN, edits=[sent, *hold], read=stream)
                edits = [
                    cb.Replace(name, held[at], layer=layer, head=head)
                    for ((name, layer), head), at in zip(reads.items(), stream, strict=True)
                ]
                expected = METRIC(model.run(CLEAN, edits=edits)) - METRIC(model.run(CLEAN))
                np.testing.assert_allclose(found.sel(writer=sender), expected, rtol=1e-8, atol=1e-10)
                direct = path_patch(model, tokens, CORRUPT, METRIC, receivers=receivers, senders=[sender])
                assert abs(direct - found.sel(writer=[sender])).max() > 1e-4
            # nothing stands between the last MLP and the logits
            if receivers == ["logits"]:
                ends = {"receivers": receivers, "senders": ["MLP 2"]}
                both = [
                    path_patch(model, tokens, CORRUPT, METRIC, **ends, mlps=how) for how in ("frozen", "recomputed")
                ]
                np.testing.assert_allclose(*both, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2"])
@pytest.mark.parametrize("mlps", ["frozen", "recomputed"])
@pytest.mark.parametrize("pos", [None, -1])
def test_3_2_23_receivers_out_of_a_chain_are_held_at_what_the_sender_alone_makes_of_their_inputs(name, mlps, pos):
    """Wang et al.'s two passes by hand: all but the sender held, then the receivers' own inputs put in as they were."""
    model, shared = shelf.model(name), "KV" if name in ("llama", "gemma2") else "H"
    receivers = [f"L1{shared}0.v", "L2H1.q", "MLP 2", "logits"]
    stream, end = [("attn_in", 1), ("attn_in", 2), ("mlp_in", 2)], [len(ids) - 1 for ids in CLEAN]
    with exact():
        tokens = model.tokens(CLEAN, padding="left")
        found = path_patch(model, tokens, CORRUPT, METRIC, receivers=receivers, chained=False, mlps=mlps, pos=pos)
        clean = model.run(CLEAN, read=["q", "k", "v", "head_out", "mlp_out", *stream, ("resid_post", 2)])
        other = model.run(CORRUPT, read=["head_out"])
        change = (other["head_out", 0] - clean["head_out", 0])[:, :, 1]
        hold = [cb.Freeze(part, source=clean, layer=[1, 2]) for part in "qkv"]
        hold += [cb.Freeze("mlp_out", source=clean)] if mlps == "frozen" else []
        sent = cb.Add("head_out", change, layer=0, head=1)
        first = model.run(CLEAN, edits=[sent, *hold], read=[*stream, ("resid_post", 2)])

        def put(key):
            if pos is None:
                return first[key]
            value = clean[key].clone()
            for row, column in enumerate(end):
                value[row, column] = first[key][row, column]
            return value[range(2), end] if key[0] != "resid_post" else value

        held = [
            cb.Replace("v_in", put(stream[0]), layer=1, head=0, pos=pos),
            cb.Replace("q_in", put(stream[1]), layer=2, head=1, pos=pos),
            cb.Replace("mlp_in", put(stream[2]), layer=2, pos=pos),
            cb.Add("resid_post", put(("resid_post", 2)) - clean["resid_post", 2], layer=2),
        ]
        expected = METRIC(model.run(CLEAN, edits=held)) - METRIC(model.run(CLEAN))
        np.testing.assert_allclose(found.sel(writer="L0H1"), expected, rtol=1e-8, atol=1e-10)
        options = {"receivers": receivers, "senders": ["L0H1"], "mlps": mlps, "pos": pos}
        assert abs(path_patch(model, tokens, CORRUPT, METRIC, **options) - found.sel(writer=["L0H1"])).max() > 1e-6
        # what does not feed another receiver is the same in both
        alone = {**options, "receivers": ["L2H1.q"]}
        both = [path_patch(model, tokens, CORRUPT, METRIC, **alone, chained=chained) for chained in (True, False)]
        np.testing.assert_allclose(*both, rtol=1e-8, atol=1e-12)


def test_what_cannot_be_patched_is_refused():
    model = shelf.model("llama")
    for options, says in (
        ({"receivers": ["L1H0.k"]}, "reads nothing in this model"),
        ({"receivers": ["logits"], "senders": ["L9H9"]}, "is not a writer of this model"),
        ({"receivers": []}, "no receiver given"),
        ({"receivers": ["logits"], "mlps": "linear"}, "mlps 'linear' is unknown"),
        ({"receivers": ["L0H0.q"], "senders": ["L1H0"]}, "no sender stands before"),
    ):
        with pytest.raises(CasebackError, match=says):
            path_patch(model, CLEAN, CORRUPT, METRIC, **options)
