"""What a model of the induction run does: losses, and where its heads look in random tokens that come again.

previous    max over heads of the mean attention to the token before
duplicate   max over heads of the mean attention to where the token stood before
induction   max over heads of the mean attention to what followed the token where it stood before
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int

from caseback.model.crystal import CrystalForCausalLM
from caseback.organisms import checkpoints
from caseback.organisms.repeats import words

SPAN = words.LENGTH // 2 - 1
TEXT_ROWS, RANDOM_ROWS = 256, 64


def random_spans() -> Int[torch.Tensor, "row pos"]:
    """Rows of token 0 and ``SPAN`` different random tokens, twice."""
    rng = np.random.default_rng(1)
    spans = np.stack([rng.permutation(words.VOCABULARY - 1)[:SPAN] + 1 for _ in range(RANDOM_ROWS)])
    return torch.from_numpy(np.concatenate([np.zeros((RANDOM_ROWS, 1), np.int64), spans, spans], 1))


def _losses(model: CrystalForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    logits = model(ids[:, :-1]).logits.mT
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:], reduction="none")


@torch.no_grad()
def repeats(model: CrystalForCausalLM) -> tuple[float, float]:
    """The mean loss of random tokens, and of the same when they come again (without the first, which nothing tells)."""
    losses = _losses(model, random_spans())
    return losses[:, :SPAN].mean().item(), losses[:, SPAN + 1 :].mean().item()


def _patterns(model: CrystalForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """(layer, row, head, query, key), of a model whose attention is the eager one."""
    seen: list[torch.Tensor] = []
    layers: Any = model.model.layers
    hooks = [one.self_attn.register_forward_hook(lambda _, given, output: seen.append(output[1])) for one in layers]
    try:
        model(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(seen)


@torch.no_grad()
def growth(folder: Path) -> xr.Dataset:
    """What every checkpoint of a run does.

    Parameters
    ----------
    folder
        The folder that ``train`` wrote.

    Returns
    -------
    xr.Dataset
        Over ``step``: ``loss`` on text that was not trained on; ``first`` and ``second``, losses of random tokens and
        of the same when they come again; ``previous``, ``duplicate`` and ``induction``, attention as above.

    Raises
    ------
    CasebackError
        For a folder without checkpoints.
    """
    table = words.chain(0)
    text, spans = words.rows(table, TEXT_ROWS, (0, 2**31)), random_spans()
    later = torch.arange(SPAN + 1, 2 * SPAN + 1)
    rows = []
    for part in checkpoints(folder).values():
        model = CrystalForCausalLM.from_pretrained(part, attn_implementation="eager", use_safetensors=True)
        first, second = repeats(model)
        patterns = _patterns(model, spans).mean(1)
        rows.append(
            {
                "loss": _losses(model, text).mean().item(),
                "first": first,
                "second": second,
                "previous": patterns[:, :, later, later - 1].mean(-1).max().item(),
                "duplicate": patterns[:, :, later, later - SPAN].mean(-1).max().item(),
                "induction": patterns[:, :, later[:-1], later[:-1] - SPAN + 1].mean(-1).max().item(),
            }
        )
    steps = list(checkpoints(folder))
    return xr.Dataset({name: ("step", [row[name] for row in rows]) for name in rows[0]}, {"step": steps})
