"""One step of distributed alignment search at GPT-2-small shape with random weights, in plain forward + backwards.

    python benchmarks/alignment.py [--rounds 5] [--tokens 32]

A plain step is the Hugging Face model's own forward and backward of the same bases from an embedding that has a
gradient, parameters frozen. Ours is a step of ``das``: forward and backward from the place on, and Adam. The naive step
runs bases and sources from the start and backward through all layers, as toolkits that hook the model do. Times are
this process's, of one thread, in turns; the median of the rounds is printed, the least and the most behind it.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.localize.abstraction import At, Interchanges
from caseback.localize.abstraction.alignment import seats
from caseback.localize.abstraction.suffixes import Suffixes
from caseback.model.algebra.rotation import Rotation


def seconds(job):
    start = time.process_time()
    job()
    return time.process_time() - start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--tokens", type=int, default=32)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--k", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)
    model = cb.load(hf)
    base, source = torch.randint(0, model.d_vocab, (2, chosen.batch, chosen.tokens))
    data = Interchanges.of(model, base, source, 11, 23)

    def plain():
        x = hf.transformer.wte(base).requires_grad_()
        hf(inputs_embeds=x, use_cache=False).logits[:, -1].log_softmax(-1)[:, 11].sum().backward()

    jobs = {}
    for layer in (0, 5, 11):
        for where, pos in (("last position", -1), ("first position", 0)):
            if layer == 11 and pos == 0:
                continue
            at = At("resid_post", layer=layer, pos=pos)
            jobs[f"das, layer {layer}, {where}"] = step(model, data, at, chosen.k)
            jobs[f"the same, bases not kept, layer {layer}, {where}"] = step(model, data, at, chosen.k, memory=0)
    jobs["naive, layer 5, last position"] = naive(model, data, At("resid_post", layer=5, pos=-1), chosen.k)
    plain()
    rounds = {name: [] for name in jobs}
    base_times = []
    for _ in range(chosen.rounds):
        for name, job in jobs.items():
            before, took, after = seconds(plain), seconds(job), seconds(plain)
            base_times += [before, after]
            rounds[name].append(2 * took / (before + after))
    shape = f"{chosen.batch} x {chosen.tokens}"
    print(f"{shape} tokens, plain forward + backward {min(base_times) * 1e3:.0f} ms of one thread")
    for name, taken in rounds.items():
        print(f"  {name:56s} {statistics.median(taken):5.2f} ({min(taken):.2f} to {max(taken):.2f})", flush=True)


def step(model, data, at, k, **how):
    found = seats(model, data, {"variable": at})
    rotation = Rotation(k, found[0].width)
    optimiser = torch.optim.Adam(rotation.parameters(), lr=1e-3)
    suffixes, rows = Suffixes(model, data, found, **how), torch.arange(len(data))

    def job():
        rotated = rotation.rows
        (-suffixes.log_probs(rows, lambda seat: seat.edits(rotated)).mean()).backward()
        optimiser.step()
        optimiser.zero_grad()

    job()
    return job


def naive(model, data, at, k):
    rotation = Rotation(k, model.d_model)
    optimiser = torch.optim.Adam(rotation.parameters(), lr=1e-3)

    def job():
        edits = [e for seat in seats(model, data, {"variable": at}) for e in seat.edits(rotation.rows)]
        logits = model.run(data.base, edits=edits, grad=True).logits[:, -1]
        torch.nn.functional.cross_entropy(logits, data.target).backward()
        optimiser.step()
        optimiser.zero_grad()

    job()
    return job


if __name__ == "__main__":
    main()
