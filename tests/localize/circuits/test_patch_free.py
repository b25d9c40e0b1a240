"""Edges of dictionaries' features on a prompt: they sum to what is read, and are virtual weights times what the prompt decides."""

import itertools

import numpy as np
import pytest
import torch

import shelf
from caseback.decode.dictionaries import Facts, JumpReLU, TopK
from caseback.errors import ArgumentError, CasebackError, OutOfRange
from caseback.localize.circuits import (
    attribution_graph,
    feature_attribution,
    score_attribution,
    virtual_scores,
    virtual_weights,
)
from exact import exact
from graph_parts import PROMPT, across, transcoders

LAST = len(PROMPT[0]) - 1
FAMILIES = "gpt2 llama qwen3 gemma2 gptj stablelm granite olmo2 crystal".split()


def of(model, site, seed=0, width=30, kind=TopK):
    options = {"k": 4} if kind is TopK else {}
    one = kind(model.d_model, width, dtype=torch.float64, seed=seed, facts=Facts(site=site), **options)
    with torch.no_grad():
        one.b_dec.add_(0.1 * torch.randn(one.b_dec.shape, generator=torch.Generator().manual_seed(seed)))
    return one


def an_active(model, dictionary, at=-1):
    """A feature that is active at a position, and how active."""
    site = dictionary.facts.site
    x = model.run(PROMPT, read=[site])[site][0, at][None]
    codes = dictionary.encode(x)[0].detach()
    return int(codes.argmax()), float(codes.max())


def number(writer):
    return int(writer.partition("F")[2].partition(":")[0])


def kinds_of(found):
    return set(found.kind.values.tolist())


@pytest.mark.parametrize("place", ["mlp_out", "attn_out", "resid_post", "resid_pre"])
@pytest.mark.parametrize("name", FAMILIES)
def test_3_2_30_what_a_feature_reads_is_the_sum_of_what_was_written(name, place):
    model = shelf.model(name)
    late = model.n_layers - 1
    parts = transcoders(model, "skip")
    if place == "mlp_out":
        one, label = parts[late], f"L{late}F%d"
    else:
        one = of(model, f"{place}.{late}", seed=9)
        label = f"L{late}F%d:{place}"
    with exact():
        index, value = an_active(model, one)
        for others in ([], parts, [*parts, of(model, "attn_out.0")]):
            if place == "mlp_out" and not others:
                continue
            every = [*others, *([] if place == "mlp_out" else [one])]
            found = feature_attribution(model, PROMPT, label % index, every, top=None)
            assert found.attrs["gap"] < 1e-9 and found.attrs["rest"] == 0
            assert found.attrs["value"] == pytest.approx(value)
            assert float(found.weight.sum()) == pytest.approx(value, abs=1e-9)
            few = feature_attribution(model, PROMPT, label % index, every, top=5)
            assert float(few.weight.sum()) + few.attrs["rest"] == pytest.approx(value, abs=1e-9)
            np.testing.assert_array_equal(few.weight, found.weight[:5])
    assert {"embed", "feature", "error"} <= kinds_of(found)
    ways = set(found.through.values.tolist())
    if place == "attn_out":
        assert ways - {""} <= {f"L{late}H{h}" for h in range(model.n_heads)}
    else:
        assert "" in ways and (len(ways) > 1 or model.anatomy.layers[late].parallel)


@pytest.mark.parametrize("name", FAMILIES)
def test_3_2_30_one_step_back_it_is_the_row_of_an_attribution_graph(name):
    """From the layer below all paths are one step long: directly, or through one head."""
    model = shelf.model(name)
    parts = transcoders(model)
    with exact():
        index, _ = an_active(model, parts[1])
        graph = attribution_graph(model, PROMPT, parts, first=0, max_nodes=10_000)
        found = feature_attribution(model, PROMPT, f"L1F{index}", parts, top=None)
    row = graph.weight.sel(reader=f"L1F{index}@{LAST}").to_series()
    row = row[[writer.startswith("L0F") for writer in row.index]]
    own = found.weight.to_series().groupby(found.writer.values).sum().reindex(row.index, fill_value=0)
    assert len(row) > 4 and abs(row).max() > 1e-4
    np.testing.assert_allclose(own, row, atol=1e-9)


