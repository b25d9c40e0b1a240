"""Cross-layer transcoders: stored by source or by target, read to one function, written by source."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from caseback.decode.dictionaries import (
    CrossLayerBatchTopK,
    CrossLayerJumpReLU,
    CrossLayerTopK,
    Facts,
    StandardCrosscoder,
    load,
    save,
)
from caseback.errors import ArgumentError, LoadError
from published_layouts import numbers

L, D, F = 3, 5, 8
DTYPE = torch.float64


def _weights(thresholds: bool) -> dict[str, list[torch.Tensor]]:
    """At each source layer: (F, D), (F), (F, L - s, D), (D), (F)."""
    return {
        "W_enc": [numbers(F, D, seed=s) for s in range(L)],
        "b_enc": [0.3 * numbers(F, seed=10 + s) for s in range(L)],
        "W_dec": [numbers(F, L - s, D, seed=20 + s) for s in range(L)],
        "b_dec": [numbers(D, seed=30 + s) for s in range(L)],
        "threshold": [numbers(F, seed=40 + s).abs() if thresholds else torch.zeros(F, dtype=DTYPE) for s in range(L)],
    }


def _reference(w, x):
    """Codes (token, layer, F) and what is written (token, layer, D), pair by pair."""
    pre = [x[:, s] @ w["W_enc"][s].T + w["b_enc"][s] for s in range(L)]
    codes = [p.relu() * (p > t) for p, t in zip(pre, w["threshold"], strict=True)]
    writes = [sum(codes[s] @ w["W_dec"][s][:, t - s] for s in range(t + 1)) + w["b_dec"][t] for t in range(L)]
    return torch.stack(codes, 1), torch.stack(writes, 1)


def _circuit_tracer(folder, thresholds):
    w = _weights(thresholds)
    for s in range(L):
        held = {f"{name}_{s}": w[name][s] for name in ("W_enc", "b_enc", "b_dec")}
        save_file(
            held | ({f"threshold_{s}": w["threshold"][s]} if thresholds else {}), folder / f"W_enc_{s}.safetensors"
        )
        save_file({f"W_dec_{s}": w["W_dec"][s]}, folder / f"W_dec_{s}.safetensors")
    config = {
        "model_name": "google/gemma-2-2b",
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "hook_resid_mid",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "feature_output_hook": "hook_mlp_out"}))
    return w


def _gemma_scope_2(folder, thresholds):
    """All targets are in a file; those below the source hold numbers that mean nothing."""
    w = _weights(thresholds)
    for s in range(L):
        full = torch.full((F, L, D), 100.0, dtype=DTYPE)
        full[:, s:] = w["W_dec"][s]
        held = {"w_enc": w["W_enc"][s].T.contiguous(), "w_dec": full, "b_enc": w["b_enc"][s], "b_dec": w["b_dec"][s]}
        save_file({**held, "threshold": w["threshold"][s]}, folder / f"params_layer_{s}.safetensors")
    return w


def _llamascopium(folder, thresholds):
    """By target, on normalized states; here in the units of the states."""
    w, s_in, s_out = _weights(thresholds), [0.5, 2.0, 4.0], [3.0, 0.25, 1.5]
    held = {"W_E": torch.stack(w["W_enc"]).transpose(1, 2).contiguous(), "b_E": torch.stack(w["b_enc"])}
    for t in range(L):
        held[f"W_D.{t}"] = torch.stack([w["W_dec"][s][:, t - s] for s in range(t + 1)])
        held[f"b_D.{t}"] = w["b_dec"][t]
    hooks = {
        "hook_points_in": [f"blocks.{s}.hook_resid_mid" for s in range(L)],
        "hook_points_out": [f"blocks.{s}.hook_mlp_out" for s in range(L)],
    }
    for name, factors in zip(hooks.values(), (s_in, s_out), strict=True):
        held |= {
            f"dataset_average_activation_norm.{hook}": torch.tensor(D**0.5 / f, dtype=DTYPE)
            for hook, f in zip(name, factors, strict=True)
        }
    if thresholds:
        held["activation_function.log_jumprelu_threshold"] = torch.stack(w["threshold"]).log()
    config = {
        "sae_type": "clt",
        "act_fn": "jumprelu" if thresholds else "relu",
        "norm_activation": "dataset-wise",
        "d_model": D,
    }
    (folder / "config.json").write_text(json.dumps({**config, **hooks, "sparsity_include_decoder_norm": False}))
    save_file(held, folder / "sae_weights.safetensors")
    return {
        "W_enc": w["W_enc"],
        "b_enc": [b / s for b, s in zip(w["b_enc"], s_in, strict=True)],
        "threshold": [t / s for t, s in zip(w["threshold"], s_in, strict=True)],
        "b_dec": [b / s for b, s in zip(w["b_dec"], s_out, strict=True)],
        "W_dec": [
            torch.stack([w["W_dec"][s][:, t - s] * s_in[s] / s_out[t] for t in range(s, L)], 1) for s in range(L)
        ],
    }


def _expect_same(one, w):
    x = 2 * numbers(30, L, D, seed=5)
    codes, written = _reference(w, x)
    assert 0 < int((codes != 0).sum()) < codes.numel()
    with torch.no_grad():
        torch.testing.assert_close(one.encode(x), codes.flatten(1), rtol=0, atol=1e-12)
        torch.testing.assert_close(one(x), written, rtol=0, atol=1e-11)


@pytest.mark.parametrize("thresholds", [True, False])
@pytest.mark.parametrize("write", [_circuit_tracer, _gemma_scope_2, _llamascopium])
def test_decoders_by_source_and_by_target_are_one_function(tmp_path, write, thresholds):
    folder = tmp_path / "clt"
    folder.mkdir()
    w = write(folder, thresholds)
    one = load(folder)
    _expect_same(one, w)
    assert one.facts.target == "mlp_out"
    save(one, tmp_path / "b", format="circuit_tracer_clt")
    again = {name: [] for name in w}
    for s in range(L):
        held = load_file(tmp_path / "b" / f"W_enc_{s}.safetensors") | load_file(
            tmp_path / "b" / f"W_dec_{s}.safetensors"
        )
        held.setdefault(f"threshold_{s}", torch.zeros(F, dtype=DTYPE))
        for name in w:
            again[name].append(held[f"{name}_{s}"])
    _expect_same(one, again)
    _expect_same(load(tmp_path / "b"), w)


def test_a_threshold_of_all_is_written_as_one_of_each(tmp_path):
    facts = Facts(site="mlp_norm", target="mlp_out")
    one = CrossLayerBatchTopK(D, L * F, n_layers=L, k=4, facts=facts, dtype=DTYPE)
    one.threshold.fill_(0.4)
    save(one, tmp_path / "a", format="circuit_tracer_clt")
    again, x = load(tmp_path / "a"), 2 * numbers(30, L, D, seed=5)
    assert type(again) is CrossLayerJumpReLU and again.facts.site == "mlp_norm"
    torch.testing.assert_close(again.encode(x), one.encode(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(again(x), one(x), rtol=0, atol=1e-12)


def test_what_is_missing_or_cannot_be_held_is_refused(tmp_path):
    w = _circuit_tracer(tmp_path, True)
    held = load_file(tmp_path / "W_enc_1.safetensors")
    save_file({**held, "W_skip_1": w["b_dec"][0]}, tmp_path / "W_enc_1.safetensors")
    with pytest.raises(LoadError, match="skip"):
        load(tmp_path)
    (tmp_path / "W_enc_1.safetensors").unlink()
    with pytest.raises(LoadError, match="expected all from 0 on"):
        load(tmp_path)
    with pytest.raises(ArgumentError):
        save(CrossLayerTopK(D, L * F, n_layers=L, k=4), tmp_path / "b", format="circuit_tracer_clt")
    for format in ("saelens", "sparsify", "circuit_tracer"):
        with pytest.raises(ArgumentError, match="of one place"):
            save(StandardCrosscoder(D, F, n_sources=2), tmp_path / "c", format=format)
