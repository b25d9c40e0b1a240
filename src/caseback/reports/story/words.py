"""The story in words: at most eight sentences by rules, each with the evidence that it rests on.

A sentence is left out where its threshold is not met; nothing is said that has no number. Evidence names the section
of the document and the row in it: ``hops[2]``, ``parts.L3H1``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caseback.reports.story import thresholds
from caseback.reports.tokens_text import visible

MOST_NAMED = 4
"""How many words, places, parts or opponents a sentence names."""


def sentences(story: Mapping[str, Any], tokens: Sequence[str], lens: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The paragraph: ``{"text", "evidence"}`` for each sentence.

    Parameters
    ----------
    story
        The measurements, as ``story_of`` puts them together.
    tokens
        The prompt's tokens as text.
    lens
        The lens section of the explanation, whose ``logit_diff`` is of the same two tokens.
    """
    target = visible(story["target"]["text"])
    if not story["preference"]["prefers"]:
        own = story["preference"]
        foil = visible(story["foil"]["text"])
        verb = "does not prefer" if own["value"] <= 0 else "hardly prefers"
        text = f"The model {verb} {target} to {foil} here: their logits differ by {_signed(own['value'])}"
        if own["shuffled"] is not None:
            text += ", by {} to {} when the prompt's tokens are shuffled".format(*map(_signed, own["shuffled"]))
        if own["other_words"] is not None:
            text += ", by {} to {} with other words in it".format(*map(_signed, own["other_words"]))
        if own["turned"] is not None:
            text += f", by {_signed(own['turned'])} after the counterfactual"
        if own["single_words"] is not None:
            text += f"; other single words move them by {own['single_words']:.2f}"
        text += ". So no part is named."
        return [{"text": text, "evidence": ["preference"]}]
    if story["counterfactual"] is None:
        count = story["measured"]
        return [
            {
                "text": f"Nothing that was tried moves the answer {target}: {count} versions of the prompt with other "
                "words were measured. Give a counterfactual to learn what carries it.",
                "evidence": ["counterfactual"],
            }
        ]
    lines = [_moved(story, target), *_cut(story)]
    lines += _words(story)
    lines += _way(story, tokens)
    lines += _carriers(story, tokens)
    lines += _opponents(story)
    lines += _circuit(story)
    lines += _lens(story, lens)
    lines += _unmeasured(story)
    return lines


def _moved(story: Mapping[str, Any], target: str) -> dict[str, Any]:
    one = story["counterfactual"]
    changed = " and ".join(f"{visible(c['old'])} is {visible(c['new'])}" for c in one["changes"][:MOST_NAMED])
    foil = visible(story["foil"]["text"])
    text = (
        f"The model prefers {target} to {foil} by {_signed(one['clean'])}; where {changed}, by "
        f"{_signed(one['corrupt'])}: that change is what the rest explains."
    )
    return {"text": text, "evidence": ["counterfactual"]}


