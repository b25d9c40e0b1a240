"""How well a model does a task, beside the same logits under other prompts' answers.

chance   metric with the answers of the prompts dealt out anew, 200 times; the band is its 95 % quantile
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from caseback.behaviors.mechanisms.report import Margin
from caseback.model.anatomy.coerce import in_float64
from caseback.model.running.metrics import is_first
from caseback.model.running.model import Model
from caseback.tasks.prompts import Prompts

DEALS = 200


def margin(model: Model, prompts: Prompts, *, seed: int = 0) -> Margin:
    """How well a model does a task on prompts.

    Parameters
    ----------
    model, prompts
        The model, and the prompts; its metric is theirs.
    seed
        Deals the answers out anew.

    Returns
    -------
    Margin
    """
    run = model.run(prompts.clean)
    clean = prompts.metric(run).cpu().double().numpy()
    corrupt = float(in_float64(prompts.metric(model.run(prompts.corrupt))).mean())
    rng = np.random.default_rng(seed)
    dealt = []
    for _ in range(DEALS):
        order = rng.permutation(len(prompts)).tolist()
        others = replace(prompts, target=[prompts.target[i] for i in order], foil=[prompts.foil[i] for i in order])
        dealt.append(in_float64(others.metric(run)).mean())
    means = torch.stack(dealt).cpu().numpy()
    right = clean > 0
    if prompts.measure == "log_prob":
        right = is_first([row[0] for row in prompts.target])(run).cpu().numpy()
    return Margin(
        prompts.measure,
        float(clean.mean()),
        float(clean.std(ddof=1) / np.sqrt(len(clean))),
        corrupt,
        float(means.mean()),
        float(np.quantile(means, 0.95)),
        float(right.mean()),
    )
