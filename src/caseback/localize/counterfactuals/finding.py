"""The smallest change of a prompt that moves its answer (B.40).

    share(x) = sigmoid(logit difference of target and foil after x)
    effect   = share(prompt) - share(version)                 the foil: what the model answers after the version
    size     = tokens changed + words not in the prompt + (surprise + lead) / 10
    score    = effect / size, halved where the foil is not of the target's kind

Surprise is how much less likely a word is where it now stands; lead is by how much logit the target leads the foil
after the prompt, since a foil that was never in question says that the version asks something else.

A version replaces a word by one that may stand there (``alternatives``), at one place or wherever it is said, or
exchanges two like words. All stand token against token. One sweep over replaced embeddings gives the logits at the end
of all versions, from which target, answers and foils are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import NothingToReplace, OutOfRange
from caseback.localize.counterfactuals.alternatives import Alternative, alternatives
from caseback.localize.counterfactuals.results import Change, Counterfactual, Counterfactuals
from caseback.localize.counterfactuals.swapping import one_prompt, rows_of
from caseback.localize.counterfactuals.words import Word, kind_of, words_of
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.running.metrics import Bound, Metric
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.targets import target_and_foil
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.sweeping.embedding_tree import replaced

NEW, SURPRISE = 1.0, 0.1


@technique(
    role="input attribution of another kind",
    entry=("B.40",),
    citation="Ross et al. 2021, Zhang & Nanda 2024",
    cost="a forward + about half a forward per version",
)
def find(
    model: Model,
    prompt: PromptsLike,
    *,
    target: str | int | None = None,
    foil: str | int | None = None,
    k: int = 8,
    most: int = 256,
    read: int = 24,
    least: float = 0.25,
    progress: bool = False,
) -> Counterfactuals:
    """Find counterfactuals of a prompt: small changes after which the model answers something else.

    A version moves the answer if its effect is at least ``least`` and the target then is less likely than the foil, or
    half as far ahead. Where no foil is given the model must also answer something else.

    Parameters
    ----------
    model
        The model. Without a tokenizer every token counts as a word of one kind.
    prompt
        One prompt: text, ids or ``Tokens``.
    target
        The token whose probability is to fall; by default the model's first choice.
    foil
        The token that is to gain; by default, for every version, what the model answers then.
    k
        How many words are tried in each word's place.
    most
        How many versions are measured: those of the least surprise.
    read
        Of how many the answer is looked at: those under which the target falls most by size.
    least
        The effect from which a version moves the answer, as a share of probability.
    progress
        Show a progress bar.

    Returns
    -------
    Counterfactuals
        The best first; its ``best`` is None where nothing that was tried moves the answer.

    Raises
    ------
    TokensError
        For several prompts; ``NothingToReplace`` for a prompt of one token, before which nothing can be changed.
    TargetError
        For what is not one token, or a foil that is the target.
    OutOfRange
        For numbers below 1, or a share outside 0 to 1.

    References
    ----------
    Ross et al. 2021, "Explaining NLP models via minimal contrastive editing (MiCE)"; Zhang & Nanda 2024, "Towards best
    practices of activation patching", for replacing tokens by others of their kind.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> search = find(model, "When Mary and John went to the store, John gave a drink to")
    >>> search.best.foil_text, [str(change) for change in search.best.changes]
    (' John', ['Mary → John (position 2)'])
    """
    expect_tokens_out(model.anatomy, "counterfactuals")
    if min(k, most, read) < 1 or not 0 < least <= 1:
        raise OutOfRange(f"k={k}, most={most}, read={read}, least={least}: expected 1 or more, and a share up to 1")
    tokens = one_prompt(model, prompt)
    length = int(tokens.lengths[0])
    logits = model.run(tokens).logits[0].detach()
    t, given = target_and_foil(model, logits[length - 1], target, foil)
    words = words_of(model, tokens)
    if length - sum(word.kind == "special" for word in words) < 2:
        raise NothingToReplace(
            f"the prompt is {length} token{'s' if length > 1 else ''} long ({''.join(tokens.text[0])!r}), of which at "
            "most one is its own: nothing before the answer can be replaced; give a longer prompt"
        )
    listed = alternatives(model, tokens, words, logits.float().log_softmax(-1), k)
    versions = sorted(_versions(words, listed), key=lambda version: version[3])[:most]
    if not versions:
        return _nothing(model, tokens, t, words)
    rows = np.stack([_row(tokens, changes) for changes, *_ in versions])
    after, before = logits_after(model, tokens, rows, progress=progress)
    score = (lambda x: x.log_softmax(-1)[..., t]) if foil is None else (lambda x: x[..., t] - x[..., given])
    drop = (score(before) - score(after)).cpu().double().numpy()
    telling = np.argsort([-fall / version[3] for fall, version in zip(drop, versions, strict=True)], kind="stable")
    telling = [int(i) for i in telling if versions[i][0][0].word.content][:read]
    firsts = after[telling].topk(2).indices.tolist()
    looked_at = []
    for i, (choice, second) in zip(telling, firsts, strict=True):
        changes, way, _, size = versions[i]
        f = given if foil is not None else choice if choice != t else second
        margins = [float(in_float64(x[t]) - in_float64(x[f])) for x in (before, after[i])]
        effect = _share(margins[0]) - _share(margins[1])
        same = model.tokenizer is None or _sort(model.token_text(f)) == _sort(model.token_text(t))
        moves = effect >= least and margins[1] < max(0.0, margins[0] / 2) and (foil is not None or choice != t)
        size += SURPRISE * max(0.0, margins[0])
        rank = effect / size * (1.0 if same else 0.5)
        one = rows_of(model, rows[i][None])
        looked_at.append(
            Counterfactual(
                *(one, changes, way, f, model.token_text(f), margins[0], margins[1], effect, size, rank, bool(moves))
            )
        )
    looked_at.sort(key=lambda one: (not one.moves, -one.score))
    single = [w if len(changes) == 1 else -1 for changes, _, w, _ in versions]
    text = model.token_text(t)
    return Counterfactuals(tokens, t, text, tuple(looked_at), tuple(words), rows, np.array(single), drop, after)


def logits_after(
    model: Model, tokens: Tokens, rows: np.ndarray, *, progress: bool = False
) -> tuple[Float[Tensor, "version vocab"], Float[Tensor, " vocab"]]:
    """The logits at the end of versions of one prompt, (version, pos) token ids of its length, and of the prompt.

    Each token's alternatives are embedded once, and versions are run as a tree, so that what two share is run once.
    """
    own = tokens.ids[0].cpu().numpy()
    columns = [[int(own[p]), *dict.fromkeys(i for i in rows[:, p].tolist() if i != own[p])] for p in range(len(own))]
    deepest = max(map(len, columns))
    table = np.stack([[column[min(j, len(column) - 1)] for column in columns] for j in range(1, max(deepest, 2))])
    embed = execute(model.anatomy, rows_of(model, table), read=["embed"], logits=False)["embed"]
    number = [{i: j for j, i in enumerate(column)} for column in columns]
    choice = np.array([[number[p][i] for p, i in enumerate(row)] for row in rows.tolist()])[:, None]
    after, before = replaced(model.anatomy, tokens, choice, embed[:, None], _EVERY_LOGIT, progress=progress)
    return at_least_float32(after[:, 0]), at_least_float32(before[0])


_EVERY_LOGIT = Metric("logits", lambda tokens, *_: Bound(tokens.column(-1), None, lambda x, rows: x))
"""No number but a vector for each prompt: all logits at its end."""


Version = tuple[tuple[Change, ...], str, int, float]
"""What is changed, how, which word (of one that is replaced once), and the change's size."""