def test_3_2_30_a_cross_layer_feature_is_one_writer():
    model = shelf.model("gpt2")
    one = across(model)
    with exact():
        late = model.n_layers - 1
        site = one.facts.site
        run = model.run(PROMPT, read=[f"{site}.{layer}" for layer in range(model.n_layers)])
        x = torch.stack([run[site, layer][0] for layer in range(model.n_layers)], 1)
        width = one.n_features // model.n_layers
        at, index = divmod(int(one.encode(x)[:, late * width :].argmax()), width)
        found = feature_attribution(model, PROMPT, f"L{late}F{index}", one, pos=at, top=None)
        graph = attribution_graph(model, PROMPT, one, first=0, max_nodes=10_000)
    assert found.attrs["gap"] < 1e-9
    pairs = list(zip(found.writer.values, found.through.values, strict=True))
    assert len(pairs) == len(set(pairs))
    row = graph.weight.sel(reader=f"L{late}F{index}@{at}").to_series()
    below = found.writer.values[(found.kind == "feature").values & (found.layer == late - 1).values]
    own = found.weight.to_series().groupby(found.writer.values).sum()
    assert len(below) and at > 0
    np.testing.assert_allclose(own[list(below)], row[list(below)], atol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_3_2_30_weights_are_virtual_weights_by_activation_attention_and_denominators(name):
    model = shelf.model(name)
    late = model.n_layers - 1
    low = transcoders(model)[0]
    for target, label in ((transcoders(model)[late], "L%dF%d"), (of(model, f"attn_out.{late}", 5), "L%dF%d:attn_out")):
        with exact():
            index, _ = an_active(model, target)
            found = feature_attribution(model, PROMPT, label % (late, index), [low, target], top=None)
            ways = dict.fromkeys(found.through.values[(found.kind == "feature").values].tolist())
            compared = 0
            for way in ways:
                try:
                    table = virtual_weights(model, low, target, top=low.n_features, through=way or None)
                except ArgumentError:  # heads of the transcoder's own layer read nothing of it
                    continue
                listed = dict(zip(table.source[index].values.tolist(), table.weight[index].values, strict=True))
                mine = found.isel(
                    entry=((found.through == way) & (found.kind == "feature") & (found.layer == 0)).values
                )
                np.testing.assert_allclose(mine.virtual, [listed[i] for i in mine["index"].values.tolist()], atol=1e-8)
                compared += mine.sizes["entry"]
            assert compared > 4


def test_3_2_30_a_dictionary_of_the_stream_stands_for_all_before_it():
    model = shelf.model("llama")
    late = model.n_layers - 1
    stream, target = of(model, f"resid_post.{late - 1}"), of(model, f"resid_post.{late}", 7, kind=JumpReLU)
    with exact():
        index, value = an_active(model, target)
        found = feature_attribution(model, PROMPT, f"L{late}F{index}:resid_post", [stream, target], top=None)
    assert float(found.weight.sum()) == pytest.approx(value, abs=1e-9)
    layers = {(kind, int(layer)) for kind, layer in zip(found.kind.values, found.layer.values, strict=True)}
    assert layers == {("feature", late - 1), ("error", late - 1), ("mlp", late), ("bias", -1)}


def test_3_2_30_what_passes_an_mlp_is_one_node():
    model = shelf.model("gpt2")
    one = of(model, "mlp_out.1")
    with exact():
        index, value = an_active(model, one)
        found = feature_attribution(model, PROMPT, f"L1F{index}", [one, *transcoders(model)[:1]])
    assert set(found.writer.values.tolist()) == {f"MLP 1@{LAST}", "bias"}
    assert float(found.weight.sum()) == pytest.approx(value)


@pytest.mark.parametrize("name", [*FAMILIES, "gpt_neox", "phi3"])
def test_3_2_30_a_score_is_the_sum_over_pairs(name):
    model = shelf.model(name)
    layer, head = model.n_layers - 1, model.n_heads - 1
    for parts in ([], transcoders(model, "skip"), of(model, f"resid_post.{layer - 1}")):
        with exact():
            pairs = score_attribution(model, PROMPT, f"L{layer}H{head}", parts, query=4, key=2)
            run = model.run(PROMPT, read=["scores", "pattern"])
        assert pairs.attrs["gap"] < 1e-9 and pairs.dims == ("query_writer", "key_writer")
        assert float(pairs.sum()) == pytest.approx(pairs.attrs["value"], abs=1e-9)
        assert pairs.attrs["pattern"] == pytest.approx(float(run["pattern", layer][0, head, 4, 2]))
        if name in ("gpt2", "llama", "qwen3", "gpt_neox"):  # no soft-cap, no position bias
            assert pairs.attrs["value"] == pytest.approx(float(run["scores", layer][0, head, 4, 2]), abs=1e-5)
    assert all(writer.endswith("@4") for writer in pairs.query_writer.values if writer != "bias")
    most = score_attribution(model, PROMPT, f"L{layer}H{head}", parts, query=4)
    assert most.attrs["key"] == int(run["pattern", layer][0, head, 4].argmax())


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "stablelm", "granite", "crystal"])
def test_3_2_30_its_terms_are_virtual_scores_by_activations_and_denominators(name):
    model = shelf.model(name)
    layer = model.n_layers - 1
    query, key, one = 5, 3, of(model, f"resid_post.{layer - 1}")
    with exact():
        table = virtual_scores(model, one, one, f"L{layer}H1", offset=query - key, top=one.n_features)
        pairs = score_attribution(model, PROMPT, f"L{layer}H1", one, query=query, key=key)
        norm = model.anatomy.layers[layer].attn_norm
        x = model.run(PROMPT, read=["attn_in"])["attn_in", layer][0]
        scale = torch.ones(len(x), 1) if norm is None else model.anatomy.norms[norm].scale(x)
    active = [[w for w in pairs[side].values if "F" in w] for side in ("query_writer", "key_writer")]
    assert min(map(len, active)) > 1
    for i, j in itertools.product(*active):
        row = dict(zip(table.source[number(i)].values.tolist(), table.weight[number(i)].values, strict=True))
        term = pairs.sel(query_writer=i, key_writer=j)
        by_hand = row[number(j)] * float(term.query_activation * term.key_activation) / float(scale[query] * scale[key])
        assert float(term) == pytest.approx(by_hand, abs=1e-9, rel=1e-6)  # some families' sines are in float32


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "granite", "bloom"])
def test_3_2_30_tokens_are_sources_as_they_enter_the_stream(name):
    model = shelf.model(name)
    target = of(model, "resid_pre.0")
    with exact(), torch.no_grad():
        found = virtual_weights(model, "embed", target, top=3)
        embed = model.run(PROMPT, read=["embed"])["embed"][0]
        all_of_it = virtual_weights(model, "embed", target, top=10_000)
        by_hand = embed @ target.W_enc.T
    ids = PROMPT[0]
    for feature in range(5):
        row = dict(zip(all_of_it.source[feature].values.tolist(), all_of_it.weight[feature].values, strict=True))
        np.testing.assert_allclose([row[i] for i in ids], by_hand[:, feature], atol=1e-9)
    assert all_of_it.sizes["k"] == len(model.weights.W_E) and found.attrs["source_site"] == "embed"


