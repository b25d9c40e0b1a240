"""Progress measures over training: memorizing, adding, and when one gives way to the other (5.4.17).

Over the checkpoints of a run: loss and accuracy on pairs that were trained on and pairs that were not; restricted loss
on all pairs and excluded loss on the trained ones, both for the last checkpoint's key frequencies; the sum of squared
weights; how few frequencies the embedding uses (the Gini coefficient of its Fourier norms); and by which algorithm it
adds, with how many neurons (``algorithm``).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import xarray as xr

from caseback.model.crystal import CrystalForCausalLM
from caseback.organisms import checkpoints
from caseback.organisms.modular import fourier
from caseback.organisms.modular.addition import all_pairs, answers, last_logits, split
from caseback.organisms.modular.algorithm import addition_algorithm, efficiency


@torch.no_grad()
def progress(folder: Path) -> xr.Dataset:
    """The progress measures at every checkpoint of a training run.

    Parameters
    ----------
    folder
        The folder that ``train`` wrote, with ``checkpoints/step-N`` and the last model.

    Returns
    -------
    xr.Dataset
        Over ``step``: ``train_loss``, ``test_loss``, ``test_accuracy``, ``restricted_loss``, ``excluded_loss``,
        ``squared_weights``, ``gini``, ``efficiency``, and what ``addition_algorithm`` gives. Its attribute
        ``key_frequencies`` holds the last checkpoint's.

    Raises
    ------
    CasebackError
        For a folder without checkpoints.

    References
    ----------
    Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability"; Zhong et al. 2023, "The clock
    and the pizza"; Merrill et al. 2023, "A tale of two circuits".
    """
    folders = checkpoints(folder)
    models = [CrystalForCausalLM.from_pretrained(part, use_safetensors=True) for part in folders.values()]
    settings = models[-1].config.caseback
    p, (train, test) = settings["p"], split(settings["p"], settings["share"], settings["seed"])
    ids, right = all_pairs(p), answers(p)
    logits = [last_logits(model, ids) for model in models]
    keys = fourier.key_frequencies(logits[-1], p)
    rows = [
        {
            "train_loss": fourier.loss(output[train], right[train]),
            "test_loss": fourier.loss(output[test], right[test]),
            "test_accuracy": (output[test].argmax(-1) == right[test]).double().mean().item(),
            "restricted_loss": fourier.loss(fourier.restricted(output, p, keys), right),
            "excluded_loss": fourier.loss(fourier.excluded(output, p, keys)[train], right[train]),
            "squared_weights": sum(w.square().sum().item() for w in model.parameters()),
            "gini": fourier.gini(_fourier_norms(model, p)),
            "efficiency": efficiency(output[train], right[train], model),
            **addition_algorithm(model, p),
        }
        for output, model in zip(logits, models, strict=True)
    ]
    return xr.Dataset(
        {name: ("step", [row[name] for row in rows]) for name in rows[0]},
        {"step": list(folders)},
        {"key_frequencies": keys, "p": p, "share": settings["share"], "seed": settings["seed"]},
    )


def phases(measures: xr.Dataset) -> dict[str, int | None]:
    """The first checkpoint of each phase, ``None`` for one that was not reached.

    ``memorised``: training loss under 0.01. ``formed``: the same, and excluded loss over chance, so that without the
    key frequencies even the pairs trained on are lost. ``cleaned up``: held-out accuracy of 99 % or more, and squared
    weights under half their largest sum, so that what was known by heart is gone.
    """
    chance = math.log(measures.attrs["p"] + 1)
    largest = float(measures.squared_weights.max())
    reached = {
        "memorised": measures.train_loss < 0.01,
        "formed": (measures.train_loss < 0.01) & (measures.excluded_loss > chance),
        "cleaned up": (measures.test_accuracy >= 0.99) & (measures.squared_weights < largest / 2),
    }
    steps = measures.step.values
    return {name: int(steps[held.values.argmax()]) if bool(held.any()) else None for name, held in reached.items()}


def _fourier_norms(model: CrystalForCausalLM, p: int) -> torch.Tensor:
    """The norm of the numbers' embeddings at each frequency."""
    spectrum = torch.fft.rfft(model.model.embed_tokens.weight[:p].double(), dim=0)
    return spectrum[1:].abs().square().sum(-1).sqrt()
