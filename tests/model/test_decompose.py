"""Predictions split over components, sources and neurons (PRIMER 2.1-2.6, 2.9): splits sum to the whole."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch.testing import assert_close
from written_out import FROZEN, embedded, final_stream

import shelf
from caseback.errors import CasebackError, OutOfRange, SiteAbsent, TargetError
from caseback.jobs import budget
from caseback.model.algebra.decompose import logit_parts, stream_parts
from caseback.model.algebra.neurons import neuron_parts
from caseback.model.algebra.sources import head_sources, source_parts
from caseback.model.algebra.weights import Weights
from caseback.model.backward.linearised import sites, source_shares, source_stream, steps
from exact import exact

PROMPTS = shelf.ids((8, 5))
LATENT = {"deepseek_v2", "deepseek_v2_full_query", "deepseek_v3"}
EXPERTS = {"mixtral", "olmoe", "granitemoe", "gpt_oss"}
MIXTURES = {*EXPERTS, "qwen2_moe", "qwen3_moe", *LATENT}
DENSE = [n for n in shelf.FAMILIES if n not in MIXTURES]
TARGETS = [3, 58, 7]


def close(made, told, tol=1e-10):
    made, told = (x if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x)) for x in (made, told))
    assert_close(made, told, rtol=tol, atol=tol, equal_nan=True)


def uncapped(model, logits):
    cap = model.anatomy.logit_softcap
    return logits if cap is None else cap * torch.atanh(logits / cap)


def directions(model, *lead, k=2):
    return torch.randn(*lead, k, model.d_model, dtype=torch.float64)


@pytest.mark.parametrize("name", shelf.FAMILIES)
def test_2_1_all_writes_sum_to_the_stream(name):
    model = shelf.model(name)
    with exact():
        run = model.run(PROMPTS, read=[("resid_post", -1), "head_out", "attn_out", "mlp_out"])
        parts = stream_parts(model, PROMPTS, pos=None)
    mask = run.tokens.mask
    close(parts.sum("component", skipna=False).values[mask], run["resid_post", -1][mask], 1e-12)
    assert parts.attrs["gap"] < 1e-12 * float(run["resid_post", -1].abs().max())
    h = model.n_heads - 1
    close(parts.sel(component=f"L1H{h}").values[mask], run["head_out", 1][mask][:, h])
    of_attention = parts[(parts.layer == 1) & parts.kind.isin(["head", "attn_bias"])].sum("component")
    close(of_attention.values[mask], run["attn_out", 1][mask])
    close(parts.sel(component="MLP 1").values[mask], run["mlp_out", 1][mask])


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_2_2_frozen_norm_splits_over_the_writes(name):
    model = shelf.model(name)
    with exact():
        run = model.run(PROMPTS, read=["final_norm"])
        parts = stream_parts(model, PROMPTS, normed=True)
    last = torch.stack([run["final_norm"][row, n - 1] for row, n in enumerate((8, 5))])
    close(parts.sum("component"), last, 1e-12)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "olmo"])
def test_2_2_geometry_and_linear_form(name):
    """Without its epsilon a bare norm has length sqrt(d); M diag(gamma) / s does what the norm does."""
    norm = Weights(shelf.model(name).anatomy).final_norm
    x = torch.randn(6, 32, dtype=torch.float64) * 3
    bare = norm.centre(x) / (norm.scale(x) ** 2 - norm.eps).sqrt()
    close(bare.norm(dim=-1), torch.full((6,), 32**0.5, dtype=torch.float64), 1e-13)
    ones = torch.ones(32, 32, dtype=torch.float64)
    m = torch.eye(32, dtype=torch.float64) - norm.centred * ones / 32
    beta = 0.0 if norm.beta is None else norm.beta
    close(x @ m @ torch.diag(norm.gamma.double()) / norm.scale(x) + beta, norm(x), 1e-13)
    parts = torch.stack([x * 0.3, x * 0.7 - 1, torch.ones_like(x)])
    close(norm.frozen(parts, norm.scale(x)).sum(0) + beta, norm(x), 1e-13)


@pytest.mark.parametrize("name", shelf.FAMILIES)
def test_2_6_rows_sum_to_the_logits(name):
    model = shelf.model(name)
    with exact():
        run = model.run(PROMPTS, read=[("resid_post", -1)])
        parts = logit_parts(model, PROMPTS, TARGETS, pos=None)
    mask = run.tokens.mask
    told = uncapped(model, run.logits)[..., TARGETS]
    close(parts.sum("component", skipna=False).values[mask], told[mask])
    assert parts.attrs["gap"] < 1e-12
    assert np.isnan(parts.values[:, ~mask.numpy()]).all() and not np.isnan(parts.values[:, mask.numpy()]).any()
    assert parts.dims == ("component", "batch", "pos", "vocab")
    assert list(parts.vocab) == TARGETS and list(parts.target.values) == ["3", "58", "7"]


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_2_6_shares_are_the_writes_through_the_frozen_norm(name):
    """The projected table is the table of vectors, normed, times columns of W_U."""
    model = shelf.model(name)
    with exact():
        shares = logit_parts(model, PROMPTS, TARGETS)
        vectors = stream_parts(model, PROMPTS, normed=True)
    weights = Weights(model.anatomy)
    columns = weights.W_U[:, TARGETS].numpy() * model.anatomy.logit_scale
    made = xr.dot(vectors, xr.DataArray(columns, dims=["d_model", "vocab"]), dim="d_model")
    rows = [c for c in shares.component.values if c != "bias"]
    close(shares.sel(component=rows), made.sel(component=rows))
    bias = weights.b_U[TARGETS].numpy() * model.anatomy.logit_scale
    bias = bias + (made.sel(component="bias").values if "bias" in made.component else 0.0)
    close(shares.sel(component="bias"), np.broadcast_to(bias, (2, 3)))


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "granite"])
def test_2_6_directions_of_every_kind(name):
    model = shelf.model(name)
    w_u = Weights(model.anatomy).W_U
    each = directions(model, 2)
    with exact():
        tokens = logit_parts(model, PROMPTS, [3, 7])
        own = logit_parts(model, PROMPTS, [[3, 7], [7, 3]])
        column = logit_parts(model, PROMPTS, (w_u[:, 3] - w_u[:, 7])[None])
        vectors = logit_parts(model, PROMPTS, each)
        first = logit_parts(model, [PROMPTS[0]], each[0])
        one = logit_parts(model, PROMPTS, 3)
        tensor = logit_parts(model, PROMPTS, torch.tensor([[3, 7], [7, 3]]), pos=torch.tensor([7, -1]))
    close(own.values[:, 0], tokens.values[:, 0])
    close(own.values[:, 1], tokens.values[:, 1, ::-1])
    close(tensor, own)
    close(one.values[..., 0], tokens.values[..., 0])
    assert own.dims[-1] == "k" and own.target.dims == ("batch", "k")
    scaled = column.isel(k=0).sel(component="L1H1") * model.anatomy.logit_scale
    difference = tokens.isel(vocab=0, drop=True) - tokens.isel(vocab=1, drop=True)
    close(scaled, difference.sel(component="L1H1"))
    close(vectors.values[:, :1], first)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "olmo2"])
def test_padding_on_either_side_changes_no_share(name):
    model = shelf.model(name)
    with exact():
        right, left = (model.tokens(PROMPTS, padding=side) for side in ("right", "left"))
        alone = model.tokens([PROMPTS[1]])
        for made in (
            lambda t: logit_parts(model, t, TARGETS),
            lambda t: source_parts(model, t, TARGETS).sum("key"),
            lambda t: source_shares(model, t, TARGETS).isel(key=-1),
            lambda t: neuron_parts(model, t, TARGETS, top=None),
        ):
            close(made(right), made(left))
            shared = made(right)
            close(shared.isel(batch=[1]), made(alone))
        every = source_shares(model, left, TARGETS, pos=None)
    assert np.isnan(every.values[:, 1, :3]).all() and not np.isnan(every.values[:, 1, 3:]).any()
    assert list(every.key_token.values[1]) == ["", "", "", *map(str, PROMPTS[1]), "bias"]


def test_a_table_goes_to_a_file_and_back(tmp_path):
    parts = logit_parts(shelf.model("gemma2"), PROMPTS, TARGETS)
    parts.to_netcdf(tmp_path / "parts.nc")
    again = xr.load_dataarray(tmp_path / "parts.nc")
    close(again, parts)
    assert again.attrs["entry"] == "2.6, 2.5" and again.attrs["softcap"] == 5.0
    assert list(again.component.values) == list(parts.component.values)


@pytest.mark.parametrize("name", shelf.FAMILIES)
def test_2_3_sources_sum_to_the_heads(name):
    model = shelf.model(name)
    with exact():
        run = model.run(PROMPTS, read=[("head_out", 1)])
        writes = head_sources(model, PROMPTS, -2)
        shares = source_parts(model, PROMPTS, TARGETS)
        every = source_parts(model, PROMPTS, TARGETS, pos=None, layers=[1])
        heads = logit_parts(model, PROMPTS, TARGETS)
    mask = run.tokens.mask
    summed = writes.sum("key").transpose("batch", "query", "head", "d_model")
    close(summed.values[mask], run["head_out", 1][mask], 1e-12)
    shape = (2, model.n_layers, model.n_heads, 3)
    of_heads = heads[heads.kind == "head"].transpose("batch", "component", "vocab").values.reshape(shape)
    close(shares.sum("key"), of_heads)
    close(every.isel(query=7, batch=0, layer=0), shares.isel(batch=0, layer=1))
    close(every.isel(query=4, batch=1, layer=0), shares.isel(batch=1, layer=1))
    later = torch.ones(8, 8).triu(1).bool().numpy()
    assert not writes.values[0][:, later].any() and writes.attrs["gap"] < 1e-12 > every.attrs["gap"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_oss", "gpt_neox"])
def test_2_3_a_source_is_pattern_times_ov_of_its_stream(name):
    """a_ij (norm(x_j) W_V + b_V) W_O, from the weights; a sink leaves rows below one and b_V its share."""
    model = shelf.model(name)
    weights = Weights(model.anatomy)
    with exact():
        run = model.run([PROMPTS[0]], read=[("attn_in", 2), ("pattern", 2)])
        writes = head_sources(model, [PROMPTS[0]], 2)
    x = weights.attn_norm[2](run["attn_in", 2][0])
    for h in (0, model.n_heads - 1):
        moved = (x @ weights.OV[2, h]).dense() + weights.b_V.per_head[2][h] @ weights.W_O[2][h]
        close(writes.values[0, h], run["pattern", 2][0, h][..., None] * moved)


@pytest.mark.parametrize("name", DENSE)
def test_2_4_neurons_sum_to_the_mlp(name):
    model = shelf.model(name)
    with exact():
        every = neuron_parts(model, PROMPTS, TARGETS, top=None)
        best = neuron_parts(model, PROMPTS, TARGETS, top=7)
        rows = logit_parts(model, PROMPTS, TARGETS)
    assert every.attrs["gap"] < 1e-12
    flat = every.stack(unit=("layer", "neuron")).transpose("batch", "vocab", "unit")
    order = np.argsort(-np.abs(flat.values), axis=-1, kind="stable")[..., :7]
    close(best, np.take_along_axis(flat.values, order, -1))
    width = every.sizes["neuron"]
    close(best.layer_index, order // width)
    close(best.neuron_index, order % width)
    if all(getattr(p.w_out, "bias", None) is None and p.mlp_post_norm is None for p in model.anatomy.layers):
        mlps = rows[rows.kind == "mlp"].transpose("batch", "vocab", "component")
        close(every.sum("neuron"), mlps)


def test_2_4_neurons_at_every_position_and_in_the_dense_layers_of_a_mixture():
    model = shelf.model("qwen2_moe")
    with exact():
        found = neuron_parts(model, PROMPTS, directions(model), pos=None, top=5)
    assert found.dims == ("batch", "pos", "k", "rank") and found.shape == (2, 8, 2, 5)
    assert found.attrs["layers"] == [1] and set(found.layer_index.values.flat) == {1}
    assert np.isnan(found.values[1, 5:]).all() and found.attrs["gap"] < 1e-12


@pytest.mark.parametrize("name", DENSE)
def test_2_9_sources_and_biases_sum_to_the_stream_and_the_logits(name):
    model = shelf.model(name)
    with exact():
        run = model.run(PROMPTS, read=[("resid_post", -1)])
        stream = source_stream(model, PROMPTS, pos=None)
        shares = source_shares(model, PROMPTS, TARGETS)
        parts = logit_parts(model, PROMPTS, TARGETS)
    mask = run.tokens.mask
    close(stream.sum("key", skipna=False).values[mask], run["resid_post", -1][mask], 1e-11)
    last = np.stack([uncapped(model, run.logits)[row, n - 1, TARGETS] for row, n in enumerate((8, 5))])
    close(shares.sum(("component", "key")), last)
    assert shares.attrs["gap"] < 1e-12
    rows = [c for c in shares.component.values if c not in ("embed", "bias")]
    close(shares.sel(component=rows).sum("key"), parts.sel(component=rows))
    later = np.concatenate([torch.ones(8, 8).triu(1).bool().numpy(), np.zeros((8, 1), bool)], 1)
    assert not stream.values[0][later].any()


@pytest.mark.parametrize("name", [n for n in DENSE if n not in ("mpt_clipped", "olmo_clipped")])
def test_2_9_the_split_is_that_of_the_frozen_network(name):
    """Source s alone through the affine map written out from folded weights, less what no source gives."""
    model = shelf.model(name)
    folded = Weights(model.anatomy).folded()
    with exact():
        run = model.run([PROMPTS[0]], read=FROZEN)
        stream = folded._centre(torch.as_tensor(source_stream(model, [PROMPTS[0]], pos=None).values))
        x = embedded(run, folded)
        nothing = final_stream(model, run, folded, torch.zeros_like(x), frozen=True)
        close(stream[:, :, -1], nothing)
        for s in (0, 3, 7):
            alone = torch.zeros_like(x)
            alone[:, s] = x[:, s]
            close(stream[:, :, s], final_stream(model, run, folded, alone, frozen=True) - nothing)


def test_2_9_steps_follow_the_stream_layer_by_layer():
    model = shelf.model("gpt_neox")
    with exact():
        run = model.run(PROMPTS, read=[*sites(model), "resid_post"])
        for step in steps(model, run):
            close(step.stream.sum(2)[run.tokens.mask], run["resid_post", step.layer][run.tokens.mask])
            close(step.z.sum(2)[run.tokens.mask], run["z", step.layer][run.tokens.mask])


def test_2_9_neurons_are_taken_some_pairs_at_a_time():
    model = shelf.model("llama")
    whole = source_stream(model, PROMPTS)
    with budget.override(neuron_numbers=2 * 44 * 3):
        close(source_stream(model, PROMPTS), whole, 1e-6)


@pytest.mark.parametrize(
    ("name", "wrong", "error", "says"),
    [
        ("gpt2", lambda m: logit_parts(m, PROMPTS, []), TargetError, "cannot read a stream"),
        ("gpt2", lambda m: logit_parts(m, PROMPTS, 61), TargetError, "61"),
        ("gpt2", lambda m: logit_parts(m, PROMPTS, [[1, 2]]), TargetError, "one list per prompt"),
        ("gpt2", lambda m: logit_parts(m, PROMPTS, [[1, 2], [3]]), TargetError, "one list per prompt"),
        ("gpt2", lambda m: logit_parts(m, PROMPTS, [0.5, 0.5]), TargetError, "cannot read a stream"),
        ("gpt2", lambda m: logit_parts(m, PROMPTS, torch.ones(2, 31)), TargetError, "width 32"),
        ("gpt2", lambda m: logit_parts(m, PROMPTS, torch.ones(3, 1, 32)), TargetError, "2 prompts"),
        ("gpt2", lambda m: logit_parts(m, PROMPTS, 3, pos=6), OutOfRange, "5 tokens"),
        ("gpt2", lambda m: head_sources(m, PROMPTS, 3), CasebackError, "layers 0 to 2"),
        ("gpt2", lambda m: neuron_parts(m, PROMPTS, 3, top=0), OutOfRange, "at least 1"),
        ("mixtral", lambda m: neuron_parts(m, PROMPTS, 3), SiteAbsent, "expert"),
        ("gpt_oss", lambda m: source_stream(m, PROMPTS), SiteAbsent, r"layers \[0, 1, 2\] are mixtures"),
        ("youtu", lambda m: source_shares(m, PROMPTS, 3), SiteAbsent, "latent"),
    ],
)
def test_errors_say_what_is_wrong(name, wrong, error, says):
    with pytest.raises(error, match=says):
        wrong(shelf.model(name))
