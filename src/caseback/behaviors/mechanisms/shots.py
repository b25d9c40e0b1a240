r"""Pairs of words as prompts: with examples of the function, with their second halves dealt out anew, without any.

    shown      hot: cold\n … up:
    shuffled   hot: small\n … up:
    zero-shot  up:

Half of the pairs are for finding, the others for judging, so that no query that is scored was seen before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.model.running.answer_metrics import answer_ids
from caseback.model.running.metrics import Metric, is_first, log_prob
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.tasks.align import align
from caseback.tasks.prompts import Pair, Prompts

SHOT = "{input}: {output}\n"
"""How an example is written, and what parts it from the next; a query is what stands before its output."""
Words = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Shots:
    """Prompts of one function; ``prompts.clean`` shows it, ``prompts.corrupt`` has the examples shuffled.

    Attributes
    ----------
    prompts
        Their targets are the first pieces of the answers.
    zero
        The same queries without examples.
    cut
        How many of the answers are several tokens, of which only the first counts.
    """

    prompts: Prompts
    zero: Tokens
    cut: int

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def log_prob(self) -> Metric:
        """The log probability of the answer's first piece."""
        return log_prob([row[0] for row in self.prompts.target])

    @property
    def is_first(self) -> Metric:
        """Whether that is the model's first choice."""
        return is_first([row[0] for row in self.prompts.target])

    def without(self, kind: str) -> Tokens:
        """Prompts that do not show the function: ``"shuffled"`` or ``"zero-shot"``."""
        return self.prompts.corrupt if kind == "shuffled" else self.zero


def halves(pairs: Words, shots: int, seed: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs for finding and pairs for judging, each first half once.

    Raises
    ------
    OutOfRange
        If there are too few for the number of examples.
    """
    if shots < 2:
        raise OutOfRange(f"{shots} shots: expected at least 2, so that their second halves can be dealt out anew")
    words = list({given.strip(): (given.strip(), output.strip()) for given, output in pairs}.values())
    if len(words) < 2 * shots + 8:
        raise OutOfRange(
            f"{len(words)} pairs with different first halves: expected {2 * shots + 8} or more for {shots} shots, half "
            "of them to judge on. Ask for fewer shots"
        )
    random.Random(f"halves {seed}").shuffle(words)
    return words[: len(words) // 2], words[len(words) // 2 :]


def single(model: Model, pairs: Words) -> list[tuple[str, str]]:
    """The pairs whose words are one token each, behind a space."""
    words = sorted({word.strip() for pair in pairs for word in pair})
    ids = answer_ids([f" {word}" for word in words], len(words), model.tokenizer, model.d_vocab)
    known = {word for word, pieces in zip(words, ids, strict=True) if len(pieces) == 1}
    return [pair for pair in pairs if known.issuperset(word.strip() for word in pair)]


def shots_of(model: Model, asked: Words, shown: Words, count: int, shots: int, shot: str, seed: int) -> Shots:
    """Prompts that ask about some pairs and show others.

    Raises
    ------
    TokensError
        If fewer than four can be told apart by this tokenizer.
    """
    if any(shot.count(field) != 1 for field in ("{input}", "{output}")) or shot.index("{input}") > shot.index(
        "{output}"
    ):
        raise CasebackError(f"shot {shot!r}: expected a text with {{input}} and, after it, {{output}}, once each")
    rng, pairs = random.Random(f"shots {seed}"), []
    query = shot[: shot.index("{output}")].rstrip()
    queries = [asked[i % len(asked)] for i in range(count)]
    pieces = answer_ids([f" {answer}" for _, answer in queries], len(queries), model.tokenizer, model.d_vocab)
    for (given, answer), ids in zip(queries, pieces, strict=True):
        some = rng.sample([pair for pair in shown if given not in pair and pair[0] != answer], shots)
        circle = [*range(1, shots), 0]
        dealt = [(some[i][0], some[circle[i]][1]) for i in range(shots)]
        end = query.replace("{input}", given)
        pairs.append(Pair.of(_written(some, shot) + end, _written(dealt, shot) + end, ids[0], group=given))
    prompts = align(pairs, model, measure="log_prob", task="few-shot function")
    if len(prompts) < 4:
        raise TokensError(f"only {len(prompts)} few-shot prompts fit this tokenizer ({dict(prompts.dropped)})")
    zero = model.tokens([query.replace("{input}", pair.group) for pair in prompts.pairs])
    return Shots(prompts, zero, sum(len(ids) > 1 for ids in pieces))


def _written(pairs: Words, shot: str) -> str:
    # not str.format: words may contain braces
    before, _, rest = shot.partition("{input}")
    between, _, after = rest.partition("{output}")
    return "".join(f"{before}{given}{between}{output}{after}" for given, output in pairs)
