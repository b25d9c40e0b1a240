"""Every table is what it says, computed a token at a time: for any batch, side of the padding, split and merging."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_tables as naive
import shelf
from caseback.errors import SiteAbsent
from caseback.stream.one_pass import pass_over
from caseback.stream.tables.registry import TABLES
from caseback.stream.tables.token_counts import TokenCounts
from exact import exact

READ = {
    "attention_offsets": ["pattern"],
    "attention_relations": ["pattern"],
    "attention_received": ["pattern", "v"],
    "head_moments": ["z"],
    "neuron_moments": ["mlp_post", "mlp_gate"],
    "neuron_histograms": ["mlp_post"],
    "neuron_groups": ["mlp_post"],
    "neuron_windows": ["mlp_post"],
    "neuron_documents": ["mlp_post", "mlp_gate"],
    "expert_documents": ["expert"],
    "reservoir": ["resid_post"],
    "stream_moments": ["resid_post"],
    "second_moments": ["resid_post"],
    "output_statistics": [],
    "router_counts": ["expert"],
    "token_counts": [],
}
OPTIONS = {
    "neuron_windows": [{"k": 3}, {"k": 5, "per_document": False}],
    "neuron_groups": [{}, {"groups": ("any", "frequency", "label:kind:3")}, {"groups": ("any", "position"), "skip": 3}],
    "neuron_documents": [{}, {"most": 2, "skip": 3}],
    "reservoir": [{"size": 11, "seed": 3}],
    "output_statistics": [{}, {"per_token": True, "groups": ("previous_kinds",)}],
    "token_counts": [{}, {"n": 1}, {"n": 3}],
    "attention_offsets": [{}, {"skip": 1}],
    "attention_relations": [{"relations": tuple(naive.RELATIONS)}, {"relations": ("first", "duplicate"), "skip": 0}],
    "second_moments": [{}, {"layers": (1,)}, {"groups": ("label:kind:2",)}],
}
CASES = [(name, options) for name in READ for options in OPTIONS.get(name, [{}])]
# grouped heads, windows in all layers and in some, a learned sink, experts, parallel blocks, biases on scores
FAMILIES = "gpt2 gptj llama mistral gemma2 gpt_oss mixtral bloom gpt_neo deepseek_v3".split()


def merged(corpus, table, splits=(), *, batch_tokens, side="right", order=None):
    """The state of consecutive parts, merged one after the other or by an order of joints."""
    ends = [0, *splits, len(corpus.rows)]
    parts = [
        pass_over(corpus.model, corpus.block(a, b), {"it": table}, corpus.kinds, batch_tokens=batch_tokens, side=side)[
            "it"
        ]
        for a, b in zip(ends, ends[1:], strict=False)
    ]
    for joint in order or [0] * (len(parts) - 1):
        parts[joint : joint + 2] = [table.merge(*parts[joint : joint + 2])]
    return parts[0]


def assert_is(found, expected, rtol=1e-10, atol=1e-11):
    assert set(found.data_vars) == set(expected)
    for name, values in expected.items():
        values = np.asarray(values, float)
        assert found[name].shape == values.shape, name
        np.testing.assert_allclose(found[name].values.astype(float), values, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_a_table_is_its_definition(name, options, family):
    model, table = shelf.model(family), TABLES[name](**options)
    lacks = model.anatomy.lacks
    if READ[name] and READ[name][0] in lacks:
        assert lacks[READ[name][0]] in table.absent(model.anatomy)
        with pytest.raises(SiteAbsent, match=f"no table {name}"):
            table.sites(model.anatomy)
        return
    with exact():
        corpus = naive.corpus_of(model, read=[site for site in READ[name] if site not in lacks])
        expected = getattr(naive, name)(corpus, **options)
        for way in (
            {"batch_tokens": 30},
            {"batch_tokens": 1},
            {"batch_tokens": 10**6, "side": "left"},
            {"batch_tokens": 20, "side": "left", "splits": (1, 4)},
            {"batch_tokens": 10**6, "splits": (3,)},
        ):
            assert_is(table.result(merged(corpus, table, **way), model), expected)


@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_parts_merge_in_any_association(name, options, data):
    model = shelf.model("mixtral" if name in ("router_counts", "expert_documents") else "llama")
    table = TABLES[name](**options)
    n = data.draw(st.integers(2, 7), label="rows")
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n), label="lengths")
    splits = data.draw(st.lists(st.integers(1, n - 1), unique=True, max_size=n - 1).map(sorted), label="splits")
    order = [data.draw(st.integers(0, len(splits) - 1 - i), label="joint") for i in range(len(splits))]
    with exact():
        corpus = naive.corpus_of(model, read=[], lengths=lengths)
        way = {"batch_tokens": data.draw(st.integers(1, 40)), "side": data.draw(st.sampled_from(["left", "right"]))}
        whole = merged(corpus, table, batch_tokens=10**6)
        parts = merged(corpus, table, splits, order=order, **way)
    if (table.rules or name == "neuron_moments") and "per_token" not in options:
        for what, value in whole.items():
            torch.testing.assert_close(parts[what], value, rtol=1e-12, atol=1e-12, msg=lambda m, w=what: f"{w}: {m}")
        return
    expected = table.result(whole, model)
    assert_is(table.result(parts, model), {name: expected[name].values for name in expected.data_vars})


# where plain transformers has queries and keys before it turns them; None: a part of the fused projection
BEFORE_ROTATION = {
    "gpt2": ("attn.c_attn", "thirds"),
    "gptj": ("attn.{}_proj", None),
    "gpt_neox": ("attention.query_key_value", "by head"),
    "llama": ("self_attn.{}_proj", None),
    "mistral": ("self_attn.{}_proj", None),
    "gemma3_text": ("self_attn.{}_norm", "swapped"),
    "qwen3": ("self_attn.{}_norm", None),
    "olmo2": ("self_attn.{}_norm", None),
    "cohere_qk_norm": ("self_attn.{}_norm", None),
    "stablelm_qk_norm": ("self_attn.{}_layernorm", "swapped"),
    "olmo_clipped": ("self_attn.{}_proj", "clipped"),
}


def before_rotation(family, rows, name, layer, d_head, n_heads):
    """The mean over tokens of a module's output in plain forward passes, (head, d_head)."""
    model = shelf.model(family)
    path, how = BEFORE_ROTATION[family]
    outputs = []
    module = model.anatomy.layers[layer].layer.get_submodule(path.format(name))
    handle = module.register_forward_hook(lambda _, args, output: outputs.append(output.detach()))
    with torch.no_grad():
        for row in rows:
            model.hf(torch.tensor([row]), use_cache=False)
    handle.remove()
    # some norms come after heads and positions changed places
    n = [len(row) for row in rows]
    swapped = [x.transpose(1, 2) if x.ndim == 4 and how == "swapped" else x for x in outputs]
    x = torch.cat([output.reshape(n, -1) for n, output in zip(n, swapped, strict=True)])
    number = "qkv".index(name)
    if how == "thirds":
        x = x.chunk(3, -1)[number]
    elif how == "by head":
        x = x.view(len(x), n_heads, 3, d_head)[:, :, number]
    elif how == "clipped":
        x = x.clamp(-model.hf.config.clip_qkv, model.hf.config.clip_qkv)
    return x.reshape(len(x), n_heads, d_head).mean(0)


