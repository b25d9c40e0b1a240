"""Sentiment: a review praises or blames, and its end asks for the sentiment or the feeling. (PRIMER 5.4.12)

    I thought this film was wonderful, I loved it.
    Conclusion: This film is ->  great, not terrible

The counterfactual says the same with words of the other sentiment, which reverses the answer.
"""

from __future__ import annotations

import random

from caseback.errors import CasebackError
from caseback.lexicon import WIDE_BLAME, WIDE_FEELINGS, WIDE_PRAISE, WIDE_WORKS
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task, another
from caseback.tasks.text import fill

# Each has the answers for praise and for blame; {adjective} and {second} carry the sentiment.
TEMPLATES = {
    "Review: The {work} was {adjective} and the {other} was {second}. Sentiment:": (" positive", " negative"),
    "Review: The {work} was {adjective} and {second}. Sentiment:": (" positive", " negative"),
    "Review: I {feeling} the {work}, it was {adjective} and {second}. Sentiment:": (" positive", " negative"),
    "The {work} was {adjective} and {second}, so I": (" loved", " hated"),
    "I thought this {work} was {adjective} and {second}, I {feeling} it.\nConclusion: This {work} is": (
        " great",
        " terrible",
    ),
}


def sentiment(*, templates: dict[str, tuple[str, str]] | None = None, mixed: bool = False) -> Task:
    """The sentiment of a review.

    Positions: ``work``, ``adjective``, ``second`` (the second adjective), ``end``; ``second+1`` is the comma, period or
    word after it, where the model may keep a summary. The foil is the other sentiment's answer.

    Parameters
    ----------
    templates
        Texts with ``{work}``, ``{adjective}``, ``{second}`` and perhaps ``{other}`` and ``{feeling}``, each with the
        answers for praise and for blame.
    mixed
        In the counterfactual, reverse only the first adjective and leave the rest; its answer is then open.

    Raises
    ------
    CasebackError
        For no templates.

    References
    ----------
    Tigges et al. 2023, "Linear representations of sentiment in large language models".

    Examples
    --------
    >>> words = {"praise": ["great", "lovely"], "blame": ["awful", "dull"], "works": ["film", "play"],
    ...     "feelings": [("loved", "hated")]}
    >>> pair = sentiment().draw(random.Random(0), words)
    >>> praises = any(word in pair.clean.text for word in words["praise"])
    >>> praises == (pair.target[0] in (" positive", " loved", " great"))
    True
    """
    wordings = TEMPLATES if templates is None else templates
    if not wordings:
        raise CasebackError("no templates given: expected at least one text with its answers of praise and blame")

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        template = rng.choice(list(wordings))
        side = rng.randrange(2)
        work = rng.choice(fillers["works"])
        adjectives = [rng.sample(list(fillers[name]), 2) for name in ("praise", "blame")]
        feeling = rng.choice(fillers["feelings"])
        rest = {"work": work, "other": another(rng, fillers["works"], work)}

        def words(way: int, first: int) -> dict[str, str]:
            return {"adjective": adjectives[first][0], "second": adjectives[way][1], "feeling": feeling[way], **rest}

        target, foil = wordings[template][side], wordings[template][1 - side]
        return Pair.of(
            fill(template, **words(side, side)),
            fill(template, **words(side if mixed else 1 - side, 1 - side)),
            target,
            foil,
            corrupt_target=() if mixed else foil,
            group=f"{list(wordings).index(template)} {('praise', 'blame')[side]}",
        )

    return Task(
        "sentiment",
        "A review with two adjectives: the name or the verb of its sentiment over that of the other.",
        draw,
        {"praise": WIDE_PRAISE, "blame": WIDE_BLAME, "works": WIDE_WORKS, "feelings": WIDE_FEELINGS},
        entry="5.4.12",
        citation="Tigges et al. 2023",
        needs={"praise": 2, "blame": 2, "works": 2},
    )
