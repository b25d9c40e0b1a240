"""What reading weights as words costs, at GPT-2-small width with random weights, on one core.

    python benchmarks/weight_words.py [--rounds 3] [--rows 5000]

Pairs of tokens of one head are found among some rows of its V x V circuit, and by sorting every entry of the same
blocks; LASER's search is timed against one edited run for each approximation. Alternately, medians of CPU time.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.decode.vocabulary import LowRank, circuit_pairs, laser, vocabulary_circuit
from caseback.decode.vocabulary.weights.low_rank import RHO


def cpu(job) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


def alternately(rounds: int, *jobs) -> list[float]:
    """Each job's median CPU time, jobs taking turns."""
    times = [[cpu(job) for job in jobs] for _ in range(rounds)]
    return [statistics.median(each) for each in zip(*times, strict=True)]


def sorting_all(circuit, rows: int, k: int) -> None:
    """The same pairs by sorting every entry of every block."""
    best = torch.empty(0)
    for some in circuit.left[:rows].split(2**24 // circuit.shape[1]):
        block = some @ circuit.right
        best = torch.cat([best, block.flatten().topk(k).values, block.flatten().topk(k, largest=False).values])


def one_by_one(model, tokens, metric) -> None:
    for layer in range(model.n_layers):
        for matrix in ("in", "out"):
            weight = LowRank(model, matrix, layer)
            for share in RHO:
                metric(model.run(tokens, edits=weight.edit(max(1, int(share * weight.full)))))


def main() -> None:
    parser = argparse.ArgumentParser(description="what reading weights as words costs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=5000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = cb.load(GPT2LMHeadModel(GPT2Config(n_layer=4)).eval())
    circuit = vocabulary_circuit(model, "ov", 1, 0)
    rows = list(range(given.rows))
    ours, theirs = alternately(
        given.rounds,
        lambda: circuit_pairs(model, "ov", 1, 0, tokens=rows),
        lambda: sorting_all(circuit, given.rows, 20),
    )
    whole = ours * circuit.shape[0] / given.rows
    print(f"pairs among {given.rows} rows: {ours:.1f} s, sorting all {theirs:.1f} s, {theirs / ours:.1f} x faster")
    print(f"all {circuit.shape[0]} rows: about {whole:.0f} s; V x V would be {circuit.numel() / 2**28:.1f} GiB")
    tokens, metric = model.tokens(torch.randint(0, 50000, (4, 24))), cb.log_prob(11)
    ours, theirs = alternately(
        given.rounds, lambda: laser(model, tokens, metric), lambda: one_by_one(model, tokens, metric)
    )
    runs = 2 * len(RHO) * model.n_layers
    print(f"LASER, {runs} approximations: {ours:.1f} s, one run each {theirs:.1f} s, {theirs / ours:.1f} x faster")


if __name__ == "__main__":
    main()
