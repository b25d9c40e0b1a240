"""Circuits at GPT-2-small shape with random weights: edge attribution, EAP-IG and running one circuit, in plain passes.

    python benchmarks/circuits.py [--rounds 5] [--tokens 32] [--no-memory]

A plain pass is a Hugging Face forward and a backward to the input embeddings, parameters frozen. Each call is timed
between two of these and divided by them, in CPU time; the median of the rounds is printed, with the least and the most
behind it. All calls include the counterfactual run, and attribution the clean one. Peak memory is each call's in a
process of its own: in all, and above what that holds once the model is built.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.localize.circuits import edge_attribution, run_circuit
from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns
from caseback.model.graph.graph import Graph

TARGET, FOIL, EDGES = 11, 23, 1000


def jobs(batch: int, tokens: int):
    """The plain pass, and what is compared with it, by name."""
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)
    model, metric = cb.load(hf), cb.logit_diff(TARGET, FOIL)
    clean, corrupt = torch.randint(0, model.d_vocab, (2, batch, tokens))
    graph = Graph.of(model.anatomy)
    some, half = (torch.rand(graph.exists.shape) < share for share in (EDGES / len(graph.edges), 0.5))
    some, half = some & graph.exists, half & graph.exists

    def plain():
        embedded = hf.transformer.wte(clean).requires_grad_()
        logits = hf(inputs_embeds=embedded, use_cache=False).logits[:, -1]
        torch.autograd.grad((logits[:, TARGET] - logits[:, FOIL]).sum(), embedded)

    def alone(mask):
        return lambda: CircuitRuns(model, graph, clean, corrupt, metric).metrics(mask[None])

    return {
        "plain": plain,
        f"EAP, all {len(graph.edges)} edges": lambda: edge_attribution(model, clean, corrupt, metric),
        "EAP-IG, 5 input steps": lambda: edge_attribution(model, clean, corrupt, metric, steps=5),
        f"one circuit of {EDGES} edges": alone(some),
        "one circuit of half of the edges": alone(half),
        "the same, and the model itself": lambda: run_circuit(model, clean, corrupt, metric, half),
    }


def cpu_seconds(job) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


def peak_memory(name: str, batch: int, tokens: int) -> tuple[float, float]:
    """MiB at most during a call, in all and above what there was before it."""
    code = (
        "import resource, sys, threading, time; sys.argv = ['']; import circuits as b; import torch; "
        "torch.set_num_threads(1)\n"
        f"job = b.jobs({batch}, {tokens})[{name!r}]\n"
        "def held():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() / 2**20\n"
        "seen, done = [held()], threading.Event()\n"
        "def watch():\n"
        "    while not done.is_set(): seen.append(held()); time.sleep(0.002)\n"
        "thread = threading.Thread(target=watch); thread.start(); job(); done.set(); thread.join()\n"
        "print(max(seen), seen[0])"
    )
    here = os.path.dirname(os.path.abspath(__file__))
    told = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True).stdout
    most, before = map(float, told.split()[-2:])
    return most, most - before


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--tokens", type=int, default=32)
    options.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options.add_argument("--no-memory", action="store_true", help="time alone")
    chosen = options.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    for batch in chosen.batches:
        plain, *others = jobs(batch, chosen.tokens).items()
        rounds: dict[str, list[float]] = {name: [] for name, _ in others}
        plain[1]()
        base = []
        for _ in range(chosen.rounds):
            for name, job in others:
                before, took, after = cpu_seconds(plain[1]), cpu_seconds(job), cpu_seconds(plain[1])
                base += [before, after]
                rounds[name].append(2 * took / (before + after))
        print(f"{batch} x {chosen.tokens} tokens, plain forward and backward {min(base):.2f} CPU seconds")
        for name, taken in rounds.items():
            middle = statistics.median(taken)
            print(f"  {name:34s} {middle:5.2f} plain passes ({min(taken):.2f} to {max(taken):.2f})", flush=True)
    if chosen.no_memory:
        return
    names = list(jobs(1, 2))
    print(f"peak memory at 16 x {chosen.tokens}, MiB in all, and above the model at rest")
    for name in names:
        most, above = peak_memory(name, 16, chosen.tokens)
        plain_most, plain_above = (most, above) if name == "plain" else (plain_most, plain_above)
        print(
            f"  {name:34s} {most:6.0f} ({most / plain_most:.2f})  {above:6.0f} ({above / plain_above:.2f})", flush=True
        )


if __name__ == "__main__":
    main()
