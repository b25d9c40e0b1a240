"""What steering costs in decoding: ``generate`` under edits against transformers' own, and against ours without edits.

    python benchmarks/steered_decoding.py [--model FOLDER] [--tokens 32] [--rounds 5] [--threads 1]

Each way is timed between two plain calls of transformers' ``generate`` and divided by them: medians over the rounds,
wall and CPU time.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch

import caseback as cb


def clocks(job) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="meadow")
    options.add_argument("--tokens", type=int, default=32)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    model = cb.load(chosen.model)
    tokens = model.tokens("The weather in the mountains changed quickly, and the")
    length = {"max_new_tokens": chosen.tokens, "min_new_tokens": chosen.tokens}
    middle, vector = model.n_layers // 2, 0.1 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    heads = cb.Add("z", 0.1 * torch.ones(model.d_head), head=[0, 1])

    def transformers() -> None:
        with torch.no_grad():
            model.hf.generate(input_ids=tokens.ids, attention_mask=tokens.mask.long(), do_sample=False, **length)

    ways = {
        "no edit": [],
        "one layer": [cb.Add("resid_post", vector, layer=middle)],
        "one layer, generated tokens": [cb.Add("resid_post", vector, layer=middle, pos="generated")],
        "one layer, kept length": [cb.Tilt("resid_post", vector, layer=middle)],
        "every layer": [cb.Add("resid_post", vector)],
        "two heads of every layer": [heads],
    }
    transformers()
    print(f"{model}, {chosen.tokens} tokens, {chosen.threads} threads")
    print(f"{'':30s} {'/ transformers: wall':>21s} {'CPU':>7s} {'/ no edit: CPU':>15s} {'CPU ms a token':>15s}")
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _ in range(chosen.rounds):
        for name, edits in ways.items():
            before = clocks(transformers)
            own = clocks(lambda edits=edits: model.generate(tokens, edits=edits, **length))
            wall, cpu = (2 * t / (b + a) for t, b, a in zip(own, before, clocks(transformers), strict=True))
            taken[name].append((wall, cpu, own[1]))
    plain = statistics.median(cpu for _, cpu, _ in taken["no edit"])
    for name, rounds in taken.items():
        wall, cpu, own = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:30s} {wall:21.3f} {cpu:7.3f} {cpu / plain:15.3f} {1000 * own / chosen.tokens:15.2f}")


if __name__ == "__main__":
    main()
