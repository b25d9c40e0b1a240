"""What harvesting activations costs, and what a second worker brings: GPT-2-small shape, random weights, on a CPU.

    python benchmarks/harvest.py [--rounds 5] [--layer 5] [--tokens 32768]

First the stream of one layer, to a training loop (``from_model``) and to files (``collect``), against plain forwards
of a model that ends at that layer; what a job costs once, whatever its size, the digest of the model, stands by itself.
Then one pass that collects tables, by one worker of one thread, two workers of one thread each, and one worker of two
threads: seconds, processes' start included, and the speed in units of the first. Beside them two processes that run
plain forwards and share nothing: what the machine has for a second one.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from overhead import ratios
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

import caseback as cb
from caseback.model.anatomy.identity import model_digest
from caseback.stream import collect, from_model
from caseback.stream.packing import Block, Row

WORKERS = ((1, 1), (2, 1), (1, 2))
"""Workers, and threads of each."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--layer", type=int, default=5)
    options.add_argument("--rows", type=int, default=64)
    options.add_argument("--tokens", type=int, default=32768)
    options.add_argument("--tables", nargs="*", default=["stream_moments", "neuron_moments", "attention_offsets"])
    chosen = options.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        GPT2LMHeadModel(GPT2Config()).save_pretrained(folder / "model")
        harvest(folder, chosen.layer, chosen.rows, chosen.rounds)
        unrelated(folder, chosen.tokens)
        workers(folder, chosen.tokens, chosen.tables)


def harvest(folder: Path, layer: int, rows: int, rounds: int) -> None:
    torch.set_num_threads(2)
    model = cb.load(str(folder / "model"))
    short = GPT2Model.from_pretrained(folder / "model").eval()
    short.h = short.h[: layer + 1]
    ids = torch.randint(0, model.d_vocab, (rows, 256))
    block = Block.of([Row(row, number, 0, 0) for number, row in enumerate(ids.tolist())])
    site, calls = f"resid_post.{layer}", iter(range(10**6))

    def plain():
        with torch.no_grad():
            for batch in ids.split(8):
                short(batch, use_cache=False)

    def stream():
        for _ in from_model(model, [block], site):
            pass

    def files():
        collect(model, ids.tolist(), activations=[site], folder=folder / f"job {next(calls)}", length=256, bos=False)

    plain()
    start = time.process_time()
    model_digest(model.hf)
    print(f"digest of the model, once a job: {time.process_time() - start:.2f} s")
    print(f"harvest of {site}, {rows} x 256 tokens, 2 threads; ratios to plain forwards that end there, wall (CPU)")
    for name, job in {"from_model": stream, "collect, to files": files}.items():
        job()
        wall, cpu = ratios(job, plain, rounds)
        print(f"{name:20s} {wall:5.2f} ({cpu:.2f})", flush=True)


def unrelated(folder: Path, tokens: int) -> None:
    """Speed of two processes of plain forwards, one thread each, in units of one."""
    context = multiprocessing.get_context("spawn")
    speeds = []
    for count in (1, 2):
        barrier = context.Barrier(count)
        with context.Pool(count, _with, (barrier,)) as pool:
            seconds = pool.map(_forwards, [(folder / "model", tokens // 2)] * count, chunksize=1)
        speeds.append(count / max(seconds))
    print(f"2 processes of plain forwards, sharing nothing, 1 thread each: {speeds[1] / speeds[0]:.2f}")


def _with(barrier) -> None:
    global _together
    _together = barrier


def _forwards(given: tuple[Path, int]) -> float:
    path, tokens = given
    torch.set_num_threads(1)
    hf = GPT2LMHeadModel.from_pretrained(path).eval()
    ids = torch.randint(0, hf.config.vocab_size, (tokens // 256, 256))
    _together.wait()
    start = time.perf_counter()
    with torch.no_grad():
        for batch in ids.split(8):
            hf(batch, use_cache=False)
    return time.perf_counter() - start


def workers(folder: Path, tokens: int, tables: list[str]) -> None:
    model = cb.load(str(folder / "model"))
    corpus = torch.randint(0, model.d_vocab, (tokens // 256, 256)).tolist()
    first = None
    print(f"{', '.join(tables)} over {tokens} tokens, in shards of 4096")
    for count, threads in WORKERS:
        start = time.perf_counter()
        at = folder / f"{count} x {threads}"
        collect(
            model, corpus, tables, folder=at, length=256, bos=False, shard_tokens=4096, workers=count, threads=threads
        )
        took = time.perf_counter() - start
        first = took if first is None else first
        print(f"{count} worker(s) of {threads} thread(s)  {took:6.1f} s  {first / took:.2f}", flush=True)


if __name__ == "__main__":
    main()
