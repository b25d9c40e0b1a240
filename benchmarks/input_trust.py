"""Faithfulness and generations at GPT-2-small shape with random weights, beside what one writes by hand.

    python benchmarks/input_trust.py [--rounds 3] [--tokens 32] [--steps 8]

Removal curves of two methods with every count of tokens, against one full run of the model for each point; the
attribution of generated tokens in batches of prefixes, against one call a prefix. Contenders take turns with plain
Hugging Face forwards (for gradients, forward + backward) in one process; processor time is counted, divided by theirs,
and the median of the rounds printed.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.localize.inputs import attribute_generation, gradient_x_input, removal_curves

METRIC = cb.logit_diff(11, 23)


def seconds(job) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--tokens", type=int, default=32)
    options.add_argument("--steps", type=int, default=8)
    chosen = options.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    model = cb.load(hf)
    n = chosen.tokens
    ids = torch.randint(0, model.d_vocab, (1, n))
    more = torch.randint(0, model.d_vocab, (chosen.steps,)).tolist()
    scores = torch.randn(2, 1, n)
    mean = model.run(ids, read=["embed"])["embed"].mean((0, 1))

    def plain():
        with torch.no_grad():
            hf(ids, use_cache=False)

    def forward_backward():
        embeds = hf.transformer.wte(ids).detach().requires_grad_()
        hf(inputs_embeds=embeds, use_cache=False).logits[0, -1, 11].backward()
        hf.zero_grad()

    def by_hand():
        embeds = hf.transformer.wte(ids).detach()
        with torch.no_grad():
            for row in scores[:, 0]:
                order = row.argsort(descending=True)
                for gone in [order[:k] for k in range(n + 1)] + [order[k:] for k in range(n + 1)]:
                    holed = embeds.clone()
                    holed[0, gone] = mean
                    hf(inputs_embeds=holed, use_cache=False)

    def one_by_one():
        for t, target in enumerate(more):
            gradient_x_input(model, [ids[0].tolist() + more[:t]], cb.logit(target))

    jobs = {
        f"{4 * (n + 1)} points of removal curves": (lambda: removal_curves(model, ids, METRIC, scores), plain),
        "the same by hand, one run a point": (by_hand, plain),
        f"{chosen.steps} generated tokens, gradient x input": (
            lambda: attribute_generation(model, ids, "gradient_x_input", continuation=more),
            forward_backward,
        ),
        "the same, one call a prefix": (one_by_one, forward_backward),
    }
    print(f"GPT-2-small shape, 1 x {n} tokens, {torch.get_num_threads()} threads")
    ratios = {name: [] for name in jobs}
    for _ in range(chosen.rounds):
        for name, (job, unit) in jobs.items():
            before = seconds(unit)
            took = seconds(job)
            ratios[name].append(2 * took / (before + seconds(unit)))
    for name, (_, unit) in jobs.items():
        what = "forwards" if unit is plain else "forwards + backwards"
        spread = f"({min(ratios[name]):.1f}-{max(ratios[name]):.1f})"
        print(f"{name:<48} {statistics.median(ratios[name]):7.1f} {what}  {spread}")


if __name__ == "__main__":
    main()
