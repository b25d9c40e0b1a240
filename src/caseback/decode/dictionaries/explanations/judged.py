"""Explanations put to the test by a judge that says how likely a yes is: a language model in hand, or any function.

    detect     "fires at E. Text: …  Does it fire in this text?"           asked of windows in which it fires, or not
    fuzz       "fires at E. Text: … <<marked>> …  Does it fire at the marked words?"
               marked: the tokens that fire, or as many others of such windows
    auroc      P(p_yes | yes  >  p_yes | no) + P(equal) / 2          no threshold, so no bias of the judge to yes or no
    chance     1/2 + 1.645 sqrt((a + b + 1) / (12 a b))              passed once in twenty by a judge that knows nothing

A local model need not write anything: p_yes = P(yes) / (P(yes) + P(no)) of the next token. The same questions with
another feature's explanation stand beside: a judge is worth what lies between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import sparse

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.explanations.corpus_codes import CorpusTokens, codes_over, corpus_tokens
from caseback.decode.dictionaries.measures.replacement import splice_of
from caseback.decode.directions.find import auroc
from caseback.decode.vocabulary.activating.scores import balanced_accuracy
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.jobs.budget import limit
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.sites import Site
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.verify import unembed
from caseback.stream.documents import Corpus

Judge = Callable[[Sequence[str]], Sequence[float]]
"""From questions to how likely a yes is, each from 0 to 1."""

_SHOTS = {
    "detect": (
        ("Does it fire in this text?", ("The dog ran home.", "Yes"), ("She sang a song.", "No")),
        "the word ' dog'",
    ),
    "fuzz": (
        (
            "Does it fire at the words marked << >>?",
            ("The<< dog>> ran home.", "Yes"),
            ("The dog ran<< home>>.", "No"),
        ),
        "the word ' dog'",
    ),
}


_NAMES = {"detect": "detection", "fuzz": "fuzzing"}


@checked
def local_judge(model: Model, *, batch_size: int | None = None) -> Judge:
    r"""A judge that is a language model in hand: how likely the next token is a yes, of yes and no.

    Parameters
    ----------
    model
        Any causal model with a tokenizer.
    batch_size
        Questions of one pass; by default as the budget has it.

    Returns
    -------
    Judge
        A function of questions.

    Raises
    ------
    CasebackError
        For a model without a tokenizer, or one whose tokenizer has no single token for yes and no.

    Examples
    --------
    >>> import caseback as cb
    >>> judge = local_judge(cb.load("meadow"))
    >>> [0 <= p <= 1 for p in judge(["Is it cold?\nAnswer:", "Is it hot?\nAnswer:"])]
    [True, True]
    """
    size = limit("interchange_prompts", given=batch_size)
    if model.tokenizer is None:
        raise CasebackError("this model has no tokenizer: it cannot read a question")
    words = {side: [f"{space}{word}" for word in (side, side.title()) for space in (" ", "")] for side in ("yes", "no")}
    sides = []
    for forms in words.values():
        pieces = [model.tokenizer(form, add_special_tokens=False)["input_ids"] for form in forms]
        ids = sorted({ids[0] for ids in pieces if len(ids) == 1})
        if not ids:  # a small vocabulary: the word's first piece
            ids = sorted({ids[0] for ids in pieces if ids})
        sides.append(ids)
    yes, no = (torch.tensor([i for i in side if i not in other]) for side, other in (sides, sides[::-1]))
    if not len(yes) or not len(no):
        raise CasebackError("yes and no begin with the same tokens here: this model cannot answer by its next token")

    last = Site("resid_post", model.n_layers - 1)
    ids = torch.cat([yes, no])

    def judge(questions: Sequence[str]) -> list[float]:
        shares: list[float] = []
        for first in range(0, len(questions), size):
            try:
                tokens = model.tokens(list(questions[first : first + size]))
                states = execute(model.anatomy, tokens, read=[last], logits=False)[last]
            except TokensError as error:
                raise TokensError(
                    f"{model.name} cannot read a question: {error}. Questions hold examples, a window and an "
                    "explanation: take shorter windows, or a judge with a longer context"
                ) from error
            ends = states[torch.arange(len(tokens)), tokens.column(-1).to(states.device)]
            with torch.no_grad():
                logits = widened(unembed(model.anatomy, ends, ids))
            levels = [part.logsumexp(-1) for part in logits.split([len(yes), len(no)], -1)]
            shares += torch.sigmoid(levels[0] - levels[1]).tolist()
        return shares

    return judge


@technique(
    entry=("4.2.16", "B.13"),
    citation="Paulo et al. 2024; Karvonen et al. 2025",
    cost="one pass over the corpus, and 8 n questions a feature for the judge",
)
def judge_explanations(
    model: Model,
    dictionary: Dictionary,
    corpus: Corpus,
    explanations: Mapping[int, str],
    judge: Judge,
    *,
    n: int = 10,
    window: int = 32,
    level: float = 0.01,
    length: int | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Ask a judge where features fire, given what is said of them.

    Parameters
    ----------
    model
        The model whose states the dictionary reads.
    dictionary
        It must say its site.
    corpus
        Texts on which the explanations were not made, or the path of a file or folder of them.
    explanations
        By feature, what it is said to fire at: people's, a list of conditions from ``explain_features``, a chat's.
    judge
        Who answers: ``local_judge(model)``, or any function from questions to how likely a yes is. It is asked some
        questions at a time.
    n
        Windows in which a feature fires, drawn over all strengths, and as many in which it does not.
    window
        Tokens of a window; Delphi's 32.
    level
        A feature fires where its code is above this share of its largest.
    length
        Tokens of a row at most; 128 by default, or the model's context where that is shorter.
    seed
        Same seed, same result. It draws windows, marks, and whose explanation is the other.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption. The judge must have a name.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        By ``feature``: ``detection`` and ``fuzzing``, balanced accuracies where more than a half is a yes;
        ``detection_auroc`` and ``fuzzing_auroc``, which no threshold enters; each again with ``_of_another``, the
        explanation of another of the features; ``detection_chance`` and ``fuzzing_chance``, the area that a judge who
        knows nothing passes once in twenty at so few questions; ``windows`` in which it fires, of which NaN scores had
        too few (2), and ``explanation``. Attribute ``asked``, how many questions.

    Raises
    ------
    CasebackError
        For no explanations, a judge that does not answer each question by a number from 0 to 1, a corpus of fewer than
        two documents, a dictionary that does not say its site, and a checkpoint of other questions or another judge.
    OutOfRange
        For a feature that there is not, and sizes that leave nothing.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> model = cb.load("meadow")
    >>> texts = [f"{name} went to the {place}." for name in ("Mary", "John") for place in ("store", "garden")]
    >>> one = TopK(160, 320, k=40, facts=Facts(site="resid_post.0"))
    >>> says = {i: "the end of a sentence" for i in range(320)}
    >>> table = judge_explanations(model, one, texts, says, lambda asked: [0.5] * len(asked), n=2, window=4)
    >>> float(table.detection_auroc.mean())
    0.5
    """
    if not explanations:
        raise CasebackError("there is nothing to judge: give explanations by feature")
    if beyond := [i for i in explanations if not 0 <= i < dictionary.n_features]:
        raise OutOfRange(f"feature {beyond[0]}: there are {dictionary.n_features}, 0 to {dictionary.n_features - 1}")
    if n < 1 or window < 2 or not 0 <= level < 1:
        raise OutOfRange(f"n {n}, window {window}, level {level}: expected 1, 2 and a share from 0 to 1")
    site = splice_of(model, "the dictionary", dictionary).site
    tokens = corpus_tokens(model, corpus, length)
    codes: Any = sparse.csc_matrix(codes_over(model, site, {"": dictionary}, tokens, progress=progress)[""])
    texts = _Windows(model, tokens, window)
    features = list(explanations)
    draw = np.random.default_rng(seed)
    cases = [_cases(codes[:, i].toarray().ravel(), texts, n, level, draw) for i in features]
    order = draw.permutation(len(features))
    other = np.empty(len(features), dtype=int)
    other[order] = np.roll(order, 1)
    whose = {"": range(len(features))} | ({"_of_another": other.tolist()} if len(features) > 1 else {})
    asked = [(kind, suffix, b, j) for kind in _NAMES for suffix, of in whose.items() for b, j in enumerate(of)]
    questions = [
        _question(kind, explanations[features[j]], text) for kind, _, b, j in asked for text, _ in cases[b][kind]
    ]
    file = Checkpoint(
        checkpoint, {"questions": questions, "judge": judge}, other="has other questions or another judge"
    )
    shares = _answers(judge, questions, file, progress)
    ends = np.cumsum([len(cases[b][kind]) for kind, _, b, _ in asked])
    scores: dict[str, np.ndarray] = {}
    for (kind, suffix, b, _), p in zip(asked, np.split(shares, ends[:-1]), strict=True):
        y = np.array([answer for _, answer in cases[b][kind]], dtype=bool)
        parts = {suffix: 0, f"_auroc{suffix}": 1} | ({"_chance": 2} if not suffix else {})
        for ending, part in parts.items():
            column = scores.setdefault(f"{_NAMES[kind]}{ending}", np.full(len(features), np.nan))
            column[b] = _scores(p, y)[part]
    arrays: dict[str, Any] = {name: (["feature"], values) for name, values in scores.items()}
    arrays["windows"] = ["feature"], np.array([case["windows"] for case in cases])
    arrays["explanation"] = ["feature"], np.array([explanations[i] for i in features], dtype=object)
    attrs = {"asked": len(questions), "n": n, "window": window, "level": level, "seed": seed, "site": str(site)}
    of = labelled(scores["detection"], ["feature"], technique=judge_explanations, model=model, **attrs).attrs
    return xr.Dataset(arrays, {"feature": features}, of)