@pytest.mark.parametrize("family", BEFORE_ROTATION)
def test_mean_queries_and_keys_are_those_before_rotation(family):
    model, table = shelf.model(family), TABLES["query_key_means"]()
    dims = model.anatomy.layers[0].dims
    with exact():
        corpus = naive.corpus_of(model, read=[])
        expected = {
            name: torch.stack(
                [before_rotation(family, corpus.rows, name, i, dims.d_head, n) for i in range(model.anatomy.n_layers)]
            )
            for name, n in (("q", dims.n_heads), ("k", dims.n_kv_heads))
        }
        # a row of its first token alone has its key
        firsts = [row[:1] for row in corpus.rows]
        expected["first"] = torch.stack(
            [before_rotation(family, firsts, "k", i, dims.d_head, dims.n_kv_heads) for i in range(model.n_layers)]
        )
        for way in ({"batch_tokens": 30}, {"batch_tokens": 50, "side": "left", "splits": (2,)}):
            assert_is(table.result(merged(corpus, table, **way), model), expected)


def test_what_cannot_be_turned_back_is_refused():
    assert "shared latent" in TABLES["query_key_means"]().absent(shelf.model("deepseek_v3").anatomy)


def test_states_are_tensors_that_name_no_layer_twice():
    model = shelf.model("gpt2")
    for table in (kind() for kind in TABLES.values()):
        if table.absent(model.anatomy) is None:
            assert all(isinstance(value, torch.Tensor) for value in table.empty(model).values())


