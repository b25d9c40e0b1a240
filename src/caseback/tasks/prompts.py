"""Pairs of prompts, as text and as tokens.

A ``Pair`` is text: a clean prompt, its counterfactual, and the answers that count for and against. ``Prompts``, which
``align`` makes, is a batch of pairs under one tokenizer: tokens, answers as ids, positions by name, the metric.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.model.arguments import checked
from caseback.model.display import Displayed
from caseback.model.running import metrics
from caseback.model.running.metrics import Metric
from caseback.model.running.tokens import Tokens
from caseback.tasks.text import Text

MEASURES = ("logit_diff", "prob_diff", "log_prob", "logit", "prob", "loss")
Answer = str | int
"""What may follow a prompt: text with its leading space, or a token's id."""
LabeledRow = tuple[list[int], dict[str, list[int]]]
"""Token ids, and labels with one value for each."""


@dataclass(frozen=True)
class Pair:
    """One example as text.

    Attributes
    ----------
    clean, corrupt
        The prompt and its counterfactual.
    target, foil
        What may follow the clean prompt, and what it is contrasted with: text with its leading space, or token ids.
    corrupt_target
        What follows the corrupt prompt, where there is an answer.
    group
        The template or condition it comes from.
    """

    clean: Text
    corrupt: Text
    target: tuple[Answer, ...]
    foil: tuple[Answer, ...] = ()
    corrupt_target: tuple[Answer, ...] = ()
    group: str = ""

    @classmethod
    def of(
        cls,
        clean: str | Text,
        corrupt: str | Text,
        target: Answer | Iterable[Answer],
        foil: Answer | Iterable[Answer] = (),
        *,
        corrupt_target: Answer | Iterable[Answer] = (),
        group: str = "",
    ) -> Pair:
        """A pair from plain strings: a prompt without named words, an answer that is not in a tuple."""
        clean, corrupt = (Text(t) if isinstance(t, str) else t for t in (clean, corrupt))
        answers, against, other = (
            (a,) if isinstance(a, str | int) else tuple(a) for a in (target, foil, corrupt_target)
        )
        return cls(clean, corrupt, answers, against, other, group)


