"""What reading costs: ``run`` against the plain Hugging Face forward, GPT-2-small shape, random weights, 8 x 64 tokens.

    python benchmarks/overhead.py [--rounds 7]

Each reading is timed between two plain forwards and divided by them; medians over the rounds, wall and CPU time.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb

EVERYTHING = (
    "embed pos_embed resid_pre attn_norm q k v scores pattern z attn_out resid_mid mlp_norm mlp_pre mlp_post mlp_out "
    "resid_post final_norm"
).split()


def clocks(job) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - cpu


def ratios(job, plain, rounds: int) -> tuple[float, float]:
    """A job's time in units of the plain passes before and after it, wall and CPU: medians over rounds."""
    each = []
    for _ in range(rounds):
        before, took, after = clocks(plain), clocks(job), clocks(plain)
        each.append([2 * t / (b + a) for t, b, a in zip(took, before, after, strict=True)])
    return statistics.median(r[0] for r in each), statistics.median(r[1] for r in each)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--tokens", type=int, default=64)
    chosen = options.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    model = cb.load(hf)
    ids = torch.randint(0, model.d_vocab, (chosen.batch, chosen.tokens))
    tokens = model.tokens(ids)

    def plain():
        with torch.no_grad():
            hf(ids, use_cache=False)

    readings = {
        "nothing read": [],
        "every resid_post": ["resid_post"],
        "pattern and z": ["pattern", "z"],
        "everything": EVERYTHING,
    }
    plain()
    print(f"{chosen.batch} x {chosen.tokens} tokens; ratios to the plain forward, wall (CPU)")
    for name, read in readings.items():
        wall, cpu = ratios(lambda read=read: model.run(tokens, read=read), plain, chosen.rounds)
        print(f"{name:20s} {wall:5.2f} ({cpu:.2f})")


if __name__ == "__main__":
    main()