def _cut(story: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Words that were cut into more tokens, so that both prompts have as many."""
    cuts = {cut["text"]: cut["pieces"] for cut in story.get("cuts", [])}
    if not cuts:
        return []
    listed = _listed([f"{visible(text)} is cut into {' '.join(map(visible, pieces))}" for text, pieces in cuts.items()])
    text = f"For the two to have as many tokens {listed}; uncut the answer leads by {_signed(story['uncut'])}."
    return [{"text": text, "evidence": ["cuts"]}]


def _words(story: Mapping[str, Any]) -> list[dict[str, Any]]:
    large = [row for row in story["words"] if row["share"] >= thresholds.TOKEN][:MOST_NAMED]
    if not large:
        return []
    listed = _listed([f"{visible(row['text'])} at {row['pos'][0]} ({row['share']:.2f})" for row in large])
    text = f"Replacing single words takes most of it away at {listed}."
    return [{"text": text, "evidence": [f"words.{row['pos'][0]}" for row in large]}]


def _way(story: Mapping[str, Any], tokens: Sequence[str]) -> list[dict[str, Any]]:
    hops = story["hops"]
    if not hops:
        text = "No single place of the stream carries it: no layer and token alone brings back "
        return [{"text": text + f"{thresholds.HOP:.2f} of it.", "evidence": ["hops"]}]
    shown = hops[: MOST_NAMED - 1] + hops[-1:] if len(hops) > MOST_NAMED else hops
    steps = [
        f"at {visible(tokens[hop['pos']])} ({hop['pos']}) {_layers(hop, story['n_layers'])} ({hop['share']:.2f})"
        for hop in shown
    ]
    text = f"In the stream it is {', then '.join(steps)}."
    return [{"text": text, "evidence": [f"hops[{hops.index(hop)}]" for hop in shown]}]


def _layers(hop: Mapping[str, Any], n_layers: int) -> str:
    if hop["last"] == n_layers:
        return "in the end" if hop["first"] == n_layers else f"from layer {hop['first']} to the end"
    if hop["first"] == hop["last"]:
        return f"before layer {hop['first']}"
    return f"before layers {hop['first']} to {hop['last']}"


def _carriers(story: Mapping[str, Any], tokens: Sequence[str]) -> list[dict[str, Any]]:
    carriers = [part for part in story["parts"] if part["role"] == "carrier"]
    if not carriers:
        text = f"No single head or MLP carries it: none alone moves {thresholds.PART:.2f} of it."
        return [{"text": text, "evidence": ["parts"]}]
    clauses = []
    for part in carriers[:MOST_NAMED]:
        known = f", known for {_listed(part['known'])}," if part.get("known") else ""
        clause = f"{part['name']}{known} ({part['share']:.2f}"
        if part["direct"] is not None and part["direct"] >= thresholds.DIRECT * abs(part["share"]):
            clause += ", directly on the logits"
        clause += ")"
        if part["looks"]:
            look = part["looks"][0]
            clause += f" looking from {visible(tokens[part['at']])} ({part['at']}) at "
            clause += f"{visible(tokens[look['pos']])} ({look['pos']})"
        if part["writes"] and part["direct"] is not None and part["direct"] >= thresholds.PART:
            clause += f" and writing {visible(part['writes'][0]['text'])}"
        clauses.append(clause)
    more = len(carriers) - len(clauses)
    text = f"Exchanged alone, these carry most: {'; '.join(clauses)}{f'; and {more} more' if more > 0 else ''}."
    return [{"text": text, "evidence": [f"parts.{part['name']}" for part in carriers[:MOST_NAMED]]}]


def _opponents(story: Mapping[str, Any]) -> list[dict[str, Any]]:
    against = [part for part in story["parts"] if part["role"] == "opponent"][:MOST_NAMED]
    repaired = [part for part in story["parts"] if part["repaired_by"]][: MOST_NAMED // 2]
    clauses, evidence = [], []
    if against:
        listed = _listed([f"{part['name']} ({_signed(part['share'])})" for part in against])
        clauses.append(f"{listed} work{'s' if len(against) == 1 else ''} against it")
        evidence += [f"parts.{part['name']}" for part in against]
    for part in repaired:
        by = _listed([helper["name"] for helper in part["repaired_by"][:2]])
        clauses.append(f"silencing {part['name']} is made up for by {by}")
        evidence.append(f"parts.{part['name']}")
    if not clauses:
        return []
    text = "; ".join(clauses)
    return [{"text": text[0].upper() + text[1:] + ".", "evidence": evidence}]


def _circuit(story: Mapping[str, Any]) -> list[dict[str, Any]]:
    circuit = story["circuit"]
    if circuit is None:
        return []
    chance = f", and random ones of its size at most {max(circuit['random']):.2f}" if circuit["random"] else ""
    size = f"{circuit['edges']:,} of {circuit['of']:,} edges"
    if circuit["faithful"]:
        text = f"A circuit of {size} recovers {circuit['recovered']:.2f} of it when run alone{chance}."
    else:
        text = f"No circuit tried keeps it: the nearest, of {size}, recovers {circuit['recovered']:.2f}{chance}."
    return [{"text": text, "evidence": ["circuit"]}]


def _lens(story: Mapping[str, Any], lens: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if lens is None or lens["logit_diff"][-1] <= 0:
        return []
    differences, half = lens["logit_diff"], lens["logit_diff"][-1] / 2
    low = [i for i, value in enumerate(differences) if value < half]
    if not low or low[-1] + 1 >= len(differences):
        return []
    target, kind = visible(story["target"]["text"]), lens.get("kind", "logit")
    text = f"Read by the {kind} lens, {target} leads by at least half of that from layer "
    return [{"text": text + f"{lens['layers'][low[-1] + 1]} on.", "evidence": ["lens"]}]


def _unmeasured(story: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not story["unmeasured"]:
        return []
    reasons = "; ".join(f"{what} ({why.rstrip('.')})" for what, why in story["unmeasured"].items())
    return [{"text": f"Not measured: {reasons}.", "evidence": ["unmeasured"]}]


def _signed(value: float) -> str:
    """A number with its sign, a true minus."""
    return f"{value:+.2f}".replace("-", "−")


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