@dataclass(frozen=True, eq=False)
class Prompts(Displayed):
    """Aligned examples of one task, ready to run.

    Attributes
    ----------
    clean, corrupt
        Tokens of equal shape and mask.
    target, foil, corrupt_target
        Token ids, one list per example.
    pairs
        The examples as text.
    spans
        For each name, (batch, 2): the first and last position of its word in each example. ``end`` is the last token.
    measure
        The task's metric, one of ``MEASURES``.
    task
        The task's name.
    dropped
        How many fillers or examples were left out, by reason.
    """

    clean: Tokens
    corrupt: Tokens
    target: list[list[int]]
    foil: list[list[int]]
    corrupt_target: list[list[int]]
    pairs: list[Pair]
    spans: Mapping[str, Int[Tensor, "batch 2"]]
    measure: str = "logit_diff"
    task: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"Prompts({self.task or 'of no task'}, {len(self)} pairs, {self.measure})"

    def __getitem__(self, rows: int | slice | Sequence[int]) -> Prompts:
        """Some of the examples; padding that all of them share stays."""
        if isinstance(rows, int):
            rows = [rows]
        indices = list(range(len(self))[rows]) if isinstance(rows, slice) else [range(len(self))[i] for i in rows]
        take = lambda listed: [listed[i] for i in indices]  # noqa: E731
        return replace(
            self,
            clean=self.clean[indices],
            corrupt=self.corrupt[indices],
            target=take(self.target),
            foil=take(self.foil),
            corrupt_target=take(self.corrupt_target),
            pairs=take(self.pairs),
            spans={name: span[indices] for name, span in self.spans.items()},
        )

    @property
    def groups(self) -> list[str]:
        """Each example's template or condition."""
        return [pair.group for pair in self.pairs]

    @property
    def metric(self) -> Metric:
        """The task's metric on these answers; positive where the model prefers the clean prompt's answer."""
        return self.measured(self.measure)

    @checked
    def measured(self, measure: str, *, corrupt: bool = False) -> Metric:
        """Another metric on the same answers.

        Parameters
        ----------
        measure
            One of ``MEASURES``; ``"loss"`` is the whole prompt's, and the only one that falls as the model improves.
        corrupt
            Ask for the corrupt prompt's own answer instead.

        Raises
        ------
        CasebackError
            For an unknown measure, or one that needs single answers or a foil where the task has none.
        """
        if measure not in MEASURES:
            raise CasebackError(f"measure {measure!r} is unknown. {did_you_mean(measure, MEASURES)}")
        target = self.corrupt_target if corrupt else self.target
        if corrupt and not all(target):
            raise CasebackError(f"the corrupt prompts of {self.task or 'this task'} have no answer of their own")
        if measure == "loss":
            return metrics.loss()
        if measure == "prob_diff":
            return metrics.prob_diff(target, self.foil)
        if measure == "logit_diff":
            return metrics.logit_diff(self._single(target, "target"), self._single(self.foil, "foil"))
        return getattr(metrics, measure)(self._single(target, "target"))

    def _single(self, ids: list[list[int]], what: str) -> list[int]:
        several = next((i for i, row in enumerate(ids) if len(row) != 1), None)
        if several is not None:
            count, task = len(ids[several]), self.task or "this task"
            raise CasebackError(
                f"example {several} of {task} has {count} {what}s, this measure needs one: use measured('prob_diff')"
                if count
                else f"{task} has no {what}: use measured('log_prob') or another measure without one"
            )
        return [row[0] for row in ids]

    @checked
    def at(self, name: str) -> Int[Tensor, " batch"]:
        """The position of a named word's last token in each example.

        Parameters
        ----------
        name
            A name of ``spans``, or ``"end"``. ``.first`` after it takes the word's first token, ``+n`` or ``-n`` a
            neighbor: ``"subject.first"``, ``"S1+1"``.

        Raises
        ------
        CasebackError
            For an unknown name, or a neighbor outside a prompt.
        """
        match = re.fullmatch(r"(?P<name>.*?)(?P<first>\.first)?(?P<step>[+-]\d+)?", name)
        known = match["name"] if match else name
        if not match or known not in self.spans:
            raise CasebackError(f"no position is called {name!r}. {did_you_mean(known, self.spans)}")
        at = self.spans[known][:, 0 if match["first"] else 1] + int(match["step"] or 0)
        lengths = self.clean.lengths.to(at.device)
        outside = (at < 0) | (at >= lengths)
        if bool(outside.any()):
            row = int(outside.int().argmax())
            raise CasebackError(
                f"{name!r} is position {int(at[row])} of example {row}, which has {int(lengths[row])} tokens: "
                "take a nearer neighbor"
            )
        return at

    @checked
    def documents(self, *, corrupt: bool = False) -> list[LabeledRow]:
        """The prompts as a corpus, with labels at each token.

        Parameters
        ----------
        corrupt
            The corrupt prompts.

        Returns
        -------
        list
            Of each prompt (ids, labels), as ``caseback.stream.collect`` takes them: ``role`` says of which word of
            ``spans`` a token is, by its place there, -1 of none; ``group`` which of ``groups``, in the order in which
            they are first met, the prompt is of.

        Examples
        --------
        >>> import caseback as cb
        >>> from caseback import stream, tasks
        >>> model = cb.load("meadow")
        >>> prompts = tasks.get("ioi").prompts(model, 8)
        >>> table = {"neuron_groups": {"groups": (f"label:role:{len(prompts.spans)}",)}}
        >>> collection = stream.collect(model, prompts.documents(), [table])
        >>> collection.n_tokens == int(prompts.clean.lengths.sum())
        True
        """
        tokens = self.corrupt if corrupt else self.clean
        groups = list(dict.fromkeys(self.groups))
        documents = []
        for row, (ids, mask) in enumerate(zip(tokens.ids, tokens.mask, strict=True)):
            own = ids[mask].tolist()
            role = [-1] * len(own)
            # what a word ends the prompt with is the word's, so that the end is written before the others
            for name in sorted(self.spans, key=lambda name: name != "end"):
                first, last = self.spans[name][row].tolist()
                role[first : last + 1] = [list(self.spans).index(name)] * (last + 1 - first)
            documents.append((own, {"role": role, "group": [groups.index(self.groups[row])] * len(own)}))
        return documents

    @checked
    def to(self, device: torch.device | str) -> Prompts:
        """The same on another device."""
        return replace(self, clean=self.clean.to(device), corrupt=self.corrupt.to(device))