class _Windows:
    """A corpus in windows, as text with some tokens marked or none."""

    def __init__(self, model: Model, tokens: CorpusTokens, size: int):
        self.starts = tokens.windows(size)
        self.ends = np.append(self.starts[1:], len(tokens.ids))
        self.ids, self.word = tokens.ids, model.token_text

    def text(self, number: int, marked: Sequence[int] = ()) -> str:
        at = range(self.starts[number], self.ends[number])
        parts = [f"<<{self.word(int(self.ids[i]))}>>" if i in marked else self.word(int(self.ids[i])) for i in at]
        return "".join(parts).replace(">><<", "")


def _cases(codes: np.ndarray, texts: _Windows, n: int, level: float, draw: np.random.Generator) -> dict[str, Any]:
    """Texts with the right answers, for both questions; none where it fires in all windows or in fewer than 2."""
    fires = codes > level * max(float(codes.max(initial=0)), 1e-30)
    per_window = np.add.reduceat(fires.astype(int), texts.starts)
    active, quiet = np.flatnonzero(per_window > 0), np.flatnonzero(per_window == 0)
    detect: list[tuple[str, bool]] = []
    fuzz: list[tuple[str, bool]] = []
    if len(active) >= 2 and len(quiet):
        some, none = (draw.permutation(each)[:n] for each in (active, quiet))
        detect = [(texts.text(i), True) for i in some] + [(texts.text(i), False) for i in none]
        for i in some:
            at = np.arange(int(texts.starts[i]), int(texts.ends[i]))
            right, wrong = at[fires[at]], at[~fires[at]]
            if len(wrong):
                drawn = draw.permutation(wrong)[: len(right)]
                fuzz += [(texts.text(i, right.tolist()), True), (texts.text(i, drawn.tolist()), False)]
    return {"detect": detect, "fuzz": fuzz, "windows": len(active)}