def _versions(words: Sequence[Word], listed: dict[int, list[Alternative]]) -> Iterator[Version]:
    by_text: dict[tuple[int, ...], list[int]] = {}
    for w, word in enumerate(words):
        if word.content and word.kind != "sign":
            by_text.setdefault(word.ids, []).append(w)
    for w, options in listed.items():
        for option in options:
            size = len(words[w].ids) + NEW * (not option.known) + SURPRISE * option.surprise
            yield (Change(words[w], option.text, option.ids),), "replacement", w, size
    for mentions in by_text.values():
        first = mentions[0]
        if len(mentions) < 2 or first not in listed:
            continue
        for option in listed[first]:
            changes = tuple(Change(words[w], option.text, option.ids) for w in mentions)
            tokens = sum(len(words[w].ids) for w in mentions)
            yield changes, "everywhere", -1, tokens + NEW * (not option.known) + SURPRISE * option.surprise
    kinds = list(by_text)
    for i, one in enumerate(kinds):
        for other in kinds[i + 1 :]:
            a, b = words[by_text[one][0]], words[by_text[other][0]]
            if a.like(b):
                changes = tuple(Change(words[w], b.text, b.ids) for w in by_text[one])
                changes += tuple(Change(words[w], a.text, a.ids) for w in by_text[other])
                yield changes, "swap", -1, float(sum(len(change.ids) for change in changes))


def _row(tokens: Tokens, changes: Sequence[Change]) -> np.ndarray:
    row = tokens.ids[0].cpu().numpy().copy()
    for change in changes:
        row[list(change.word.pos)] = change.ids
    return row


def _nothing(model: Model, tokens: Tokens, target: int, words: Sequence[Word]) -> Counterfactuals:
    empty = np.empty((0, tokens.ids.shape[1]), dtype=np.int64)
    none = np.empty(0, dtype=np.int64)
    text, after = model.token_text(target), torch.empty(0, model.d_vocab)
    return Counterfactuals(tokens, target, text, (), tuple(words), empty, none, none.astype(float), after)


def _sort(text: str) -> tuple[str, bool]:
    return kind_of(text), text[:1].isspace()


def _share(margin: float) -> float:
    return float(torch.tensor(margin, dtype=torch.float64).sigmoid())
