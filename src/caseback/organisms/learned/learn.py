"""Learning a Transformer program: gradient descent on relaxed choices, in rounds that regrow parts of the best.

    minimise the cross-entropy of the answers, at a temperature that falls in each round from WARM to COLD

All restarts are one batch. A relaxed program often ends where its answer reads a head of the first layer directly, and
a second layer that would use that head never starts. So after each round the best quarter of the restarts, judged with
hard choices, stays as it is; the others become copies of it in which each part is drawn anew with probability 1/2 (the
exploit-and-explore of population based training, Jaderberg et al. 2017), and the temperature rises again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.progress import progress_bar
from caseback.model.arguments import checked
from caseback.organisms.compiled.interpret import interpret
from caseback.organisms.compiled.language import Expression
from caseback.organisms.learned.program import LearnedProgram, as_program, parts
from caseback.organisms.learned.relaxed import Choices, Shape, answers, draw, hardened, sampled

WARM, COLD = 2.0, 0.2
RATE = 0.05
DRAWN = 64
"""Prompts of a step."""
ONE_STAYS_OF = 4
"""One in so many restarts stays after a round."""


@checked
def learn_program(
    function: Callable[[Sequence[str]], Sequence[str | None]],
    alphabet: str | Sequence[str],
    max_length: int,
    *,
    layers: int = 2,
    heads: int = 2,
    counters: int = 1,
    lookups: int = 0,
    restarts: int = 16,
    rounds: int = 8,
    steps: int = 200,
    prompts: int = 1024,
    seed: int = 0,
    progress: bool = False,
) -> LearnedProgram:
    """Learn a program in the compiled organisms' language from what is to be answered.

    Parameters
    ----------
    function
        From a list of words to the answer at each of them, None where there is none: such as the ``function`` of a
        compiled organism.
    alphabet
        The words that a prompt may consist of.
    max_length
        How many words a prompt has.
    layers
        How many layers of heads and lookups.
    heads, counters, lookups
        How many a layer has: heads that fetch a value from the latest match, heads that count matches, and tables of
        two variables. What is not needed is in the way: of induction the program with tables is not found.
    restarts
        How many programs are learned side by side.
    rounds, steps
        How often parts of the best are regrown, at most, and how many steps each round has. It ends early where a
        program has every answer right.
    prompts
        How many random prompts it is trained on. Half as many choose among programs, and as many again judge.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    LearnedProgram
        Of programs that are equally right, the one of fewest parts. Its accuracy is that of the discrete program, which
        ``interpret`` runs, on prompts that were not trained on (unless there are no others).

    Raises
    ------
    OutOfRange
        For numbers below 1 (below 0 of parts, below 4 restarts), and no part at all.
    CasebackError
        For an alphabet of fewer than two words or of repeated ones, and a function that answers nothing, the same word
        everywhere, or not once for each word.

    Notes
    -----
    Primer 6.33: Friedman et al. 2023. Theirs searches over seeds and sizes; regrown parts take the place of that. A
    program that is not found is no proof that there is none.

    Examples
    --------
    >>> count_so_far = lambda words: [str(words[: i + 1].count(word)) for i, word in enumerate(words)]
    >>> learned = learn_program(count_so_far, "ab", 4, layers=1, heads=0, lookups=0, restarts=8)
    >>> learned.accuracy
    1.0
    >>> learned.compile().predict([["a", "b", "a"]])
    [['1', '1', '2']]
    """
    alphabet = tuple(alphabet)
    counts = {"layers": layers, "max_length": max_length, "rounds": rounds, "steps": steps, "prompts": prompts}
    _expect(alphabet, (heads, counters, lookups), restarts, counts)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(len(alphabet), (2 * prompts + prompts // 2, max_length), generator=generator)
    texts = [[alphabet[i] for i in row] for row in ids.tolist()]
    wanted = [_answered(function, text) for text in texts]
    words = sorted({word for row in wanted for word in row if word is not None})
    if len(words) < 2:
        raise CasebackError(
            f"the function answers {words or 'nothing'} to {len(texts)} prompts: nothing is to be learned"
        )
    labels = torch.tensor([[-100 if word is None else words.index(word) for word in row] for row in wanted])
    train, choose = slice(prompts), slice(prompts, prompts + prompts // 2)
    codes = 1 + max(len(alphabet), max_length + bool(counters))
    shape = Shape(layers, heads, counters, lookups, codes, len(words))
    logits = draw(shape, restarts, generator)
    best, right, curve = logits, torch.zeros(restarts), []
    with progress_bar(what="learning a program", show=progress, total=rounds * steps) as bar:
        for _ in range(rounds):
            logits = _trained(shape, logits, ids[train], labels[train], steps, generator, bar.update)
            now = _right(shape, hardened(logits), ids[choose], labels[choose])
            if now.max() > right.max() or not curve:
                best, right = logits, now
            curve.append(float(right.max()))
            if curve[-1] == 1:
                break
            logits = _regrown(shape, logits, now, generator)
    equal = (right == right.max()).nonzero()[:, 0].tolist()
    programs = [_of(shape, best, restart, ids[train], labels[train] != -100, alphabet, words) for restart in equal]
    program = min(programs, key=lambda one: len(parts(one)))
    trained_on = {tuple(text) for text in texts[:prompts]}
    judge = range(prompts + prompts // 2, len(texts))
    judge = [row for row in judge if tuple(texts[row]) not in trained_on] or judge
    by_word = _by_word(texts[train], wanted[train])
    return LearnedProgram(
        program,
        alphabet,
        max_length,
        accuracy=_share([(interpret(program, texts[row]), wanted[row]) for row in judge]),
        chance=_share([([by_word.get(word) for word in texts[row]], wanted[row]) for row in judge]),
        rounds=curve,
    )


def _trained(
    shape: Shape,
    logits: Choices,
    ids: Int[Tensor, "batch pos"],
    labels: Int[Tensor, "batch pos"],
    steps: int,
    generator: torch.Generator,
    done: Callable[[], object],
) -> Choices:
    """The logits after one round of gradient descent."""
    logits = {name: x.clone().requires_grad_() for name, x in logits.items()}
    optimizer = torch.optim.Adam(logits.values(), lr=RATE)
    for step in range(steps):
        rows = torch.randint(len(ids), (DRAWN,), generator=generator)
        choices = sampled(logits, WARM * (COLD / WARM) ** (step / steps), generator)
        given = answers(shape, choices, ids[rows])
        wanted = labels[rows].expand(given.shape[:-1])
        # each restart's own mean loss: their gradients do not meet
        loss = cross_entropy(given.flatten(0, -2), wanted.flatten(), ignore_index=-100) * len(given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done()
    return {name: x.detach() for name, x in logits.items()}


@torch.no_grad()
def _right(
    shape: Shape, hard: Choices, ids: Int[Tensor, "batch pos"], labels: Int[Tensor, "batch pos"]
) -> Float[Tensor, " restart"]:
    """The share of answers that each restart has right."""
    there = labels != -100
    right = (answers(shape, hard, ids).argmax(-1) == labels) & there
    return right.sum((1, 2)) / there.sum()


def _regrown(shape: Shape, logits: Choices, right: Float[Tensor, " restart"], generator: torch.Generator) -> Choices:
    """The best restarts, and copies of them with some parts drawn anew."""
    restarts = len(right)
    stay = restarts // ONE_STAYS_OF
    of = right.argsort(descending=True)[:stay].repeat(-(-restarts // stay))[:restarts]
    fresh = draw(shape, restarts, generator)
    regrown = {}
    for part, names in shape.parts().items():
        anew = (torch.rand(restarts, generator=generator) < 0.5) & (torch.arange(restarts) >= stay)
        for name in (f"{part}.{one}" for one in names):
            x = logits[name][of]
            regrown[name] = torch.where(anew.view(-1, *[1] * (x.ndim - 1)), fresh[name], x)
    return regrown


def _of(
    shape: Shape,
    logits: Choices,
    restart: int,
    prompts: Int[Tensor, "batch pos"],
    asked: Bool[Tensor, "batch pos"],
    alphabet: Sequence[str],
    words: Sequence[str],
) -> Expression:
    hard = hardened({name: x[restart : restart + 1] for name, x in logits.items()})
    return as_program(shape, hard, prompts, asked, alphabet, words)


def _answered(function: Callable[[Sequence[str]], Sequence[str | None]], text: list[str]) -> list[str | None]:
    row = list(function(text))
    if len(row) != len(text):
        raise CasebackError(f"the function gives {len(row)} answers to {len(text)} words: expected one for each")
    return row


def _by_word(texts: Sequence[Sequence[str]], wanted: Sequence[Sequence[str | None]]) -> dict[str, str]:
    """The commonest answer to each word."""
    counts: dict[str, Counter[str]] = {}
    for text, row in zip(texts, wanted, strict=True):
        for word, answer in zip(text, row, strict=True):
            if answer is not None:
                counts.setdefault(word, Counter())[answer] += 1
    return {word: count.most_common(1)[0][0] for word, count in counts.items()}


def _share(rows: Sequence[tuple[Sequence[object], Sequence[str | None]]]) -> float:
    """How many of the answers that there are were given."""
    pairs = [(a, b) for given, wanted in rows for a, b in zip(given, wanted, strict=True) if b is not None]
    return sum(str(a) == b for a, b in pairs) / max(1, len(pairs))


def _expect(
    alphabet: tuple[str, ...],
    parts: tuple[int, int, int],
    restarts: int,
    counts: dict[str, int],
) -> None:
    """Refuse sizes of which no program can be learned."""
    if len(alphabet) < 2 or len(set(alphabet)) < len(alphabet):
        raise CasebackError(f"alphabet {alphabet}: expected two words or more, each once")
    for name, number in counts.items():
        if number < 1:
            raise OutOfRange(f"{name}={number}: expected 1 or more")
    if min(parts) < 0 or not sum(parts):
        raise OutOfRange(f"heads, counters, lookups={parts}: expected 0 or more of each, and some part")
    if restarts < ONE_STAYS_OF:
        raise OutOfRange(
            f"restarts={restarts}: expected {ONE_STAYS_OF} or more, of which a quarter stays after a round"
        )