def _question(kind: str, explanation: str, text: str) -> str:
    (question, *shots), word = _SHOTS[kind]
    asked = [(word, shown, f" {answer}") for shown, answer in shots] + [(explanation, text.strip("\n"), "")]
    return "\n\n".join(
        f"A feature fires at: {what}\nText: {shown}\nQuestion: {question}\nAnswer:{answer}"
        for what, shown, answer in asked
    )


def _answers(judge: Judge, questions: Sequence[str], file: Checkpoint, progress: bool) -> np.ndarray:
    """What a judge says to all questions, some at a time; what an earlier call heard is not asked again."""
    saved = file.read()
    shares = np.zeros(0) if saved is None else saved.tensors["shares"].numpy()
    size = limit("interchange_prompts")
    with progress_bar(total=len(questions), initial=len(shares), what="judge", unit="question", show=progress) as bar:
        for first in range(len(shares), len(questions), size):
            some = list(questions[first : first + size])
            shares = np.concatenate([shares, _shares(judge(some), len(some))])
            file.write({"shares": shares})
            bar.update(len(some))
    return shares


def _shares(answers: Any, count: int) -> np.ndarray:
    try:
        shares = np.asarray(answers, dtype=float)
    except (TypeError, ValueError):
        shares = np.zeros(0)
    if shares.shape != (count,) or not ((shares >= 0) & (shares <= 1)).all():
        raise CasebackError(f"the judge answered {count} questions otherwise: expected a number from 0 to 1 each")
    return shares


def _scores(p: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Balanced accuracy at a half, the area under the curve, and which area chance passes once in twenty."""
    if y.all() or not y.any():
        return np.nan, np.nan, np.nan
    area = auroc(torch.from_numpy(p)[None], torch.from_numpy(y))
    a, b = int(y.sum()), int((~y).sum())
    chance = min(1.0, 0.5 + 1.645 * ((a + b + 1) / (12 * a * b)) ** 0.5)
    return balanced_accuracy((p > 0.5).tolist(), y.tolist()), float(area[0]), chance
