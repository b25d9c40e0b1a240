"""What the tables cost: a pass that collects them against plain Hugging Face forwards of the same rows.

    python benchmarks/collect.py [--rounds 5] [--threads 2] [--rows 8] [--tokens 256] [--ids uniform]
                                 [--tables neuron_moments ...]

GPT-2-small shape, random weights, ids as often as words are (the r-th commonest as 1 / (r + 2.7)) or uniform. Each
pass is timed between two rounds of plain forwards (logits included) and divided by them; medians over the rounds, wall
and CPU time. "reading" reads pattern, z, mlp_post and resid_post and reduces nothing; "all" collects every table in one
pass, second moments of the stream at every layer and of one layer's MLP.

By default glibc gives memory back to the system when a large array goes, and a pass then pays for page faults, more or
fewer as its arrays happen to lie: here it keeps what it has, for the plain forwards as well.
"""

import argparse
import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "MALLOC_TRIM_THRESHOLD_" not in os.environ:  # glibc reads it when a process begins
    kept = {f"MALLOC_{name}_": str(2**32 - 1) for name in ("TRIM_THRESHOLD", "MMAP_THRESHOLD")}
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **kept, "MALLOC_TOP_PAD_": str(2**28)})
import torch
from overhead import ratios
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.stream.marks import token_kinds
from caseback.stream.one_pass import pass_over
from caseback.stream.packing import Block, Row
from caseback.stream.tables.registry import TABLES, tables_of

READ = ("pattern", "z", "mlp_post", "resid_post")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rows", type=int, default=8)
    options.add_argument("--tokens", type=int, default=256)
    options.add_argument("--ids", choices=("words", "uniform"), default="words")
    options.add_argument("--batch-tokens", type=int, default=2048)
    options.add_argument("--tables", nargs="*")
    options.add_argument("--only-all", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    model = cb.load(hf)
    often = 1 / (torch.arange(model.d_vocab) + 3.7) if chosen.ids == "words" else torch.ones(model.d_vocab)
    ids = torch.multinomial(often, chosen.rows * chosen.tokens, replacement=True).view(chosen.rows, chosen.tokens)
    block = Block.of([Row(row, document, 0, 0) for document, row in enumerate(ids.tolist())])
    kinds = token_kinds(model)
    batches = [tokens.ids for tokens, _ in block.batches(chosen.batch_tokens)]

    def plain():
        with torch.no_grad():
            for batch in batches:
                hf(batch, use_cache=False)

    def collect(tables, sites=()):
        also_sites = [site for name in sites for site in model.anatomy.sites(name)]
        return lambda: pass_over(
            model, block, tables, kinds, batch_tokens=chosen.batch_tokens, also=lambda seen: None, also_sites=also_sites
        )

    present = [name for name, kind in TABLES.items() if kind().absent(model.anatomy) is None]
    everything = [*present, {"second_moments": {"site": "mlp_post", "layers": [5]}}]
    jobs = {} if chosen.tables or chosen.only_all else {"reading": collect({}, READ)}
    for name in [] if chosen.only_all else chosen.tables or present:
        jobs[name] = collect(tables_of(name))
    if not chosen.tables:
        jobs["all"] = collect(tables_of(everything), READ)
    plain()
    print(f"{chosen.rows} x {chosen.tokens} tokens, {chosen.threads} threads; ratios to plain forwards, wall (CPU)")
    for name, job in jobs.items():
        job()
        wall, cpu = ratios(job, plain, chosen.rounds)
        print(f"{name:20s} {wall:5.2f} ({cpu:.2f})", flush=True)


if __name__ == "__main__":
    main()
