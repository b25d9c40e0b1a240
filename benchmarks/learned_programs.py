"""Which compiled programs are learned again from their answers, by discrete Transformers of two sizes.

python benchmarks/learned_programs.py [NAME ...]
"""

from __future__ import annotations

import sys
import time

import torch

from caseback.organisms.compiled import build
from caseback.organisms.learned import learn_program

TASKS = {
    "previous_token": {"alphabet": "abcd"},
    "induction": {"alphabet": "abcd"},
    "duplicate": {"alphabet": "abcd"},
    "count": {"alphabet": "abcd"},
    "rank": {"alphabet": "abcd"},
    "fraction": {"alphabet": "abcd"},
    "sort": {"alphabet": "abcd"},
    "recall": {"keys": "pq", "values": "ab"},
    "brackets": {},
    "shortcut": {},
}


def main() -> None:
    torch.set_num_threads(1)
    print("| organism | lookups | right | by the word alone | rounds | CPU s | edges (compiled) | the same circuit |")
    print("|---|---|---|---|---|---|---|---|")
    for name in sys.argv[1:] or TASKS:
        task = build(name, max_length=8, **TASKS[name])
        for lookups in (0, 1):
            start = time.process_time()
            learned = learn_program(task.function, task.inputs, task.max_length, lookups=lookups)
            took = time.process_time() - start
            edges = learned.compile().circuit.edges
            print(
                f"| `{name}` | {lookups} | {learned.accuracy:.2%} | {learned.chance:.0%} | {len(learned.rounds)} | "
                f"{took:.0f} | {len(edges)} ({len(task.circuit.edges)}) | {edges == task.circuit.edges} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
