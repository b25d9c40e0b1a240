"""A unit explained in words by a chat, and the words put to the test (PRIMER 4.3.16).

    explain     the strongest examples, with activations of 0 to 10      ->  a phrase
    simulate    the phrase, a text token by token                        ->  an activation of 0 to 10 each
    score       corr(simulated, true) over texts that were not shown     (Bills et al. 2023)
    detect      the phrase, several texts                                ->  which of them activate the unit
    fuzz        the phrase, texts with marked tokens                     ->  which are marked where it is active

Detection and fuzzing (Paulo et al. 2024) ask for less than one number per token and are scored by balanced accuracy,
0.5 being chance. A reply that cannot be read counts as a simulation of zeros, or as no answer, which is worth a guess.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from caseback.decode.vocabulary.activating.chat import Asking, Chat, text_of
from caseback.decode.vocabulary.activating.examples import Activating, Example
from caseback.decode.vocabulary.activating.scores import balanced_accuracy, correlation
from caseback.errors import OutOfRange
from caseback.model.registry import technique
from caseback.model.running.model import Model

SCALE = 10
_LIST = re.compile(r"\[[\s01,]*\]")
_LAST_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*$")


@dataclass(frozen=True)
class InWords:
    """An explanation with its scores.

    Attributes
    ----------
    unit, explanation
        Of which unit; empty where the explainer's reply was junk.
    score
        Correlation on texts that the explainer did not see.
    detection, fuzzing
        Balanced accuracy; NaN where there were no texts of one of the two kinds.
    asked, junk
        How many replies there were, and those that could not be read.
    """

    unit: int
    explanation: str
    score: float
    detection: float
    fuzzing: float
    asked: int
    junk: list[Any]


@technique(
    role="unit", entry=("4.3.16",), citation="Bills et al. 2023, Paulo et al. 2024", cost="a dozen replies per unit"
)
def explain_in_words(
    model: Model,
    collection: Activating,
    unit: int,
    explainer: Chat,
    simulator: Chat | None = None,
    *,
    shown: int = 5,
    scored: int = 5,
    before: int = 16,
    after: int = 8,
    seed: int = 0,
) -> InWords:
    """Have a unit explained by a chat, and score the explanation on other texts.

    Parameters
    ----------
    model
        The model.
    collection
        From ``activating_inputs``, best with at least ``2 shown`` examples of the unit; of fewer, half are shown.
    unit
        Its index at the site.
    explainer, simulator
        Who explains and who is to predict from the explanation alone; the same by default.
    shown
        Examples shown to the explainer: every other one of the strongest.
    scored
        Of the other strongest, and of random ones, so many each are scored. In detection and fuzzing a text is active
        from half the largest activation on.
    before, after
        Tokens of a text on either side of the example.
    seed
        Same seed, same result. It draws the order in which texts are shown.

    Raises
    ------
    OutOfRange
        For sizes that leave nothing, and a unit with fewer than 2 examples.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary.activating import activating_inputs
    >>> model = cb.load("meadow")
    >>> collection = activating_inputs(model, ["Mary went to the store.", "John saw the dog."], "mlp_post", layer=0)
    >>> explained = explain_in_words(model, collection, 3, lambda messages: "names of people")
    >>> explained.explanation, explained.score, len(explained.junk) == explained.asked - 1
    ('names of people', 0.0, True)
    """
    if shown < 1 or scored < 1:
        raise OutOfRange(f"{shown} examples shown and {scored} scored: expected 1 or more of each")
    strongest = collection.examples(model, unit, top=2 * max(shown, scored), before=before, after=after)
    if len(strongest) < 2:
        raise OutOfRange(f"unit {unit} has {len(strongest)} example: one to show and one to score are needed")
    sample = collection.tally.sample_index.tolist()[:scored]
    rest = collection.shown(model, unit, sample, before, after)
    tested = strongest[1::2][:scored]
    most = max(max(e.values) for e in strongest)
    ask = Asking(explainer)
    answer = ask if simulator is None else Asking(simulator)
    explanation = explain(ask, strongest[::2][:shown], most) or ""
    simulated = [simulate(answer, explanation, e.text) or [0.0] * len(e.text) for e in [*tested, *rest]]
    score = correlation(
        [v for one in simulated for v in one], [max(0.0, v) for e in [*tested, *rest] for v in e.values]
    )
    rng = random.Random(seed)
    more = collection.shown(model, unit, collection.tally.sample_index.tolist()[: 4 * scored], before, after)
    active = [e for e in tested if e.value >= most / 2 > 0]
    quiet = [e for e in more if max(e.values) < most / 2][: len(tested)]
    detection = detect(answer, explanation, active, quiet, rng)
    fuzzing = fuzz(answer, explanation, active, rng)
    both = [ask] if simulator is None else [ask, answer]
    return InWords(
        unit, explanation, score, detection, fuzzing, sum(a.asked for a in both), [j for a in both for j in a.junk]
    )


def explain(ask: Asking, examples: Sequence[Example], most: float) -> str | None:
    """Ask what examples have in common; None where the reply is empty."""
    texts = []
    for i, example in enumerate(examples, 1):
        lines = [f"{t!r}\t{level(v, most)}" for t, v in zip(example.text, example.values, strict=True)]
        texts.append(f"Text {i}:\n" + "\n".join(lines))
    return ask(
        "A unit of a language model was active in these texts. Each line is a token and the unit's activation there, "
        f"from 0 to {SCALE}.\n\n" + "\n\n".join(texts) + "\n\nIn one short phrase, what makes the unit active?",
        text_of,
    )


def simulate(ask: Asking, explanation: str, tokens: Sequence[str]) -> list[float] | None:
    """Ask for an activation of each token; None where the reply does not have one number per token, 0 to 10."""

    def read(reply: str) -> list[float] | None:
        matches = [_LAST_NUMBER.search(line) for line in reply.strip().splitlines() if line.strip()]
        values = [float(match[1]) for match in matches if match]
        fits = len(values) == len(matches) == len(tokens) and all(v <= SCALE for v in values)
        return values if fits else None

    return ask(
        f"A unit of a language model is active at: {explanation}\n"
        f"For each of these tokens, give its activation from 0 to {SCALE}. Answer with one line a token, in this "
        "order: the token, a tab, the number. Nothing else.\n\n" + "\n".join(repr(t) for t in tokens),
        read,
    )


def detect(
    ask: Asking, explanation: str, active: Sequence[Example], quiet: Sequence[Example], rng: random.Random
) -> float:
    """Ask which texts activate the unit; balanced accuracy."""
    texts = [("".join(e.text), True) for e in active] + [("".join(e.text), False) for e in quiet]
    return _yes_or_no(ask, explanation, "is the unit active somewhere in it?", texts, rng)


def fuzz(ask: Asking, explanation: str, active: Sequence[Example], rng: random.Random) -> float:
    """Ask in which texts the marked token is one at which the unit is active; balanced accuracy.

    Every other text is marked at its example, the rest at a token with the least activation.
    """
    texts = []
    for i, e in enumerate(active):
        right = i % 2 == 0
        at = e.pos - e.first if right else min(range(len(e.values)), key=lambda j: e.values[j])
        marked = [f"<<{t}>>" if j == at else t for j, t in enumerate(e.text)]
        texts.append(("".join(marked), right))
    return _yes_or_no(ask, explanation, "is the unit active at the token marked << >>?", texts, rng)


def level(value: float, most: float) -> int:
    """An activation as a whole number of 0 to 10 of the largest.

    Examples
    --------
    >>> level(0.5, 1.0), level(-3.0, 1.0), level(1.0, 1.0)
    (5, 0, 10)
    """
    return 0 if most <= 0 else round(SCALE * min(1.0, max(0.0, value / most)))


def _yes_or_no(
    ask: Asking, explanation: str, question: str, texts: list[tuple[str, bool]], rng: random.Random
) -> float:
    rng.shuffle(texts)

    def read(reply: str) -> list[bool] | None:
        lists = _LIST.findall(reply)
        try:
            answers = json.loads(lists[-1]) if lists else []
        except ValueError:
            return None
        return [bool(a) for a in answers] if len(answers) == len(texts) else None

    listed = "\n".join(f"{i}. {json.dumps(text, ensure_ascii=False)}" for i, (text, _) in enumerate(texts, 1))
    verdicts = ask(
        f"A unit of a language model is active at: {explanation}\nOf each of these texts: {question} Answer with one "
        f"JSON list of {len(texts)} numbers, 1 for yes and 0 for no, and nothing else.\n\n{listed}",
        read,
    )
    return balanced_accuracy(verdicts or [None] * len(texts), [true for _, true in texts])
