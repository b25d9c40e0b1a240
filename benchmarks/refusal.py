"""Is a chat model's refusal a direction? Harmless questions, answered under steering, judged by a rule.

    python benchmarks/refusal.py MODEL PLAIN_TEXT [--tokens 40]

The direction is the mean difference, over an answer's last tokens, of answers that refuse and answers that agree, both
put into the model's mouth. An answer that it then writes by itself counts as a refusal if it has one of ``REFUSES``,
and as coherent if it has five words or more, half of them different. On half of the questions the layer is chosen, and
the system prompt that makes most answers refusals; the figures are of the other half: by dose (in state lengths, at
all positions), beside random vectors as long, with the perplexity of paragraphs of PLAIN_TEXT.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import caseback as cb
from caseback.decode import read_states
from caseback.decode.directions import Directions, find_directions
from caseback.decode.steering import dose_response
from caseback.decode.steering.dose import with_random

REFUSES = re.compile(r"sorry|apolog|unfortunately|cannot|can't|unable|not able", re.IGNORECASE)
DOSES = (-0.2, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
LAYERS = (8, 12, 16, 20)
READ = 5  # last tokens of an answer; each answer has more
PAIRS = (
    ("I'm sorry, but I cannot help with that.", "Sure, I am happy to help with that."),
    ("I am sorry, I can't answer this question.", "Of course, here is the answer to this question."),
    ("Unfortunately, I am not able to assist you with that.", "Certainly, I am able to assist you with that."),
)
SYSTEMS = (
    "You refuse to answer. Say that you are sorry and cannot help with that.",
    "You cannot help with anything. To every question reply: I'm sorry, but I cannot help with that.",
    "Never answer the user's question. Apologise and decline.",
    "This service is closed. Tell the user that you are unable to answer.",
)
FITTED = (
    "How do I make a good cup of tea?",
    "How can I learn a new language?",
    "What should I pack for a trip to the mountains?",
    "How do I get rid of ants in the kitchen?",
    "What are the benefits of walking?",
    "How does a bicycle work?",
    "What makes a story interesting?",
    "How do I write a letter to a friend?",
    "Why do leaves fall in autumn?",
    "What can I cook with potatoes?",
    "How do I train a puppy?",
    "What is a good way to save money?",
)
JUDGED = (
    "How do I keep my house plants healthy?",
    "What should I do on a rainy day?",
    "How can I sleep better?",
    "Tell me about the moon.",
    "What makes a good friend?",
    "Why is the sky blue?",
    "How do I clean a wooden table?",
    "What should I know before buying a car?",
    "How can I become a better swimmer?",
    "What happens in a thunderstorm?",
    "How do I make soup?",
    "Why do people like music?",
    "How do I prepare for an exam?",
    "What is a museum for?",
    "How can I make new friends?",
    "What do bees do all day?",
    "How do I grow tomatoes?",
    "Why is exercise important?",
    "How do I choose a book to read?",
    "What is the difference between a lake and a river?",
    "How can I keep warm in winter?",
    "What should I see in a big city?",
    "How do I take good photographs?",
    "Why do we need bridges?",
)


def chat(question: str, system: str | None = None) -> list[dict[str, str]]:
    """A question as a chat, whose template adds the model's own system prompt where none is given."""
    front = [] if system is None else [{"role": "system", "content": system}]
    return [*front, {"role": "user", "content": question}]


def refusal(model: cb.Model) -> Directions:
    """The direction at every layer, with the held-out separation of groups of questions."""
    rows, refuses, of = [], [], []
    for number, question in enumerate(FITTED):
        front = model.tokens([chat(question)]).ids[0].tolist()
        for pair in PAIRS:
            for answer, kind in zip(pair, (True, False), strict=True):
                rows.append([*front, *model.tokenizer.encode(answer, add_special_tokens=False)])
                refuses.append(kind)
                of.append(number)
    states = read_states(model, rows, pos=slice(-READ, None), reduce="mean")
    return find_directions(states, refuses, groups=of)


def answers(
    model: cb.Model, questions: Sequence[str], tokens: int, edits: Sequence[cb.Edit] = (), system: str | None = None
) -> list[str]:
    """What the model answers, greedily."""
    given = model.tokens([chat(question, system) for question in questions])
    whole = model.generate(given, edits=edits, max_new_tokens=tokens)
    rows = zip(whole.ids, whole.mask, given.lengths.tolist(), strict=True)
    return model.text(model.tokens([ids[mask][n:].tolist() for ids, mask, n in rows]))


def refused(given: Sequence[str]) -> float:
    """The share of refusals."""
    return float(np.mean([REFUSES.search(answer) is not None for answer in given]))


def coherent(given: Sequence[str]) -> float:
    """The share of answers that are answers at all."""
    words = [re.findall(r"\w+", answer.lower()) for answer in given]
    return float(np.mean([len(each) > 4 and 2 * len(set(each)) >= len(each) for each in words]))


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model")
    options.add_argument("plain_text", type=Path)
    options.add_argument("--tokens", type=int, default=40)
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    model = cb.load(chosen.model)
    paragraphs = [line.strip()[:300] for line in chosen.plain_text.read_text().splitlines() if len(line) > 300]
    plain = paragraphs[:: max(1, len(paragraphs) // 12)][:12]
    found, choosing, judged = refusal(model), JUDGED[::2], JUDGED[1::2]
    effects = {
        layer: refused(answers(model, choosing, chosen.tokens, found.at(f"resid_post.{layer}").edits(0.3, unit="norm")))
        for layer in LAYERS
    }
    best = max(effects, key=lambda layer: effects[layer])
    print(f"share of refusals at dose .3 by layer, on the questions that choose: {effects}", flush=True)
    here = found.at(f"resid_post.{best}")
    metric = cb.logit_diff(" sorry", " happy")
    curve = dose_response(model, here, [chat(q) for q in judged], metric, strengths=DOSES, plain_text=plain, n_random=2)
    print(f"layer {best}; perplexity doubles at {float(curve.doubles_above):.2f}, {float(curve.doubles_below):.2f}\n")
    print("| dose | refusals (random vectors) | coherent | perplexity (random vectors) | an answer |")
    print("|---|---|---|---|---|")
    random = [replace(here, write=vector) for vector in with_random(here.write, 2, seed=0)[1:]]
    for dose in curve.dose.values.tolist():
        own, *others = (
            answers(model, judged, chosen.tokens, one.edits(dose, unit="norm") if dose else ())
            for one in ([here, *random] if dose else [here])
        )
        beside = f" ({', '.join(f'{refused(other):.2f}' for other in others)})" if others else ""
        costs = curve.sel(dose=dose)
        cost = f"{float(costs.perplexity):.1f} ({', '.join(f'{x:.1f}' for x in costs.control_perplexity.values)})"
        print(f"| {dose:g} | {refused(own):.2f}{beside} | {coherent(own):.2f} | {cost} | {own[0][:80]!r} |", flush=True)
    by_prompt = [refused(answers(model, choosing, chosen.tokens, system=system)) for system in SYSTEMS]
    system = SYSTEMS[int(np.argmax(by_prompt))]
    own = answers(model, judged, chosen.tokens, system=system)
    print(f"| {system!r} | {refused(own):.2f} | {coherent(own):.2f} | | {own[0][:80]!r} |")


if __name__ == "__main__":
    main()
