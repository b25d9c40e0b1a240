"""Every published layout, by function value: what is read computes what the layout's own few lines compute."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import published_layouts as layouts
from caseback.decode.dictionaries import (
    FORMATS,
    AbsTopK,
    BatchTopK,
    Dictionary,
    Facts,
    Gated,
    JumpReLU,
    Standard,
    TopK,
    load,
    load_set,
    published,
    save,
)
from caseback.errors import ArgumentError, LoadError
from published_layouts import D, F, K

READ = {
    **{
        f"saelens {name}": lambda p, t, name=name: layouts.saelens(p, t, name)
        for name in (
            "standard",
            "jumprelu",
            "gated",
            "transcoder",
            "skip_transcoder",
            "jumprelu_transcoder",
            "jumprelu_skip_transcoder",
        )
    },
    **{f"saelens {name}": lambda p, t, name=name: layouts.saelens(p, t, name, k=K) for name in ("topk", "abstopk")},
    "saelens topk by norm": lambda p, t: layouts.saelens(p, t, "topk", k=K, rescale_acts_by_decoder_norm=True),
    "saelens layer norm": lambda p, t: layouts.saelens(p, t, "topk", k=K, normalize_activations="layer_norm"),
    "saelens unit norm": lambda p, t: layouts.saelens(p, t, "standard", normalize_activations="constant_norm_rescale"),
    "saelens scaled": lambda p, t: layouts.saelens(
        p, t, "jumprelu", normalize_activations="expected_average_only_in", norm_scaling_factor=0.3
    ),
    "saelens not centered": lambda p, t: layouts.saelens(p, t, "standard", apply_b_dec_to_input=False),
    "saelens 5": layouts.old_saelens,
    "gemma scope": layouts.gemma_scope,
    "gemma scope lower case": lambda p, t: layouts.gemma_scope(p, t, "w_"),
    "gemma scope embedding": lambda p, t: layouts.gemma_scope(p, t, embedding=True),
    "gemma scope 2": layouts.gemma_scope_2,
    "gemma scope 2 without config": lambda p, t: layouts.gemma_scope_2(p, t, config=False),
    "sparsify": layouts.sparsify,
    "sparsify skip": lambda p, t: layouts.sparsify(p, t, transcode=True),
    "sparsify old": lambda p, t: layouts.sparsify(p, t, old=True),
    "circuit-tracer": lambda p, t: layouts.circuit_tracer(p, t, "jumprelu")[1],
    "circuit-tracer topk": lambda p, t: layouts.circuit_tracer(p, t, "topk")[1],
    "circuit-tracer relu": lambda p, t: layouts.circuit_tracer(p, t, "relu")[1],
    "llama scope": layouts.llama_scope,
    "llama scope topk": lambda p, t: layouts.llama_scope(p, t, "topk"),
    "llamascopium": layouts.llamascopium,
    "openai": layouts.openai,
    "openai relu": lambda p, t: layouts.openai(p, t, None),
    "qwen scope": layouts.qwen_scope,
    "goodfire": lambda p, t: layouts.of_linear(p, t, "_linear"),
    "deepseek r1": lambda p, t: layouts.of_linear(p, t, ""),
    **{
        f"dictionary_learning {name}": lambda p, t, name=name: layouts.dictionary_learning(p, t, name)
        for name in (
            "AutoEncoder",
            "AutoEncoderTopK",
            "BatchTopKSAE",
            "MatryoshkaBatchTopKSAE",
            "JumpReluAutoEncoder",
            "GatedAutoEncoder",
        )
    },
    **{
        f"dictionary_learning interrupted {name}": lambda p, t, name=name: layouts.dictionary_learning(
            p, t, name, interrupted=True
        )
        for name in ("AutoEncoder", "BatchTopKSAE", "JumpReluAutoEncoder", "GatedAutoEncoder")
    },
}


def _states(dtype=torch.float64, d: int = D) -> torch.Tensor:
    return 3 * layouts.numbers(50, d, seed=1, dtype=dtype) + 0.5


def _expect_same(one: Dictionary, published: layouts.Published, dtype=torch.float64) -> None:
    x = _states(dtype)
    wanted = published.encode(x)
    assert 0 < int((wanted != 0).sum()) < wanted.numel(), "a test of nothing"
    atol = 1e-12 if dtype == torch.float64 else 1e-6
    with torch.no_grad():
        scale = float(wanted.abs().max()) + 1
        torch.testing.assert_close(one.encode(x) / scale, wanted / scale, rtol=0, atol=atol)
        out = published.decode(wanted, x)
        scale = float(out.abs().max()) + 1
        torch.testing.assert_close(one.decode(wanted, x) / scale, out / scale, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", READ)
def test_what_is_read_computes_what_its_library_computes(tmp_path, name, dtype):
    published = READ[name](tmp_path / "a", dtype)
    _expect_same(load(published.path, allow_pickle=True), published, dtype)


@pytest.mark.parametrize(
    ("name", "site", "target", "model", "centered"),
    [
        ("saelens standard", "resid_pre.3", "", "gpt2-small", True),
        ("saelens transcoder", "mlp_norm.3", "mlp_out.3", "gpt2-small", False),
        ("saelens 5", "resid_pre.8", "", "gpt2-small", True),
        ("gemma scope", "resid_post.20", "", "gemma-2-2b", False),
        ("gemma scope embedding", "embed", "", "gemma-2-2b", False),
        ("gemma scope 2", "mlp_norm.2", "mlp_out.2", "gemma-3-1b-pt", False),
        ("gemma scope 2 without config", "mlp_norm.2", "mlp_out.2", "gemma-3-1b-pt", False),
        ("sparsify", "resid_post.3", "", "EleutherAI/pythia-160m", True),
        ("sparsify skip", "mlp_norm.3", "mlp_out.3", "EleutherAI/pythia-160m", False),
        ("circuit-tracer", "mlp_norm.1", "mlp_out.1", "Qwen/Qwen3-0.6B", False),
        ("llama scope", "mlp_norm.8", "mlp_out.8", "", False),
        ("llamascopium", "resid_post.5", "", "", False),
        ("openai", "resid_post.8", "", "gpt2", True),
        ("qwen scope", "resid_post.7", "", "Qwen/Qwen3-1.7B-Base", False),
        ("goodfire", "resid_post.19", "", "Llama-3.1-8B-Instruct", False),
        ("dictionary_learning AutoEncoder", "resid_post.4", "", "EleutherAI/pythia-70m-deduped", True),
        ("dictionary_learning JumpReluAutoEncoder", "resid_post.4", "", "EleutherAI/pythia-70m-deduped", False),
    ],
)
def test_what_files_leave_unsaid_is_declared(tmp_path, name, site, target, model, centered):
    facts = load(READ[name](tmp_path / "a", torch.float64).path, allow_pickle=True).facts
    assert (facts.site, facts.target, facts.model, facts.centered) == (site, target, model, centered)


def test_bfloat16_is_widened(tmp_path):
    one = load(layouts.saelens(tmp_path / "a", torch.bfloat16, "jumprelu").path)
    assert all(tensor.dtype == torch.float32 for tensor in (one.W_enc, one.W_dec, one.threshold))


def _random(kind, **options) -> Dictionary:
    one = kind(D, F, dtype=torch.float64, **options)
    for i, parameter in enumerate(one.parameters()):
        parameter.data = (0.5 if parameter.ndim < 2 else 1) * layouts.numbers(*parameter.shape, seed=200 + i)
    if kind is JumpReLU:
        one.threshold.data.abs_()
    if kind is BatchTopK:
        one.threshold.fill_(0.6)
    if one.facts.normalization == "scale":
        one.scale.fill_(0.4)
        one.out_scale.fill_(0.4)
    return one


TRANSCODES = {"site": "mlp_norm.0", "target": "mlp_out.0", "centered": False}
SAELENS = [
    (Standard, {}),
    (TopK, {"k": K}),
    (TopK, {"k": K, "facts": Facts(normalization="layer_norm")}),
    (TopK, {"k": K, "facts": Facts(normalization="scale", site="z.2")}),
    (JumpReLU, {"facts": Facts(centered=False)}),
    (JumpReLU, {"facts": Facts(normalization="scale")}),
    (JumpReLU, {"facts": Facts(**TRANSCODES), "skip": True}),
    (JumpReLU, {"facts": Facts(**{**TRANSCODES, "centered": True})}),
    (Standard, {"facts": Facts(**TRANSCODES), "skip": True}),
    (BatchTopK, {"k": K}),
    (BatchTopK, {"k": K, "facts": Facts(by_norm=True)}),
    (BatchTopK, {"k": K, "facts": Facts(by_norm=True, normalization="scale")}),
    (Gated, {}),
    (AbsTopK, {"k": K}),
]


@pytest.mark.parametrize(("kind", "options"), SAELENS)
def test_what_is_written_for_saelens_it_computes(tmp_path, kind, options):
    one = _random(kind, **options)
    save(one, tmp_path / "a", format="saelens")
    _expect_same(one, layouts.saelens_reference(tmp_path / "a"))
    again = load(tmp_path / "a")
    _expect_same(again, layouts.saelens_reference(tmp_path / "a"))
    assert (again.facts.site, again.facts.target) == (one.facts.site, one.facts.target)


def test_selection_by_norm_is_folded_for_saelens(tmp_path):
    """Its codes are scores times norms; reconstructions stay."""
    one, x = _random(TopK, k=K, facts=Facts(by_norm=True)), _states()
    save(one, tmp_path / "a")
    published = layouts.saelens_reference(tmp_path / "a")
    torch.testing.assert_close(published.encode(x), one.encode(x) * one.norms(), rtol=0, atol=1e-12)
    torch.testing.assert_close(published.decode(published.encode(x), x), one(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("transcodes", [True, False])
def test_what_is_written_for_sparsify_it_computes(tmp_path, transcodes, centered):
    facts = (
        Facts(**{**TRANSCODES, "centered": centered}) if transcodes else Facts(site="resid_post.3", centered=centered)
    )
    one = _random(TopK, k=K, facts=facts, skip=transcodes)
    save(one, tmp_path / "a", format="sparsify")
    _expect_same(one, layouts.sparsify_reference(tmp_path / "a"))
    again = load(tmp_path / "a")
    _expect_same(again, layouts.sparsify_reference(tmp_path / "a"))
    assert (again.facts.site, again.facts.target) == (facts.site, facts.target)


@pytest.mark.parametrize("kind", ["jumprelu", "topk", "relu"])
def test_a_set_of_transcoders_goes_there_and_back(tmp_path, kind):
    """Skips, k and the threshold included: a reader elsewhere lost them."""
    published = layouts.circuit_tracer(tmp_path / "a", torch.float64, kind)
    ours = load_set(tmp_path / "a")
    save(list(ours.values()), tmp_path / "b", format="circuit_tracer")
    again = load_set(tmp_path / "b")
    for one, two, reference, own in zip(
        ours.values(), again.values(), published, layouts.circuit_tracer_reference(tmp_path / "b"), strict=True
    ):
        for each, by in ((one, reference), (two, reference), (one, own)):
            _expect_same(each, by)
    assert [one.facts.site for one in again.values()] == ["mlp_norm.0", "mlp_norm.1"]
    assert one.facts.tokens == "not the first token"
    if kind == "topk":
        assert (one.encode(_states()) < 0).any(), "TopK of circuit-tracer has no ReLU"


def test_a_set_names_files_of_other_layouts_and_never_leaves_its_folder(tmp_path):
    layouts.circuit_tracer(tmp_path / "a", torch.float64, "jumprelu")
    config = tmp_path / "a" / "config.yaml"
    text = config.read_text()
    for name in ("../secret.safetensors", "/etc/secret.safetensors", "a\\..\\b"):
        config.write_text(text + f"transcoders: [{json.dumps(name)}]\n")
        with pytest.raises(LoadError, match="leads out of"):
            load_set(tmp_path / "a")
    with pytest.raises(LoadError, match="leads out of"):
        load(tmp_path / "a", subfolder="../a")


def test_folders_of_sparsify_are_a_set(tmp_path):
    published = layouts.sparsify(tmp_path / "a", torch.float64)
    ((name, one),) = load_set(published.path.parent).items()
    assert name == "layers.3"
    _expect_same(one, published)
    with pytest.raises(LoadError, match="give subfolder='layers.3'"):
        load(published.path.parent)


def test_a_topk_of_dictionary_learning_ignores_its_threshold(tmp_path):
    """Its file holds one, which only another mode of its library uses."""
    one = load(layouts.dictionary_learning(tmp_path / "a", torch.float64, "AutoEncoderTopK").path, allow_pickle=True)
    assert type(one) is TopK and "threshold" not in one.state_dict()


def test_a_width_may_come_from_the_expansion(tmp_path):
    """num_latents 0, as most files have it, is no width."""
    path = layouts.sparsify(tmp_path / "a", torch.float64).path
    held = load_file(path / "sae.safetensors")
    held = {name: value[: 3 * D] if len(value) == F else value for name, value in held.items()}
    save_file(held, path / "sae.safetensors")
    config = json.loads((path / "cfg.json").read_text()) | {"num_latents": 0, "expansion_factor": 3}
    (path / "cfg.json").write_text(json.dumps(config))
    assert load(path).n_features == 3 * D


def test_scaled_states_without_a_factor_are_refused_or_taken_as_they_are(tmp_path):
    path = layouts.saelens(
        tmp_path / "a", torch.float64, "standard", normalize_activations="expected_average_only_in"
    ).path
    with pytest.raises(LoadError, match="none of its files has"):
        load(path)
    assert load(path, force=True).n_features == F
    (path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.5}))
    torch.testing.assert_close(load(path).W_enc, load(path, force=True).W_enc * 0.5 / 0.5 * 1.0)


@pytest.mark.parametrize(
    ("kind", "options", "format"),
    [
        (TopK, {"k": K, "relu": False}, "saelens"),
        (Gated, {}, "sparsify"),
        (TopK, {"k": K}, "circuit_tracer"),
        (AbsTopK, {"k": K, "facts": Facts(**TRANSCODES)}, "circuit_tracer"),
        (TopK, {"k": K, "facts": Facts(normalization="unit_norm")}, "sparsify"),
        (TopK, {"k": K, "facts": Facts(**TRANSCODES)}, "saelens"),
        (Standard, {"facts": Facts(**TRANSCODES, normalization="unit_norm")}, "saelens"),
    ],
)
def test_what_a_layout_cannot_hold_is_not_written(tmp_path, kind, options, format):
    with pytest.raises(ArgumentError):
        save(_random(kind, **options), tmp_path / "a", format=format)


def test_our_own_layout_holds_all(tmp_path):
    one = _random(TopK, k=K, relu=False, facts=Facts(by_norm=True))
    save(one, tmp_path / "a", format="caseback")
    for path in (tmp_path / "a", tmp_path / "a" / "dictionary.safetensors"):
        torch.testing.assert_close(load(path).encode(_states()), one.encode(_states()), rtol=0, atol=0)


def test_a_pursuit_of_saelens_has_no_encoder(tmp_path):
    path = tmp_path / "a"
    path.mkdir()
    rows = layouts.numbers(F, D, seed=150)
    rows, center = rows / rows.norm(dim=1, keepdim=True), layouts.numbers(D, seed=151)
    save_file({"W_dec": rows, "b_dec": center}, path / "sae_weights.safetensors")
    config = {
        "architecture": "matching_pursuit",
        "d_in": D,
        "d_sae": F,
        "apply_b_dec_to_input": True,
        "max_iterations": 4,
    }
    config |= {"residual_threshold": 0.5, "normalize_activations": "none", "metadata": {"sae_lens_version": "6.50.0"}}
    (path / "cfg.json").write_text(json.dumps({**config, "stop_on_duplicate_support": False}))
    one, x = load(path), _states()
    wanted = torch.zeros(len(x), F, dtype=torch.float64)
    for token, state in enumerate(x):
        left = state - center
        for _ in range(4):
            best = (rows @ left).argmax()
            size = (rows @ left)[best].relu()
            wanted[token, best] += size
            left = left - size * rows[best]
            if left.norm() < 0.5:
                break
    torch.testing.assert_close(one.encode(x), wanted, rtol=0, atol=1e-12)
    (path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match="second time"):
        load(path)


def test_published_releases_are_of_layouts_that_are_read():
    rows = published()
    assert {row["format"] for row in rows} <= set(FORMATS)
    assert len({row["repository"] for row in rows}) == len(rows) > 50
    assert all(set(row) == {"release", "repository", "model", "format", "sites", "widths", "example"} for row in rows)
    assert {row["model"] for row in published("GEMMA-2-2b")} == {"google/gemma-2-2b"}
    assert published("no such model") == []
