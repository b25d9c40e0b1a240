"""What collecting activating inputs costs, at GPT-2-small shape with random weights, counted in plain forwards.

    python benchmarks/activating.py [--rounds 5] [--batches 2] [--batch 8] [--tokens 128]

The 20 strongest tokens, histograms and a sample for all 3,072 neurons of one layer (and for the stream) are collected
over some batches, timed in turn with plain Hugging Face forwards of the same batches; medians over the rounds, wall
and CPU time. "No logits" is the model without its unembedding, which collecting does not need either.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.decode.vocabulary.activating import activating_inputs


def clocks(job) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--batches", type=int, default=2)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--tokens", type=int, default=128)
    chosen = options.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    model = cb.load(hf)
    ids = torch.randint(0, model.d_vocab, (chosen.batches * chosen.batch, chosen.tokens))
    rows = ids.tolist()

    @torch.no_grad()
    def plain():
        for some in ids.split(chosen.batch):
            hf(some, use_cache=False)

    @torch.no_grad()
    def without_logits():
        for some in ids.split(chosen.batch):
            hf.transformer(some, use_cache=False)

    def collect(site):
        return lambda: activating_inputs(model, rows, site, layer=6, top=20, length=chosen.tokens, batch=chosen.batch)

    plain()
    print(f"{chosen.batches} batches of {chosen.batch} x {chosen.tokens} tokens; ratios to plain forwards, wall (CPU)")
    jobs = {
        "no logits": without_logits,
        "top 20 of 3,072 neurons": collect("mlp_post"),
        "top 20 of 768 dimensions": collect("resid_post"),
    }
    for name, job in jobs.items():
        job()
        wall, cpu = ratios(job, plain, chosen.rounds)
        print(f"{name:30s} {wall:6.2f} ({cpu:.2f})", flush=True)


if __name__ == "__main__":
    main()
