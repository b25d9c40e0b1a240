"""Virtual weights are the dense products of what is written and read, expectations the dense sums; blocks change nothing."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import shelf
from caseback.decode.dictionaries import CrossLayerTopK, Facts, JumpReLU, TopK
from caseback.errors import ArgumentError, CasebackError, LoadError, OutOfRange, ResultError, SiteAbsent, TokensError
from caseback.jobs import budget
from caseback.localize.circuits import attribution_graph, expected_weights, virtual_weights
from caseback.model.algebra.writes import attention_branch
from exact import exact

FAMILIES = "gpt2 llama qwen3 gemma2 gptj stablelm granite olmo2 crystal".split()
F64 = torch.float64


def dictionary(model, site, target="", width=20, seed=0, kind=TopK, **facts):
    options: dict[str, Any] = {"k": 5} if kind is TopK else {}
    own = Facts(site=site, target=target, **facts)
    return kind(model.d_model, width, dtype=F64, seed=seed, facts=own, **options)


def transcoder(model, layer, seed=0, **more):
    site = "mlp_in" if "mlp_norm" in model.anatomy.lacks else "mlp_norm"
    return dictionary(model, f"{site}.{layer}", f"mlp_out.{layer}", seed=seed, **more)


def across(model, **more):
    site = "mlp_in" if "mlp_norm" in model.anatomy.lacks else "mlp_norm"
    options = {"n_layers": model.n_layers, "k": 6, "dtype": F64, "facts": Facts(site=site, target="mlp_out")}
    return CrossLayerTopK(model.d_model, 12 * model.n_layers, **options, **more)


def linear_part(module, rows):
    """A norm's map at denominator 1, tried on the module itself: f(x) s(x) less what it adds."""
    if module is None:
        return rows
    centred = rows - rows.mean(-1, keepdim=True)
    zero = module(torch.zeros_like(rows[:1]))
    out = []
    for x in rows:
        scaled = {}
        for name, read in (("centred", centred), ("plain", rows)):
            own = read[len(out)]
            eps = next(getattr(module, n) for n in ("eps", "variance_epsilon") if hasattr(module, n))
            scaled[name] = (module(x[None]) - zero)[0] * (own.square().mean() + eps).sqrt()
        moved = module(x[None] + 1.0)
        is_centred = torch.allclose(moved, module(x[None]))
        out.append(scaled["centred" if is_centred else "plain"])
    return torch.stack(out)


def dense(model, source, target, layer):
    """V by what the model's own norm before the target's MLP does with what the source writes."""
    normed = target.facts.site.startswith("mlp_norm")
    norm = model.anatomy.layers[layer].mlp_norm if normed else None
    return target.W_enc.detach() @ linear_part(norm, source.W_dec.detach()).T


def filled(found, n_source):
    """The listed weights as a matrix, when all are listed."""
    every = np.zeros((found.sizes["feature"], n_source))
    rows, k = np.nonzero(found.source.values >= 0)
    every[rows, found.source.values[rows, k]] = found.weight.values[rows, k]
    return every


