"""Trained through the rest of a model: what it uses is found, what is large is not; gradients; going on bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from transformers import LlamaConfig, LlamaForCausalLM

import caseback as cb
from caseback.decode.dictionaries import Recipe, train_dictionaries, train_end_to_end
from caseback.decode.dictionaries.training.trainer import Trainer
from caseback.errors import ArgumentError, LoadError
from caseback.model.running.model import Model

USED, LARGE, D = 6, 6, 16


def _model(layers: int = 2) -> tuple[Model, torch.Tensor]:
    """Each token is a feature that the unembedding reads, and three times as much of one that nothing reads."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": USED * LARGE, "hidden_size": D, "intermediate_size": 8}
    config = LlamaConfig(**sizes, num_hidden_layers=layers, num_attention_heads=2, max_position_embeddings=32)
    hf = LlamaForCausalLM(config).eval()
    rows = torch.linalg.qr(torch.randn(D, D)).Q
    used, large = rows[:USED], rows[USED : USED + LARGE]
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        hf.model.embed_tokens.weight.copy_((used[:, None] + 3 * large[None]).flatten(0, 1))
        hf.lm_head.weight.copy_(6 * used.repeat_interleave(LARGE, 0))
    return cb.load(hf), rows[: USED + LARGE]


def _rows(n: int, length: int = 16) -> list[list[int]]:
    return torch.randint(0, USED * LARGE, (n, length), generator=torch.Generator().manual_seed(1)).tolist()


def _cosines(dictionary: Any, truth: torch.Tensor) -> np.ndarray:
    return (torch.nn.functional.normalize(dictionary.W_dec.detach(), dim=1) @ truth.T).numpy()


def _matched(dictionary: Any, truth: torch.Tensor) -> float:
    cosines = _cosines(dictionary, truth)
    return float(cosines[linear_sum_assignment(cosines, maximize=True)].mean())


def _recipe(**more: Any) -> Recipe:
    return Recipe(**{"site": "resid_post.0", "architecture": "topk", "options": {"k": 1}, "width": 6, "lr": 1e-2, **more})


HOW: Any = {"n_tokens": 60_000, "step_tokens": 160, "sink": None, "bos": False}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_end_to_end_finds_what_is_used_and_squared_error_what_is_large(seed):
    model, truth = _model()
    recipe, rows = _recipe(seed=seed, centered=False, resample_every=30), _rows(256)
    (through,) = train_end_to_end(model, rows, recipe, **HOW)
    (alone,) = train_dictionaries(model, rows, recipe, pool_tokens=3200, **HOW)
    print(_matched(through.dictionary, truth[:USED]), _matched(alone.dictionary, truth[USED:]), _matched(alone.dictionary, truth[:USED]), through.curve[-1])