def test_bad_inputs():
    model = shelf.model("gpt2")
    parts, attention = transcoders(model), of(model, "attn_out.1")
    index, _ = an_active(model, parts[1])
    off = next(
        i
        for i in range(parts[1].n_features)
        if not bool(parts[1].encode(model.run(PROMPT, read=[parts[1].facts.site])[parts[1].facts.site][0, -1:])[0, i])
    )
    for feature, words in (
        ("L1H0", "no feature"),
        ("L0F1:attn_out", "attn_out.0"),
        ("L1F999", "999"),
        (f"L1F{off}", "not active"),
    ):
        with pytest.raises(ArgumentError, match=words):
            feature_attribution(model, PROMPT, feature, [*parts, attention])
    with pytest.raises(ArgumentError, match="two dictionaries write mlp_out.1"):
        feature_attribution(model, PROMPT, f"L1F{index}", [*parts, of(model, "mlp_out.1")])
    with pytest.raises(OutOfRange, match="position"):
        feature_attribution(model, PROMPT, f"L1F{index}", parts, pos=70)
    with pytest.raises(OutOfRange, match="not after"):
        score_attribution(model, PROMPT, "L1H0", parts, query=2, key=3)
    with pytest.raises(ArgumentError, match="through=, a head of its own layer"):
        virtual_weights(model, parts[0], attention)
    with pytest.raises(ArgumentError, match="an earlier layer"):
        virtual_scores(model, parts[1], parts[0], "L1H0")
    with pytest.raises(CasebackError, match="normed or clipped"):
        virtual_scores(shelf.model("qwen3"), *[of(shelf.model("qwen3"), "resid_post.0")] * 2, "L1H0")