@pytest.mark.parametrize("name", FAMILIES)
def test_3_2_30_weights_are_dense_products_with_gains_and_centering(name):
    model = shelf.model(name)
    source, target = transcoder(model, 0, seed=1), transcoder(model, model.n_layers - 1, seed=2)
    with exact(), torch.no_grad():
        found = virtual_weights(model, source, target, top=100)
        expected = dense(model, source, target, model.n_layers - 1)
    assert found.sizes == {"feature": 20, "k": 20}
    np.testing.assert_allclose(filled(found, 20), expected.numpy(), atol=1e-10)
    assert (np.diff(abs(found.weight.values), axis=1) <= 0).all()
    some = virtual_weights(model, source, target, top=3)
    best = expected.abs().argsort(dim=1, descending=True)[:, :3]
    assert (some.source.values == best.numpy()).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_3_2_30_they_are_what_an_attribution_graph_has_at_the_first_position(name):
    """There each head attends to that position alone, so a graph's edge is a_s V, directly and through each head."""
    model = shelf.model(name)
    source, target = transcoder(model, 0, seed=1), transcoder(model, 1, seed=2)
    prompt, p = shelf.ids((6,)), model.anatomy.layers[1]
    with exact():
        graph = attribution_graph(model, prompt, [source, target], first=0, max_nodes=10_000)
        run = model.run(prompt, read=["attn_in", "mlp_in", "z"])
        post = attention_branch(model.anatomy, 1, run["z", 1]).scale
        mlp, attention = (
            1.0 if norm is None else model.anatomy.norms[norm].scale(run[site, 1][0, 0])
            for norm, site in ((p.mlp_norm, "mlp_in"), (p.attn_norm, "attn_in"))
        )
        total = filled(virtual_weights(model, source, target, top=20), 20) / float(mlp)
        if not p.parallel:  # where the MLP reads nothing of its own layer's heads
            behind = float(mlp) * float(attention) * (1.0 if post is None else float(post[0, 0]))
            for head in range(p.dims.n_heads):
                total += filled(virtual_weights(model, source, target, top=20, through=f"L1H{head}"), 20) / behind
    writer = (graph.kind == "feature") & (graph.layer == 0) & (graph.pos_of == 0)
    reader = (graph.reader_kind == "feature") & (graph.reader_layer == 1) & (graph.reader_pos_of == 0)
    own = graph.isel(writer=writer.values, reader=reader.values)
    assert own.sizes["writer"] > 2 and own.sizes["reader"] > 2
    expected = own.activation.values * total[np.ix_(own.reader_index.values, own["index"].values)]
    assert abs(expected).max() > 1e-4
    np.testing.assert_allclose(own.weight.values, expected, atol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj"])
def test_3_2_30_through_a_head_is_w_v_w_o_by_hand(name):
    model = shelf.model(name)
    late = model.n_layers - 1
    source, target = dictionary(model, "resid_pre.0", seed=1), dictionary(model, f"resid_post.{late}", seed=2)
    layer, head = late, 1
    p = model.anatomy.layers[layer]
    group = head * p.dims.n_kv_heads // p.dims.n_heads
    W_V, W_O = model.weights.W_V[layer][group].detach(), model.weights.W_O[layer][head].detach()
    found = virtual_weights(model, source, target, top=20, through=f"L{layer}H{head}")
    with exact(), torch.no_grad():
        read = linear_part(p.attn_norm, source.W_dec.detach())
        expected = target.W_enc @ (read @ W_V @ W_O).T
    assert expected.abs().max() > 1e-4
    np.testing.assert_allclose(filled(found, 20), expected.numpy(), atol=1e-10)
    assert found.attrs["through"] == f"L{layer}H{head}"


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gptj"])
def test_3_2_30_a_cross_layer_feature_writes_at_every_layer_before_the_reader(name, shared):
    model = shelf.model(name)
    source = across(model, shared=shared)
    found = virtual_weights(model, source, source, top=source.n_features)
    expected = np.zeros((source.n_features, source.n_features))
    with exact(), torch.no_grad():
        for late in range(model.n_layers):
            rows = source.W_enc[12 * late : 12 * (late + 1)]
            for early in range(late):
                written = torch.zeros(12, model.d_model, dtype=F64)
                for between in range(early, late):
                    own = source.decoder(early)[:, 0 if shared else between - early]
                    written = written + own
                read = linear_part(model.anatomy.layers[late].mlp_norm, written)
                expected[12 * late : 12 * (late + 1), 12 * early : 12 * (early + 1)] = (rows @ read.T).numpy()
    np.testing.assert_allclose(filled(found, source.n_features), expected, atol=1e-10)
    assert (found.source[:12] == -1).all() and (found.weight[:12] == 0).all()


def test_3_2_30_a_dictionary_that_normalizes_tokens_is_taken_where_it_leaves_them():
    model = shelf.model("llama")
    source = dictionary(model, "resid_pre.1", seed=1)
    plain = filled(virtual_weights(model, source, dictionary(model, "mlp_in.1", seed=2), top=20), 20)
    unit = dictionary(model, "mlp_in.1", seed=2, normalization="unit_norm")
    np.testing.assert_allclose(filled(virtual_weights(model, source, unit, top=20), 20), plain, atol=1e-10)


@pytest.mark.parametrize("through", [None, "L1H0"])
def test_dictionaries_may_be_narrower_than_the_model_and_each_other(through):
    model = shelf.model("gemma2")
    source, target = dictionary(model, "resid_pre.0", seed=1), dictionary(model, "resid_post.1", seed=2)
    exactly = filled(virtual_weights(model, source, target, top=20, through=through), 20)
    for first, second in ((torch.float32, F64), (F64, torch.bfloat16), (torch.bfloat16, torch.float32)):
        pair = [dictionary(model, "resid_pre.0", seed=1), dictionary(model, "resid_post.1", seed=2)]
        narrow = [one.to(kind) for one, kind in zip(pair, (first, second), strict=True)]
        found = virtual_weights(model, *narrow, top=20, through=through)
        np.testing.assert_allclose(filled(found, 20), exactly, atol=0.02 * abs(exactly).max())
        assert np.isfinite(expected_weights(model, found.assign_attrs(through=""), *narrow, shelf.ids((6,))).era).all()


def test_blocks_change_nothing():
    model = shelf.model("gpt2")
    source, target = across(model), transcoder(model, model.n_layers - 1, seed=3)
    texts = shelf.ids((9, 7, 8))
    whole = virtual_weights(model, source, target, top=4)
    expected = expected_weights(model, whole, source, target, texts)
    with budget.override(virtual_weights=25, feature_scores=1, contraction_numbers=9, corpus_rows=1):
        cut = virtual_weights(model, source, target, top=4)
        by_parts = expected_weights(model, cut, source, target, texts)
    assert (whole.source == cut.source).all()
    np.testing.assert_allclose(whole.weight, cut.weight, atol=1e-13)
    for name in ("era", "twera", "together", "active", "interference"):
        np.testing.assert_allclose(by_parts[name], expected[name], atol=1e-12)


@pytest.mark.parametrize("kind", ["transcoders", "across", "negative"])
def test_3_2_30_expectations_are_dense_sums(kind):
    model = shelf.model("llama")
    if kind == "across":
        source = target = across(model)
    else:
        made = JumpReLU if kind == "transcoders" else TopK
        source, target = transcoder(model, 0, seed=1, kind=made), transcoder(model, 1, seed=2, kind=made)
    texts = shelf.ids((9, 7, 8), seed=4)
    found = virtual_weights(model, source, target, top=1000)
    expected = expected_weights(model, found, source, target, texts, skip_first=2)
    every = filled(found, source.n_features)
    read = []
    for one in (source, target):
        name, _, layer = one.facts.site.partition(".")
        rows = []
        for text in texts:
            run = model.run([text], read=[name])
            each = [run[name, i][0, 2:] for i in ([int(layer)] if layer else range(model.n_layers))]
            rows.append(each[0] if layer else torch.stack(each, 1))
        read.append(one.encode(torch.cat(rows)).detach().numpy())
    a_i, a_j = read
    n = len(a_i)
    assert expected.attrs["n_tokens"] == n == 9 + 7 + 8 - 6
    era = every * ((a_j != 0).astype(float).T @ a_i) / n
    together = (a_j != 0).astype(int).T @ (a_i != 0).astype(int)
    active = (a_j != 0).sum(0)
    assert (expected.active.values == active).all()
    np.testing.assert_allclose(filled(found.assign(weight=expected.era), source.n_features), era, atol=1e-12)
    listed = np.take_along_axis(together, found.source.values.clip(0), 1) * (found.source.values >= 0)
    assert (expected.together.values == listed).all()
    was = active > 0
    weighted = every[was] * (np.abs(a_j).T @ a_i)[was] / np.abs(a_j).sum(0)[was, None]
    twera = filled(found.assign(weight=expected.twera.fillna(0.0)), source.n_features)
    np.testing.assert_allclose(twera[was], weighted, atol=1e-12)
    assert np.isnan(expected.twera.values[~was]).all() and np.isnan(expected.interference.values[~was]).all()
    alone = (abs(every) * (together == 0)).sum(1)[was]
    total = abs(every).sum(1)[was]
    share = np.where(total > 0, alone / np.where(total > 0, total, 1), np.nan)
    np.testing.assert_allclose(expected.interference.values[was], share, atol=1e-12)
    assert expected.attrs["interference"] == pytest.approx(alone.sum() / total.sum())


class Planted:
    """Codes that are what was planted, in the order in which they are asked for."""

    W_skip = None

    def __init__(self, codes, rows, site, target):
        self.codes, self.rows, self.n_features = codes, rows, codes.shape[1]
        self.facts = SimpleNamespace(site=site, target=target, model="")
        self.seen = 0

    def encode(self, x):
        self.seen += len(x)
        return self.codes[self.seen - len(x) : self.seen]

    def reads(self, x, token, feature):
        return self.rows[feature]

    def writes(self, x, token, feature):
        return self.rows[feature][:, None]

    def rest(self, x):
        return torch.zeros_like(x)


def test_3_2_30_planted_twera_tells_driven_from_independent_by_more_than_era():
    """One source, and targets that are driven by it, independent of it, and never active with it, all at weight 1."""
    model = shelf.model("gpt2")
    n, draw = 120_000, np.random.default_rng(0)
    a_i = draw.uniform(size=n) * (draw.uniform(size=n) < 0.05)
    driven = a_i * (draw.uniform(size=n) < 0.5)
    independent = draw.uniform(size=(8, n)) * (draw.uniform(size=(8, n)) < 0.05)
    never = draw.uniform(size=n) * (draw.uniform(size=n) < 0.05) * (a_i == 0)
    codes = torch.tensor(np.stack([driven, never, *independent], 1))
    unit = torch.zeros(1, model.d_model, dtype=F64)
    unit[0, 3] = 1.0
    source = Planted(torch.tensor(a_i)[:, None], unit, "mlp_in.0", "mlp_out.0")
    target = Planted(codes, unit.expand(10, -1), "mlp_in.1", "mlp_out.1")
    found = virtual_weights(model, source, target)
    assert (found.weight == 1).all()
    texts = [[1, 2, 3, 4, 5, 6, 7, 8] * 3] * (n // 24)
    result = expected_weights(model, found, source, target, texts, skip_first=0, batch=500)
    assert result.attrs["n_tokens"] == n
    era, twera = result.era.values[:, 0], result.twera.values[:, 0]
    # E[1(a_j > 0) a_i] and E[a_j a_i] / E[a_j] of these distributions
    apart = era[0] / era[2:].mean(), twera[0] / twera[2:].mean()
    np.testing.assert_allclose([era[0], era[2:].mean()], [0.05 / 4, 0.05**2 / 2], rtol=0.1)
    np.testing.assert_allclose([twera[0], twera[2:].mean()], [2 / 3, 0.05 / 2], rtol=0.1)
    np.testing.assert_allclose(apart, [10, 2 / 3 / 0.025], rtol=0.1)
    assert era[1] == twera[1] == result.together[1, 0] == 0
    assert result.interference.values.tolist() == [0, 1, *[0] * 8]
    assert result.attrs["interference"] == pytest.approx(1 / 10)


def test_what_has_no_weights_is_refused():
    model = shelf.model("gpt2")
    early, late = transcoder(model, 0), transcoder(model, 1, seed=1)
    with pytest.raises(ArgumentError, match="reads nothing that"):
        virtual_weights(model, late, early)
    with pytest.raises(ArgumentError, match="both source and target"):
        one = dictionary(model, "resid_post.0")
        virtual_weights(model, one, one)
    with pytest.raises(ArgumentError, match="is no dictionary"):
        virtual_weights(model, "neurons", late)
    with pytest.raises(ArgumentError, match="does not say"):
        virtual_weights(model, TopK(model.d_model, 8, k=2), late)
    with pytest.raises(ArgumentError, match="which is not the stream"):
        virtual_weights(model, early, dictionary(model, "mlp_out.1"))
    with pytest.raises(ArgumentError, match="which is not the stream"):
        virtual_weights(model, dictionary(model, "mlp_norm.0"), late)
    with pytest.raises(ArgumentError, match="sites of one layer"):
        virtual_weights(model, dictionary(model, "mlp_in.0", "mlp_out.1"), late)
    with pytest.raises(LoadError, match="of widths"):
        virtual_weights(model, TopK(8, 8, k=2, facts=Facts(site="resid_post.0")), late)
    with pytest.raises(LoadError, match="layers"):
        virtual_weights(model, CrossLayerTopK(model.d_model, 18, n_layers=9, k=2), late)
    with pytest.raises(CasebackError, match="out of range"):
        virtual_weights(model, early, dictionary(model, "resid_post.99"))
    with pytest.raises(OutOfRange, match="top=0"):
        virtual_weights(model, early, late, top=0)
    with pytest.raises(ArgumentError, match="no head"):
        virtual_weights(model, early, late, through="L0H99")
    with pytest.raises(ArgumentError, match="through L0H0"):
        virtual_weights(model, early, late, through="L0H0")
    broken = transcoder(model, 0)
    broken.W_dec.data[3, 2] = torch.nan
    with pytest.raises(ArgumentError, match="not finite"):
        virtual_weights(model, broken, late)
    with pytest.raises(SiteAbsent, match="no matrices"):
        latent = shelf.model("deepseek_v3")
        virtual_weights(latent, dictionary(latent, "resid_pre.0"), dictionary(latent, "resid_post.1"), through="L0H0")


def test_what_has_no_expectation_is_refused():
    model = shelf.model("gpt2")
    early, late, texts = transcoder(model, 0), transcoder(model, 1, seed=1), shelf.ids((6, 6))
    found = virtual_weights(model, early, late, top=3)
    with pytest.raises(ArgumentError, match="joins two positions"):
        expected_weights(model, virtual_weights(model, early, late, through="L1H0"), early, late, texts)
    with pytest.raises(ResultError, match="no result of virtual_weights"):
        expected_weights(model, found.drop_vars("source"), early, late, texts)
    with pytest.raises(ResultError, match="finite"):
        expected_weights(model, found * np.nan, early, late, texts)
    with pytest.raises(ArgumentError, match="give the dictionaries that they are of"):
        expected_weights(model, found, transcoder(model, 0, width=6), late, texts)
    with pytest.raises(ArgumentError, match="source_site=mlp_out.0"):
        expected_weights(model, found, late, early, texts)
    with pytest.raises(TokensError, match="no token of the corpus counts"):
        expected_weights(model, found, early, late, [])
    with pytest.raises(TokensError, match="no token of the corpus counts"):
        expected_weights(model, found, early, late, texts, skip_first=6)
    with pytest.raises(OutOfRange, match="skip_first"):
        expected_weights(model, found, early, late, texts, skip_first=-1)
