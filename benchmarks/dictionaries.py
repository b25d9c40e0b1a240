"""One training step of each dictionary against the five dense products that a dense step cannot do without.

    python benchmarks/dictionaries.py [--threads 1] [--expansions 8 16]

d = 768, 4,096 tokens, 32 active features: encode, decode, and the gradients of codes, decoder and encoder are five
products of (token, d) and (feature, d). A step here has everything on: Adam, clipping, unit rows, the clock of dead
features, the auxiliary loss for those that are dead, scaling, and a point of the curve every 50 steps.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import torch

from caseback.decode.dictionaries import Recipe
from caseback.decode.dictionaries.training.trainer import Trainer

D, TOKENS, K = 768, 4096, 32
KINDS: dict[str, dict[str, Any]] = {
    "topk": {"options": {"k": K}},
    "batch_topk": {"options": {"k": K}},
    "standard": {"l0": float(K)},
    "jump_relu": {"l0": float(K)},
}


def seconds(function: Callable[[], Any], times: int = 3) -> float:
    """CPU seconds of a call, the least of some."""
    function()
    spent = []
    for _ in range(times):
        start = time.process_time()
        function()
        spent.append(time.process_time() - start)
    return min(spent)


def floor(features: int) -> float:
    """CPU seconds of five dense products."""
    x, codes, rows = torch.randn(TOKENS, D), torch.randn(TOKENS, features), torch.randn(features, D)
    return seconds(lambda: (x @ rows.T, codes @ rows, x @ rows.T, codes.T @ x, codes.T @ x))


def trained(kind: str, features: int, dead: float, x: torch.Tensor) -> Trainer:
    """A trainer whose dictionary is as active as one in the middle of its training."""
    recipe = Recipe(site="resid_post.0", architecture=kind, width=features, **KINDS[kind])
    trainer = Trainer(recipe, recipe.start(D, D), 10**9)
    trainer.begin(x, x)
    own: Any = trainer.dictionary
    with torch.no_grad():
        cut = own.scores(x[:512]).flatten().kthvalue(512 * (features - K)).values
        if kind == "standard":
            own.b_enc.fill_(-float(cut))
        if kind == "jump_relu":
            own.threshold.fill_(float(cut))
        own.b_enc[: round(dead * features)] -= 100  # so that they stay dead
        trainer.clock[: round(dead * features)] = 10**8
    return trainer


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--expansions", type=int, nargs="+", default=[8, 16])
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    x = torch.randn(TOKENS, D)
    for expansion in asked.expansions:
        features = expansion * D
        least = floor(features)
        print(f"F = {expansion} d, five products: {least:.2f} CPU-s")
        for kind in KINDS:
            for dead in (0.0, 0.1):
                trainer = trained(kind, features, dead, x)
                spent = seconds(lambda trainer=trainer: trainer.step(x))
                l0 = float(trainer.step(x).l0)
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(
                    f"  {kind:10} {dead:4.0%} dead: {spent:5.2f} CPU-s, {spent / least:.2f} of the floor, "
                    f"L0 {l0:.0f}, peak {peak:,.0f} MB"
                )


if __name__ == "__main__":
    main()
