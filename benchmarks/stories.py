"""Do stories name what is true? Organisms whose circuits are known, and behaviors of a trained model.

    python benchmarks/stories.py organisms [--count 10]
    python benchmarks/stories.py tasks [--model meadow] [--count 3] [--tasks ioi,agreement]

For organisms: how many of the heads and MLPs named as carriers or opponents are in the true circuit, how many of the
circuit's are named, and whether the counterfactual was found by itself. For tasks: how often the model prefers the
answer, how many prompts have a story, how many of the checks held, and in how many stories which parts carry the answer
(below 0: work against it), of those that are named more often than chance allows. The right answer is the target and
the wrong one the foil.
"""

from __future__ import annotations

import argparse

import caseback as cb
from caseback.localize.circuits.on_organisms import words
from caseback.organisms.compiled import build
from caseback.reports.story.depths import DEPTHS
from caseback.reports.story.several import stories
from caseback.reports.story.story import found_for, story_of

ORGANISMS = ("indirect_object", "recall", "induction", "rank", "and_gate", "or_gate", "backup_head")
TASKS = ("ioi", "agreement", "docstring", "induction", "relation", "few_shot", "pronoun", "sentiment")
CHANCE = ("multiple_choice", "entity_tracking")
HELD_OUT = "successor"
"""No threshold was looked at on prompts of this task."""


def told(model, tokens, target=None, foil=None, depth="normal"):
    """A story and the counterfactual that it rests on."""
    search, one = found_for(model, tokens, target, foil, None, DEPTHS[depth])
    final = model.run(tokens).logits[0, -1].detach()
    t = int(final.argmax()) if target is None else model.token_id(target)
    other = next(i for i in final.topk(2).indices.tolist() if i != t)
    f = model.token_id(foil) if foil is not None else other if one is None else one.foil
    return story_of(model, tokens, t, f, search, one, DEPTHS[depth])[0]


def of_organisms(count: int) -> None:
    """The table of organisms."""
    print("organism        prompts  found  parts named  of these true  true parts named at least once")
    for name in ORGANISMS:
        organism = build(name)
        true = {str(node) for node in organism.circuit.roles if node.kind in ("head", "mlp")}
        rows = words(organism, min(count, 4 if name.endswith("gate") else count), 0)
        if name.endswith("gate") or name == "backup_head":
            bits = ("0", "1")
            rows = [[a, "="] for a in bits] if name == "backup_head" else [[a, b, "="] for a in bits for b in bits]
        found, named, right, seen = 0, 0, 0, set()
        for row in rows:
            story = told(organism.model, organism.tokens([row]), depth="quick")
            parts = {part["name"] for part in story["parts"]}
            parts |= {helper["name"] for part in story["parts"] for helper in part["repaired_by"]}
            found += story["counterfactual"] is not None
            named, right, seen = named + len(parts), right + len(parts & true), seen | (parts & true)
        print(f"{name:16}{len(rows):7}{found:7}{named:13}{right:15}{len(seen):10} of {len(true)}")


def of_tasks(name: str, chosen: list[str], count: int, depth: str) -> None:
    """The table of a model's behaviors."""
    model = cb.load(name)
    print("task             prompts  preferred  stories  checks held, weak, failed  named beyond chance")
    for task in chosen:
        document = stories(model, cb.tasks.get(task).prompts(model, count), depth=depth)
        of = document["counts"]
        outcomes = ", ".join(
            str(sum(row[verdict] for row in document["checks"])) for verdict in ("held", "weak", "failed")
        )
        shared = [row for row in document["parts"] if row["above"]]
        often = " ".join(f"{row['name']}:{row['carrier'] or -row['opponent']}" for row in shared[:6])
        print(f"{task:17}{of['prompts']:6}{of['preferred']:10}{of['stories']:10}   {outcomes:22}  {often}", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("organisms", "tasks"))
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--model", default="meadow")
    parser.add_argument("--tasks", default=",".join((*TASKS, *CHANCE, HELD_OUT)))
    parser.add_argument("--depth", choices=tuple(DEPTHS), default="normal")
    given = parser.parse_args()
    if given.what == "organisms":
        of_organisms(given.count)
    else:
        of_tasks(given.model, given.tasks.split(","), given.count, given.depth)


if __name__ == "__main__":
    main()
