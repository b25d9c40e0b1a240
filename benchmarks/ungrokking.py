"""Does what has grokked forget again, with too few pairs? The grokked model, trained on with fewer of its pairs.

    python benchmarks/ungrokking.py [--shares .5 .25 .15 .1 .05] [--steps 1500]

Below a critical number of pairs knowing them by heart takes less weight than adding does, and strong weight decay turns
the one into the other (Varma et al. 2023). The recipe is the run's own; shares are of all pairs, and those that are
trained on were among the run's.
"""

from __future__ import annotations

import argparse

import torch

from caseback.model.crystal import CrystalForCausalLM
from caseback.organisms import path
from caseback.organisms.modular.addition import all_pairs, answers, last_logits, split
from caseback.organisms.modular.algorithm import addition_algorithm
from caseback.organisms.modular.train import BETAS, DECAY, RATE, WARM_UP


def main() -> None:
    """Print held-out accuracy over steps, a row a share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25, 0.15, 0.1, 0.05])
    parser.add_argument("--steps", type=int, default=1500)
    asked = parser.parse_args()
    looks = [0, *(asked.steps * i // 6 for i in range(1, 7))]
    print(f"| share | pairs | {' | '.join(f'step {step:,}' for step in looks)} | squared weights | active neurons |")
    print("|---" * (len(looks) + 4) + "|")
    for share in asked.shares:
        model = CrystalForCausalLM.from_pretrained(path("grokking"), use_safetensors=True)
        settings = model.config.caseback
        p = settings["p"]
        trained, held = split(p, settings["share"], settings["seed"])
        order = torch.randperm(len(trained), generator=torch.Generator().manual_seed(0))
        some = trained[order[: round(share * p * p)]]
        ids, right = all_pairs(p), answers(p)
        weights = [weight for name, weight in model.named_parameters() if not ("bias" in name and "self_attn" in name)]
        optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY, betas=BETAS, fused=True)
        row = []
        for step in range(asked.steps + 1):
            if step in looks:
                with torch.no_grad():
                    row.append(float((last_logits(model, ids[held]).argmax(-1) == right[held]).double().mean()))
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP)
            loss = torch.nn.functional.cross_entropy(last_logits(model, ids[some]), right[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        squared = sum(float(weight.detach().square().sum()) for weight in model.parameters())
        active = addition_algorithm(model, p)["active_neurons"]
        cells = " | ".join(f"{value:.1%}" for value in row)
        print(f"| {share:.0%} | {len(some)} | {cells} | {squared:.0f} | {active} |", flush=True)


if __name__ == "__main__":
    main()
