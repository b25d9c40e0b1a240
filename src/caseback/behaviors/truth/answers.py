"""What a model answers, and whether it is right: the examples on which detectors of untruthful answers are judged.

    text = prompt + the model's own greedy answer          true = the answer begins with the fact's

Beside each answer stand k sampled ones, with their log probabilities and states, for scores that compare them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.behaviors.truth.batches import Marked, Reading, read_all
from caseback.behaviors.truth.confidence import NAMES, confidence_reading
from caseback.behaviors.truth.eigenscore import expect_samples
from caseback.behaviors.truth.semantic_entropy import plain_words
from caseback.decode.states import of_like_length
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.tasks.prompts import Pair
from caseback.tasks.statements import Statements

STOPS = (".", "\n")


@dataclass(frozen=True, eq=False)
class Samples:
    """Several answers to each question.

    Attributes
    ----------
    texts
        Of each question k answers.
    log_prob, mean_log_prob
        (batch, k), nats: of the whole answer, and by token.
    states
        (batch, k, d): the middle layer's stream at each answer's last token.
    """

    texts: list[list[str]]
    log_prob: Float[Tensor, "batch k"]
    mean_log_prob: Float[Tensor, "batch k"]
    states: Float[Tensor, "batch k d"]

    def __len__(self) -> int:
        return len(self.texts)

    def of(self, rows: Sequence[int]) -> Samples:
        """Those of some questions."""
        at = torch.as_tensor(rows, dtype=torch.long)
        parts = (x[at.to(x.device)] for x in (self.log_prob, self.mean_log_prob, self.states))
        return Samples([self.texts[i] for i in rows], *parts)

    def __repr__(self) -> str:
        return f"Samples({len(self)} questions, {self.log_prob.shape[1]} answers each)"


@technique(
    entry=("5.4.20",),
    citation="Chen C. et al. 2024; Kuhn et al. 2023",
    cost="a pass over each prompt, k decodings, and a forward of each different answer",
)
def sample_answers(
    model: Model,
    prompts: Sequence[str],
    k: int = 10,
    *,
    max_new_tokens: int = 8,
    temperature: float = 0.5,
    top_p: float = 0.99,
    top_k: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> Samples:
    """Draw several answers to each prompt, with their log probabilities and states.

    Parameters
    ----------
    model
        The model. It needs a tokenizer.
    prompts
        Texts that end where an answer begins.
    k
        How many answers; 10 in the paper.
    max_new_tokens
        Of how many tokens an answer is at most; it also ends behind a full stop or a line.
    temperature, top_p, top_k
        How tokens are drawn; the defaults are those of EigenScore's authors.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    Samples
        ``eigenscore(samples.states)`` and ``semantic_entropy(samples.texts, samples.mean_log_prob)`` take them.

    Raises
    ------
    OutOfRange
        For fewer than two answers.
    CasebackError
        For no prompts.
    TokensError
        For a prompt that leaves no room in the context.

    Notes
    -----
    Entry 5.4.20. Probabilities are the model's own, whatever the temperature that answers were drawn at.

    Examples
    --------
    >>> import caseback as cb
    >>> samples = sample_answers(cb.load("meadow"), ["The capital of Italy is"], 3, max_new_tokens=2)
    >>> samples.states.shape, samples.texts[0][0]
    (torch.Size([1, 3, 160]), ' Rome.')
    """
    expect_samples(k)
    if not (0.01 <= temperature <= 100 and 0 < top_p <= 1 and top_k >= 0):
        raise OutOfRange(
            f"temperature {temperature}, top_p {top_p}, top_k {top_k}: expected 0.01 to 100, up to 1, 0 or more"
        )
    how = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k, "num_return_sequences": k}
    given = _generated(model, prompts, max_new_tokens, progress, seed=seed, **how)
    # the paper counts the embedding among hidden states: of L + 1 the one at half
    middle = Site("resid_post", max(0, (model.n_layers + 1) // 2 - 1))
    state = Reading([middle], lambda run, some: at_least_float32(run[middle][some.row, some.last]))
    distinct, number = _distinct(given)
    readings = {"state": state, "sure": confidence_reading(model)}
    read = read_all(model, given.rows(distinct), readings, progress=progress)
    read = {name: x[number].unflatten(0, (len(prompts), k)) for name, x in read.items()}
    sure = read["sure"]
    answered = _answer_texts(model, given)
    return Samples(
        [answered[i : i + k] for i in range(0, len(answered), k)],
        sure[..., NAMES.index("log_prob")],
        sure[..., NAMES.index("mean_log_prob")],
        read["state"],
    )


@technique(
    entry=("5.4.20",), citation="Chen C. et al. 2024; Yuksekgonul et al. 2024", cost="one generation of each prompt"
)
def model_answers(
    model: Model,
    facts: Sequence[Pair],
    *,
    each: int = 40,
    max_new_tokens: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> Statements:
    """Let a model answer questions of which the answer is known, and say which of its answers are right.

    Parameters
    ----------
    model
        The model. It needs a tokenizer.
    facts
        Prompts with their answer as ``target`` and their relation as ``group``, as ``facts_of_files`` and
        ``world_facts`` give them.
    each
        At most so many of a relation.
    max_new_tokens
        Of how many tokens an answer is at most; it also ends behind a full stop or a line.
    seed
        Same seed, same result. Facts are drawn with it.
    progress
        Show a progress bar.

    Returns
    -------
    Statements
        Each a prompt with the model's greedy answer, which is ``true`` where it begins with the fact's words (but for
        case, articles and punctuation).

    Raises
    ------
    CasebackError
        For no facts, and facts of token ids.

    Examples
    --------
    >>> import caseback as cb
    >>> answers = model_answers(cb.load("meadow"), cb.behaviors.world_facts(["capital"]), each=4, max_new_tokens=2)
    >>> bool(answers.true.all()), answers.texts[0].split()[-2]
    (True, 'is')
    """
    if not facts:
        raise CasebackError("no facts are given: expected prompts with answers")
    if each < 1:
        raise OutOfRange(f"each={each}: expected 1 or more")
    rng = np.random.default_rng(seed)
    chosen: list[Pair] = []
    for topic in dict.fromkeys(pair.group for pair in facts):
        own = list({pair.clean.text: pair for pair in reversed(facts) if pair.group == topic}.values())
        chosen += [own[i] for i in rng.permutation(len(own))[:each]]
    right: dict[tuple[str, str], list[str]] = {}
    for pair in facts:
        for answer in pair.target:
            if not isinstance(answer, str) or pair.clean.ids is not None:
                raise CasebackError(f"{pair.clean.text!r} is given as token ids: expected text")
            right.setdefault((pair.group, pair.clean.text), []).append(plain_words(answer))
    prompts = [pair.clean.text for pair in chosen]
    given = _generated(model, prompts, max_new_tokens, progress, do_sample=False)
    answered = _answer_texts(model, given)
    spoken = [bool(text.strip()) for text in answered]  # an answer of nothing but spaces is no text to read
    rows = [i for i, some in enumerate(spoken) if some]
    true = [
        any(
            f"{plain_words(answered[i])} ".startswith(f"{words} ")
            for words in right[chosen[i].group, chosen[i].clean.text]
        )
        for i in rows
    ]
    return Statements(
        [prompts[i] + answered[i].rstrip() for i in rows],
        np.array(true, dtype=bool),
        [chosen[i].group for i in rows],
        np.zeros(len(rows), dtype=bool),
        np.array(rows),
        [chosen[i].clean.spans.get("subject") for i in rows],
        [len(prompts[i]) for i in rows],
    )


def _generated(
    model: Model, prompts: Sequence[str], max_new_tokens: int, progress: bool, seed: int = 0, **how: Any
) -> Marked:
    """Prompts with what was generated behind them, in order, and where it begins."""
    if not prompts:
        raise CasebackError("no prompts are given: expected texts that end where an answer begins")
    tokens = model.tokens(list(prompts)).padded_on("right")
    k = int(how.get("num_return_sequences", 1))
    budget = max(1, limit("stream_tokens", model.device) // k)
    rows: dict[int, list[tuple[list[int], list[str]]]] = {}
    batches = of_like_length(tokens, budget)
    for number, at in enumerate(progress_bar(batches, "generate", show=progress, unit="batch")):
        some = tokens[at].padded_on("left")
        whole = model.generate(some, max_new_tokens=max_new_tokens, seed=seed + number, stop_strings=list(STOPS), **how)
        for j, (ids, mask, text) in enumerate(zip(whole.ids.tolist(), whole.mask.tolist(), whole.text, strict=True)):
            own = [i for i, real in zip(ids, mask, strict=True) if real]
            rows.setdefault(int(at[j // k]), []).append((own, text))
    ordered = [row for i in range(len(prompts)) for row in rows[i]]
    width = max(len(ids) for ids, _ in ordered)
    ids = torch.zeros(len(ordered), width, dtype=torch.long)
    mask = torch.zeros(len(ordered), width, dtype=torch.bool)
    for i, (own, _) in enumerate(ordered):
        ids[i, : len(own)], mask[i, : len(own)] = torch.tensor(own), True
    device = tokens.ids.device
    whole = Tokens(ids.to(device), mask.to(device), [text for _, text in ordered])
    start = tokens.lengths.repeat_interleave(k)
    return Marked(whole, torch.zeros_like(whole.mask), start)


def _distinct(given: Marked) -> tuple[Int[Tensor, " text"], Int[Tensor, " batch"]]:
    """Texts that differ, or where their answer begins does, each by its first row; and of each row which one it is."""
    ids = given.tokens.ids.masked_fill(~given.tokens.mask, -1)
    number = torch.unique(torch.cat([ids, given.start[:, None]], 1), dim=0, return_inverse=True)[1]
    first = torch.full_like(number[: int(number.max()) + 1], len(number))
    return first.scatter_reduce_(0, number, given.row, "amin"), number


def _answer_texts(model: Model, given: Marked) -> list[str]:
    """What was generated, as text, up to the first full stop or line and that stop with it."""
    tokens = given.tokens
    listed = [row[mask].tolist() for row, mask in zip(tokens.ids, tokens.mask, strict=True)]
    decode = model.tokenizer.batch_decode
    befores = decode([ids[:first] for ids, first in zip(listed, given.start.tolist(), strict=True)])
    wholes = decode(listed, skip_special_tokens=False)
    return [whole[len(before) :] for whole, before in zip(wholes, befores, strict=True)]