@pytest.mark.parametrize("family", ["gpt2", "mixtral"])
def test_tables_that_take_a_batch_side_by_side_have_the_same_bits(family, monkeypatch):
    model = shelf.model(family)
    tables = {name: kind() for name, kind in TABLES.items() if kind().absent(model.anatomy) is None}
    corpus = naive.corpus_of(model, read=[], lengths=[9, 1, 12, 30])

    def collected(mode=torch.no_grad):
        with mode():
            return pass_over(model, corpus.block(), tables, corpus.kinds, batch_tokens=30)

    takers, add = set(), TokenCounts.add
    monkeypatch.setattr(TokenCounts, "add", lambda *of: takers.add(threading.get_ident()) or add(*of))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    one_by_one = collected()
    assert takers == {threading.get_ident()}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        side_by_side = collected(mode)
        for name, state in one_by_one.items():
            for key, value in state.items():
                torch.testing.assert_close(side_by_side[name][key], value, rtol=0, atol=0)
    assert len(takers) > 1


@pytest.mark.parametrize("family", ["gpt2", "mixtral"])
def test_no_table_writes_into_what_the_others_read(family):
    model = shelf.model(family)
    corpus = naive.corpus_of(model, read=[], lengths=[9, 9, 9])
    tables = [kind() for kind in TABLES.values() if kind().absent(model.anatomy) is None]
    sites = list(dict.fromkeys(site for table in tables for site in table.sites(model.anatomy)))

    def adds(seen):
        read = {site: seen.attention(site.layer) if site.name == "pattern" else seen.at(site) for site in sites}
        for table in tables:
            before = {site: x._version for site, x in read.items()}
            table.add(table.empty(model), seen)
            assert {site: x._version for site, x in read.items()} == before, table.name

    pass_over(model, corpus.block(), {}, corpus.kinds, batch_tokens=30, also=adds, also_sites=sites)


def test_a_table_that_cannot_take_a_batch_ends_the_pass(monkeypatch):
    def broken(*_):
        raise ArithmeticError("not this batch")

    model = shelf.model("gpt2")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(TokenCounts, "add", broken)
    corpus = naive.corpus_of(model, read=[], lengths=[9, 1, 12, 30])
    tables = {name: TABLES[name]() for name in ("head_moments", "token_counts", "neuron_moments")}
    with pytest.raises(ArithmeticError, match="not this batch"):
        pass_over(model, corpus.block(), tables, corpus.kinds, batch_tokens=30)


def test_permuted_marks_are_those_of_another_token_of_the_row_however_rows_are_batched():
    model = shelf.model("gpt2")
    corpus = naive.corpus_of(model, read=[], lengths=[9, 1, 12, 30])
    table = TABLES["neuron_groups"](groups=("kinds", "permuted_kinds", "position", "permuted_position"))
    ways = [{"batch_tokens": n, "side": side} for n, side in ((10**6, "right"), (30, "left"), (1, "right"))]
    whole, *others = (merged(corpus, table, **way) for way in ways)
    for other in (*others, merged(corpus, table, (1, 3), batch_tokens=40)):
        for name, value in whole.items():
            torch.testing.assert_close(other[name], value, msg=name)
    n = table.result(whole, model)["n"]
    groups = [str(name) for name in n["group"].values if not str(name).startswith("permuted")]
    assert (n.sel(group=groups).values == n.sel(group=[f"permuted {name}" for name in groups]).values).all()
    means = table.result(whole, model)["mean"]
    letters = [name for name in groups if 5 < int(n.sel(group=name)) < 40]
    assert letters and all(
        not np.allclose(means.sel(group=name), means.sel(group=f"permuted {name}")) for name in letters
    )
