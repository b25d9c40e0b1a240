"""Published layouts of dictionaries, written and evaluated without caseback: each a few lines of numpy or torch."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

D, F, K = 6, 20, 3


@dataclass
class Published:
    """A folder or file, and what its own library computes of it."""

    path: Path
    encode: Callable[[torch.Tensor], torch.Tensor]
    decode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def numbers(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def four(seed: int, dtype: torch.dtype, d_out: int = D) -> dict[str, torch.Tensor]:
    """(d, F), (F), (F, d), (d)."""
    return {
        "W_enc": numbers(D, F, seed=seed, dtype=dtype),
        "b_enc": 0.3 * numbers(F, seed=seed + 1, dtype=dtype),
        "W_dec": numbers(F, d_out, seed=seed + 2, dtype=dtype),
        "b_dec": 0.5 * numbers(d_out, seed=seed + 3, dtype=dtype),
    }


def topk(pre: torch.Tensor, k: int, key: torch.Tensor | None = None) -> torch.Tensor:
    best = (pre if key is None else key).topk(k, -1).indices
    return torch.zeros_like(pre).scatter(-1, best, pre.gather(-1, best))


def saelens(folder: Path, dtype: torch.dtype, architecture: str, **config) -> Published:
    folder.mkdir()
    transcodes, skip = "transcoder" in architecture, "skip" in architecture
    w = four(10, dtype, d_out=D - 1 if transcodes else D)
    if "jumprelu" in architecture:
        w["threshold"] = numbers(F, seed=20, dtype=dtype).abs()
    if skip:
        w["W_skip"] = numbers(D - 1, D, seed=21, dtype=dtype)
    if architecture == "gated":
        w["b_gate"] = w.pop("b_enc")
        w |= {"b_mag": numbers(F, seed=22, dtype=dtype), "r_mag": 0.2 * numbers(F, seed=23, dtype=dtype)}
    cfg = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": F,
        "dtype": str(dtype)[6:],
        "device": "cpu",
        "apply_b_dec_to_input": not transcodes,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.5.1",
            "model_name": "gpt2-small",
            "hook_name": "blocks.3.hook_resid_pre",
            "prepend_bos": True,
        },
        **config,
    }
    if transcodes:
        cfg["d_out"] = D - 1
        cfg["metadata"] |= {"hook_name": "blocks.3.mlp.hook_in", "hook_name_out": "blocks.3.hook_mlp_out"}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file(w, folder / "sae_weights.safetensors")
    return saelens_reference(folder)


def saelens_reference(folder: Path) -> Published:
    """What SAELens computes of a folder."""
    cfg, w = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    norms = w["W_dec"].norm(dim=-1) if cfg.get("rescale_acts_by_decoder_norm") else 1
    factor = cfg.get("norm_scaling_factor", 1.0)
    how = cfg["normalize_activations"]

    def encode(x):
        if how == "layer_norm":
            x = x - x.mean(-1, keepdim=True)
            x = x / (x.std(-1, keepdim=True) + 1e-5)
        if how == "constant_norm_rescale":
            x = x * cfg["d_in"] ** 0.5 / x.norm(dim=-1, keepdim=True)
        x = factor * x - w["b_dec"] if cfg["apply_b_dec_to_input"] else factor * x
        if cfg["architecture"] == "gated":
            gate = (x @ w["W_enc"] + w["b_gate"]) > 0
            return gate * (x @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).relu()
        pre = (x @ w["W_enc"] + w["b_enc"]) * norms
        if cfg["architecture"] == "topk":
            return topk(pre, cfg["k"]).relu()
        if cfg["architecture"] == "abstopk":
            return topk(pre, cfg["k"], pre.abs())
        return pre.relu() * (pre > w["threshold"]) if "threshold" in w else pre.relu()

    def decode(a, x):
        out = (a / norms) @ w["W_dec"] + w["b_dec"]
        if how == "layer_norm":
            out = out * x.std(-1, keepdim=True) + x.mean(-1, keepdim=True)
        if how == "constant_norm_rescale":
            out = out * x.norm(dim=-1, keepdim=True) / cfg["d_in"] ** 0.5
        return out / factor + (x @ w["W_skip"].T if "W_skip" in w else 0)

    return Published(folder, encode, decode)


def old_saelens(folder: Path, dtype: torch.dtype) -> Published:
    """Before version 6: TopK by its activation function, one factor an autoencoder, a scaling factor of ones."""
    folder.mkdir()
    w = four(30, dtype)
    cfg = {
        "hook_point": "blocks.8.hook_resid_pre",
        "model_name": "gpt2-small",
        "d_in": D,
        "d_sae": F,
        "dtype": "torch.float32",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "normalize_activations": True,
        "norm_scaling_factor": 0.25,
    }
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file({**w, "scaling_factor": torch.ones(F, dtype=dtype)}, folder / "sae_weights.safetensors")
    return Published(
        folder,
        lambda x: topk((x * 0.25 - w["b_dec"]) @ w["W_enc"] + w["b_enc"], K).relu(),
        lambda a, x: (a @ w["W_dec"] + w["b_dec"]) / 0.25,
    )


def gemma_scope(folder: Path, dtype: torch.dtype, names: str = "W_", embedding: bool = False) -> Published:
    w, theta = four(40, dtype), numbers(F, seed=45, dtype=dtype).abs()
    place = "embedding" if embedding else "layer_20"
    folder = folder / "gemma-scope-2b-pt-res" / place / "width_16k" / "average_l0_71"
    folder.mkdir(parents=True)
    held: dict[str, Any] = {key.replace("W_", names): value.numpy() for key, value in w.items()}
    np.savez(folder / "params.npz", **held, threshold=theta.numpy())
    root = D**0.5 if embedding else 1.0

    def encode(x):
        pre = x / root @ w["W_enc"] + w["b_enc"]
        return pre.relu() * (pre > theta)

    return Published(folder, encode, lambda a, x: (a @ w["W_dec"] + w["b_dec"]) * root)


def gemma_scope_2(folder: Path, dtype: torch.dtype, config: bool = True) -> Published:
    """A transcoder with an affine skip, stored (d_in, d_out)."""
    folder = folder / "gemma-scope-2-1b-pt" / "transcoder" / "layer_2_width_16k_l0_small_affine"
    folder.mkdir(parents=True)
    w, theta, skip = four(50, dtype), numbers(F, seed=55, dtype=dtype).abs(), numbers(D, D, seed=56, dtype=dtype)
    held = {key.lower(): value for key, value in w.items()}
    save_file({**held, "threshold": theta, "affine_skip_connection": skip}, folder / "params.safetensors")
    if config:
        points = {
            f"hf_hook_point_{end}": f"model.layers.2.{way}_feedforward_layernorm.output"
            for end, way in (("in", "pre"), ("out", "post"))
        }
        text = json.dumps(
            {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "affine_connection": True, **points}
        )
        (folder / "config.json").write_text(text)

    def encode(x):
        pre = x @ w["W_enc"] + w["b_enc"]
        return pre.relu() * (pre > theta)

    return Published(folder, encode, lambda a, x: a @ w["W_dec"] + w["b_dec"] + x @ skip)


def sparsify(folder: Path, dtype: torch.dtype, transcode: bool = False, old: bool = False) -> Published:
    (folder / "repo").mkdir(parents=True)
    (folder / "repo" / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-160m", "ctx_len": 2048}))
    folder = folder / "repo" / ("layers.3.mlp" if transcode else "layers.3")
    folder.mkdir()
    w, skip = four(60, dtype), numbers(D, D, seed=65, dtype=dtype)
    if old:
        held = {
            "W_enc": w["W_enc"],
            "b_enc": w["b_enc"],
            "decoder.weight": w["W_dec"].T.contiguous(),
            "decoder.bias": w["b_dec"],
        }
    else:
        held = {
            "encoder.weight": w["W_enc"].T.contiguous(),
            "encoder.bias": w["b_enc"],
            "W_dec": w["W_dec"],
            "b_dec": w["b_dec"],
        }
    if transcode:
        held["W_skip"] = skip
    # F is no multiple of D here, so an expansion cannot give it
    cfg = {
        "d_in": D,
        "k": K,
        "num_latents": F,
        "expansion_factor": 32,
        "transcode": transcode,
        "skip_connection": transcode,
    }
    (folder / "cfg.json").write_text(json.dumps({**cfg, "normalize_decoder": True, "multi_topk": False}))
    save_file(held, folder / "sae.safetensors")
    return sparsify_reference(folder)


def sparsify_reference(folder: Path) -> Published:
    cfg, w = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae.safetensors")
    if "W_enc" in w:
        w = {
            "encoder.weight": w["W_enc"].T,
            "encoder.bias": w["b_enc"],
            "W_dec": w["decoder.weight"].T,
            "b_dec": w["decoder.bias"],
        }

    def encode(x):
        x = x if cfg["transcode"] else x - w["b_dec"]
        return topk((x @ w["encoder.weight"].T + w["encoder.bias"]).relu(), cfg["k"])

    def decode(a, x):
        return a @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if "W_skip" in w else 0)

    return Published(folder, encode, decode)


def dictionary_learning(folder: Path, dtype: torch.dtype, name: str, interrupted: bool = False) -> Published:
    folder.mkdir()
    w = four(70, dtype)
    linear = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T}
    k, theta = torch.tensor(K, dtype=torch.int), torch.tensor(0.7)
    thetas = numbers(F, seed=75, dtype=dtype).abs()
    gated = {
        key: 0.3 * numbers(F, seed=76 + i, dtype=dtype) for i, key in enumerate(("r_mag", "gate_bias", "mag_bias"))
    }
    held = {
        "AutoEncoder": {**linear, "bias": w["b_dec"]},
        "AutoEncoderTopK": {**linear, "b_dec": w["b_dec"], "k": k, "threshold": theta},
        "BatchTopKSAE": {**linear, "b_dec": w["b_dec"], "k": k, "threshold": theta},
        "MatryoshkaBatchTopKSAE": {**w, "k": k, "threshold": theta, "group_sizes": torch.tensor([5, 15])},
        "JumpReluAutoEncoder": {**w, "threshold": thetas},
        "GatedAutoEncoder": {
            "encoder.weight": w["W_enc"].T,
            "decoder.weight": w["W_dec"].T,
            "decoder_bias": w["b_dec"],
            **gated,
        },
    }[name]
    trainer = {
        "dict_class": name,
        "activation_dim": D,
        "dict_size": F,
        "layer": 4,
        "lm_name": "EleutherAI/pythia-70m-deduped",
    }
    trainer["submodule_name"] = "resid_post_layer_4"
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    s = 2.5 if interrupted else 1.0
    file = {"step": 7, "ae": held, "optimizer": {"state": {}}, "config": {}, "norm_factor": s} if interrupted else held
    torch.save(file, folder / "ae.pt")
    b_enc, b_dec = w["b_enc"] * s, w["b_dec"] * s

    def encode(x):
        read = x if name == "JumpReluAutoEncoder" else x - b_dec
        pre = read @ w["W_enc"] + b_enc
        if name == "AutoEncoderTopK":
            return topk(pre.relu(), K)
        if name == "JumpReluAutoEncoder":
            return (pre * (pre > thetas * s)).relu()
        if name == "GatedAutoEncoder":
            score = read @ w["W_enc"]
            return (score + gated["gate_bias"] * s > 0) * (gated["r_mag"].exp() * score + gated["mag_bias"] * s).relu()
        return pre.relu() * (pre.relu() > theta * s) if "TopK" in name else pre.relu()

    return Published(folder, encode, lambda a, x: a @ w["W_dec"] + b_dec)


def circuit_tracer(folder: Path, dtype: torch.dtype, kind: str) -> list[Published]:
    folder.mkdir()
    config = {"model_name": "Qwen/Qwen3-0.6B", "model_kind": "transcoder_set", "feature_input_hook": "mlp.hook_in"}
    config |= {"feature_output_hook": "hook_mlp_out", "scan": "qwen"}
    config |= {"activation": "topk", "k": 14} if kind == "topk" else {}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for layer in range(2):
        w = four(80 + 10 * layer, dtype)
        held = {**w, "W_enc": w["W_enc"].T.contiguous(), "W_skip": numbers(D, D, seed=86 + layer, dtype=dtype)}
        if kind == "jumprelu":
            held["activation_function.threshold"] = numbers(F, seed=88 + layer, dtype=dtype).abs()
        save_file(held, folder / f"layer_{layer}.safetensors")
    return circuit_tracer_reference(folder)


def circuit_tracer_reference(folder: Path) -> list[Published]:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    return [_circuit_tracer_layer(path, config) for path in sorted(folder.glob("layer_*.safetensors"))]


def _circuit_tracer_layer(path: Path, config: dict) -> Published:
    w = load_file(path)

    def encode(x):
        pre = x @ w["W_enc"].T + w["b_enc"]
        if "activation_function.threshold" in w:
            return pre * (pre > w["activation_function.threshold"])
        return topk(pre, config["k"]) if config.get("activation") == "topk" else pre.relu()

    return Published(
        path, encode, lambda a, x: a @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if "W_skip" in w else 0)
    )


def llama_scope(folder: Path, dtype: torch.dtype, act: str = "jumprelu") -> Published:
    """Standardized, then rows of norm 1, then the released threshold."""
    (folder / "checkpoints").mkdir(parents=True)
    w = four(100, dtype)
    means = {"in": 4.0, "out": 7.0}
    config = {
        "d_model": D,
        "d_sae": F,
        "act_fn": act,
        "jump_relu_threshold": 0.9,
        "top_k": K,
        "norm_activation": "dataset-wise",
    }
    config |= {
        "dataset_average_activation_norm": means,
        "sparsity_include_decoder_norm": True,
        "use_decoder_bias": True,
    }
    config |= {"apply_decoder_bias_to_pre_encoder": False}
    config |= {"hook_point_in": "blocks.8.ln2.hook_normalized", "hook_point_out": "blocks.8.hook_mlp_out"}
    (folder / "hyperparams.json").write_text(json.dumps(config))
    held = {"encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"]}
    held |= {"decoder.weight": w["W_dec"].T.contiguous(), "decoder.bias": w["b_dec"]}
    save_file(held, folder / "checkpoints" / "final.safetensors")
    s, t = D**0.5 / means["in"], D**0.5 / means["out"]
    rows = w["W_dec"] * (s / t)
    norms = rows.norm(dim=1)

    def encode(x):
        pre = x @ w["W_enc"] + w["b_enc"] / s
        if act == "topk":
            return topk(pre, K, pre * norms).relu()
        return pre * norms * (pre * norms > 0.9)

    return Published(
        folder, encode, lambda a, x: a @ (rows if act == "topk" else rows / norms[:, None]) + w["b_dec"] / t
    )


def llamascopium(folder: Path, dtype: torch.dtype) -> Published:
    """Evaluated as it is trained: on normalized states, codes judged times the norms of rows."""
    folder.mkdir()
    w, log = four(110, dtype), 0.3 * numbers(F, seed=115, dtype=dtype)
    hook = "blocks.5.hook_resid_post"
    config = {
        "sae_type": "sae",
        "d_model": D,
        "act_fn": "jumprelu",
        "norm_activation": "dataset-wise",
        "hook_point_in": hook,
        "hook_point_out": hook,
    }
    (folder / "config.json").write_text(
        json.dumps({**config, "sparsity_include_decoder_norm": True, "expansion_factor": 32})
    )
    held = {"W_E": w["W_enc"], "b_E": w["b_enc"], "W_D": w["W_dec"], "b_D": w["b_dec"]}
    held |= {
        "activation_function.log_jumprelu_threshold": log,
        f"dataset_average_activation_norm.{hook}": torch.tensor(9.0, dtype=dtype),
    }
    save_file(held, folder / "sae_weights.safetensors")
    s = D**0.5 / 9.0

    def encode(x):  # in the units of the states
        pre = s * x @ w["W_enc"] + w["b_enc"]
        return pre * (pre * w["W_dec"].norm(dim=1) > log.exp()) / s

    return Published(folder, encode, lambda a, x: (s * a @ w["W_dec"] + w["b_dec"]) / s)


def openai(folder: Path, dtype: torch.dtype, k: int | None = K) -> Published:
    folder = folder / "gpt2-small" / "resid_post_mlp_v5_32k" / "autoencoders"
    folder.mkdir(parents=True)
    w = four(120, dtype)
    held = {
        "pre_bias": w["b_dec"],
        "encoder.weight": w["W_enc"].T,
        "latent_bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T,
    }
    held |= {"stats_last_nonzero": torch.zeros(F, dtype=torch.long), "latents_mean_square": torch.zeros(F)}
    held |= {"latents_activation_frequency": torch.ones(F), "activation": "TopK" if k else "ReLU"}
    held |= {"activation_state_dict": {"k": k, "postact_fn": "ReLU"} if k else {}}
    torch.save(held, folder / "8.pt")

    def encode(x):
        if k:
            x = x - x.mean(-1, keepdim=True)
            x = x / (x.std(-1, keepdim=True) + 1e-5)
        pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        return topk(pre, k).relu() if k else pre.relu()

    def decode(a, x):
        out = a @ w["W_dec"] + w["b_dec"]
        return out * x.std(-1, keepdim=True) + x.mean(-1, keepdim=True) if k else out

    return Published(folder / "8.pt", encode, decode)


def qwen_scope(folder: Path, dtype: torch.dtype) -> Published:
    folder = folder / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3"
    folder.mkdir(parents=True)
    w = four(130, dtype)
    torch.save({**w, "W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T}, folder / "layer7.sae.pt")
    return Published(
        folder / "layer7.sae.pt",
        lambda x: topk(x @ w["W_enc"] + w["b_enc"], 3).relu(),
        lambda a, x: a @ w["W_dec"] + w["b_dec"],
    )


def of_linear(folder: Path, dtype: torch.dtype, ending: str) -> Published:
    folder.mkdir()
    w = four(140, dtype)
    held = {f"encoder{ending}.weight": w["W_enc"].T, f"encoder{ending}.bias": w["b_enc"]}
    held |= {f"decoder{ending}.weight": w["W_dec"].T, f"decoder{ending}.bias": w["b_dec"]}
    path = folder / "Llama-3.1-8B-Instruct-SAE-l19.pth"
    torch.save(held, path)
    return Published(path, lambda x: (x @ w["W_enc"] + w["b_enc"]).relu(), lambda a, x: a @ w["W_dec"] + w["b_dec"])
