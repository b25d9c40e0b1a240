"""Interchange examples: a base prompt, the prompts that variables' values come from, and the answers.

base     "1 0 ="   answer 1         b
source   "0 0 ="   answer 0         s, one for each variable that is swapped
target   0                          what the causal model says of b with the variable's value from s
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from caseback.errors import CasebackError, TargetError, TokensError
from caseback.localize.abstraction.causal_model import CausalModel
from caseback.model.arguments import checked
from caseback.model.running.metrics import Target, target_ids
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.tasks.prompts import Prompts

TRIES = 200
"""Draws per example that is wanted, after which no more of its kind are expected."""


@checked
@dataclass(frozen=True, eq=False)
class Interchanges:
    """Examples of interchange interventions, ready to run.

    Attributes
    ----------
    base
        The prompts that are intervened on.
    sources
        For each variable the prompts that its value is taken from, one per base. They may differ in length from the
        base.
    target
        (batch,) token ids of the answers that the causal model gives after the interchange.
    base_target
        (batch,) those that it gives for the base itself.
    swapped
        For each variable, in which examples it is swapped; in all of them where it is not named.
    pos
        The position of the base whose next token is the answer; the last by default.
    counterfactual
        Prompts whose own answer is ``target``, where there are such: needed to train a proxy alone.
    """

    base: Tokens
    sources: Mapping[str, Tokens]
    target: Int[Tensor, " batch"]
    base_target: Int[Tensor, " batch"]
    swapped: Mapping[str, Bool[Tensor, " batch"]] = field(default_factory=dict)
    pos: int | Int[Tensor, " batch"] = -1
    counterfactual: Tokens | None = None

    def __post_init__(self) -> None:
        n = len(self.base)
        if not self.sources:
            raise CasebackError("an interchange needs a source: give the prompts that a variable's value comes from")
        counts: dict[str, int] = {f"sources of {name!r}": len(tokens) for name, tokens in self.sources.items()}
        counts |= {"targets": len(self.target), "base targets": len(self.base_target)}
        counts |= {f"entries of swapped[{name!r}]": len(on) for name, on in self.swapped.items()}
        if self.counterfactual is not None:
            counts["counterfactuals"] = len(self.counterfactual)
        for what, count in counts.items():
            if count != n:
                raise TokensError(f"{count} {what} for {n} base prompts: give one for each")
        unknown = [name for name in self.swapped if name not in self.sources]
        if unknown:
            raise CasebackError(f"swapped names {unknown[0]!r}, which has no source: {', '.join(self.sources)} have")

    def __len__(self) -> int:
        return len(self.base)

    @property
    def changes(self) -> Bool[Tensor, " batch"]:
        """Whether the interchange changes the answer."""
        return self.target != self.base_target

    @property
    def variables(self) -> tuple[str, ...]:
        """Those that have sources."""
        return tuple(self.sources)

    def on(self, variable: str) -> Bool[Tensor, " batch"]:
        """In which examples a variable is swapped."""
        known = self.swapped.get(variable)
        return torch.ones(len(self), dtype=torch.bool) if known is None else known.cpu()

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Interchanges:
        """Some of the examples."""
        picked = torch.arange(len(self))[rows if isinstance(rows, slice | Tensor) else list(rows)]
        return replace(
            self,
            base=self.base[picked],
            sources={name: tokens[picked] for name, tokens in self.sources.items()},
            target=self.target[picked],
            base_target=self.base_target[picked],
            swapped={name: on[picked] for name, on in self.swapped.items()},
            pos=self.pos[picked] if isinstance(self.pos, Tensor) and self.pos.ndim else self.pos,
            counterfactual=None if self.counterfactual is None else self.counterfactual[picked],
        )

    def split(self, held_out: float, seed: int = 0) -> tuple[Interchanges, Interchanges]:
        """The examples in two parts, drawn by chance: those to search on, and a share that is held out.

        Raises
        ------
        CasebackError
            Where one of the parts would be empty.
        """
        searched, reserved = self.split_rows(held_out, seed)
        return self[searched], self[reserved]

    def split_rows(self, held_out: float, seed: int = 0) -> tuple[Int[Tensor, " some"], Int[Tensor, " others"]]:
        """Which examples ``split`` puts into which part."""
        reserved = round(held_out * len(self))
        if not 0 < reserved < len(self):
            raise CasebackError(f"held_out={held_out} of {len(self)} examples leaves a part empty: give more, or both")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return order[reserved:], order[:reserved]

    def __add__(self, other: Interchanges) -> Interchanges:
        """The examples of both, of the same variables: what a search over several tasks is trained on."""
        if set(self.sources) != set(other.sources):
            raise CasebackError(
                f"examples of {', '.join(self.sources)} and of {', '.join(other.sources)}: expected the same variables"
            )
        both = (self, other)
        cf = [d.counterfactual for d in both]
        pos = [torch.as_tensor(d.pos).expand(len(d)) for d in both]
        return Interchanges(
            joined(self.base, other.base),
            {name: joined(tokens, other.sources[name]) for name, tokens in self.sources.items()},
            torch.cat([d.target for d in both]),
            torch.cat([d.base_target for d in both]),
            {name: torch.cat([d.on(name) for d in both]) for name in self.sources},
            torch.cat(pos),
            None if cf[0] is None or cf[1] is None else joined(cf[0], cf[1]),
        )

    @classmethod
    def of(
        cls,
        model: Model,
        base: PromptsLike,
        source: PromptsLike,
        target: Target,
        base_target: Target,
        *,
        variable: str = "variable",
        pos: int | Tensor = -1,
        counterfactual: PromptsLike | None = None,
    ) -> Interchanges:
        """Examples of one variable from prompts and answers as text or ids.

        Parameters
        ----------
        model
            The model. Its tokenizer is asked.
        base, source
            ``Tokens``, or anything that ``Model.tokens`` takes.
        target, base_target
            Single tokens as text or ids, one for all or one per prompt: the answer after the interchange and without
            it.
        variable, pos, counterfactual
            As the attributes.

        Examples
        --------
        >>> import caseback as cb
        >>> model = cb.load("meadow")
        >>> pair = "Mary gave the ball to", "John gave the ball to"
        >>> len(Interchanges.of(model, *pair, " Mary", " John"))
        1
        """
        base = model.tokens(base)
        answers = target_ids(target, base, model.tokenizer, model.d_vocab)
        own = target_ids(base_target, base, model.tokenizer, model.d_vocab, "base target")
        other = None if counterfactual is None else model.tokens(counterfactual)
        return cls(base, {variable: model.tokens(source)}, answers, own, pos=pos, counterfactual=other)

    @classmethod
    def of_pairs(cls, prompts: Prompts, *, variable: str = "variable", both_ways: bool = True) -> Interchanges:
        """Examples from a task's clean and corrupt prompts, of whatever makes their answers differ.

        Parameters
        ----------
        prompts
            What a task of ``cb.tasks`` draws. Each clean prompt is a base and its corrupt one the source, whose answer
            (``corrupt_target``, or the foil where the task has none) is the target.
        variable
            A name for what differs.
        both_ways
            Take each pair the other way round too.

        Raises
        ------
        CasebackError
            For prompts that have no single answer on both sides.

        Examples
        --------
        >>> import caseback as cb
        >>> pairs = cb.tasks.agreement().prompts(cb.load("meadow"), 8)
        >>> len(Interchanges.of_pairs(pairs))
        16
        """
        theirs = prompts.corrupt_target if all(prompts.corrupt_target) else prompts.foil
        for what, listed in (("answer", prompts.target), ("answer of the corrupt prompt", theirs)):
            wrong = next((i for i, ids in enumerate(listed) if len(ids) != 1), None)
            if wrong is not None:
                raise CasebackError(
                    f"example {wrong} of {prompts.task or 'these prompts'} has {len(listed[wrong])} tokens as {what}: "
                    "an interchange is judged by one answer each"
                )
        device = prompts.clean.ids.device
        mine, other = (torch.tensor([ids[0] for ids in listed], device=device) for listed in (prompts.target, theirs))
        forward = cls(prompts.clean, {variable: prompts.corrupt}, other, mine, counterfactual=prompts.corrupt)
        if not both_ways:
            return forward
        return forward + cls(prompts.corrupt, {variable: prompts.clean}, mine, other, counterfactual=prompts.clean)

    @classmethod
    def sample(
        cls,
        model: Model,
        causal: CausalModel,
        prompt: Callable[[dict[str, Any]], Any],
        variables: str | Sequence[str],
        count: int,
        *,
        answer: Callable[[Any], str | int] = str,
        changing: float | None = None,
        swap: str = "all",
        inputs: Iterable[dict[str, Any]] | None = None,
        seed: int = 0,
        padding: str = "right",
    ) -> Interchanges:
        """Draw examples from a causal model: inputs of a base and of one source for each variable.

        Parameters
        ----------
        model
            The model. Its tokenizer is asked.
        causal
            What the network is claimed to compute.
        prompt
            From a dictionary of inputs to a prompt, as text or ids.
        variables
            What is swapped: one variable, or several that each have a source of their own.
        count
            How many examples.
        answer
            From the output's value to the token that says it.
        changing
            The share of examples whose answer the interchange changes. None: whatever chance gives.
        swap
            ``"all"`` variables in every example, ``"one"`` of them, or ``"any"``: a random set, not empty.
        inputs
            Where inputs are drawn from; by default uniformly from all combinations. Must not end.
        seed
            Same seed, same result. It draws the inputs, and what is swapped.
        padding
            The side of the padding.

        Returns
        -------
        Interchanges
            With ``counterfactual`` where all variables are inputs, so that the counterfactual can be said as a prompt.

        Raises
        ------
        CasebackError
            For an unknown variable, or one whose value never differs between base and source: it has no
            counterfactual. Also where too few examples are of the kind asked for.

        Examples
        --------
        >>> from caseback.organisms.compiled import build
        >>> gate = build("or_gate")
        >>> causal = CausalModel({"a": "01", "b": "01"}, {"or": ("ab", lambda a, b: max(a, b))})
        >>> drawn = Interchanges.sample(gate.model, causal, lambda v: f"{v['a']} {v['b']} =", "a", 8, changing=0.5)
        >>> int(drawn.changes.sum())
        4
        """
        named = [variables] if isinstance(variables, str) else list(variables)
        for name in named:
            causal.expect(name)
        if count < 1 or not named or swap not in ("all", "one", "any"):
            raise CasebackError(
                f"count={count}, variables={named}, swap={swap!r}: expected at least one example and variable, and "
                "swap 'all', 'one' or 'any'"
            )
        draws = iter(causal.draws(seed) if inputs is None else inputs)
        chance = torch.Generator().manual_seed(seed)
        wanted = None if changing is None else {True: round(changing * count), False: count - round(changing * count)}
        examples: list[_Example] = []
        for _ in range(TRIES * count):
            if len(examples) == count:
                break
            one = _drawn(causal, draws, named, _chosen(named, swap, chance))
            if wanted is not None:
                if not wanted[one.target != one.base_target]:
                    continue
                wanted[one.target != one.base_target] -= 1
            examples.append(one)
        never = [name for name in named if not any(name in one.differing for one in examples)]
        if never and examples:
            raise CasebackError(
                f"the values of {never[0]!r} never differ between bases and sources in {len(examples)} examples: "
                "without a counterfactual nothing is swapped. Give inputs on which it varies, or draw more examples"
            )
        if len(examples) < count:
            raise CasebackError(
                f"only {len(examples)} of {count} examples were found, of which {changing:g} should change the answer: "
                "choose another changing=, or inputs on which the answer varies"
            )
        return _tokenized(cls, model, examples, prompt, named, answer, padding)


@dataclass(frozen=True)
class _Example:
    base: dict[str, Any]
    sources: dict[str, dict[str, Any]]
    swapped: frozenset[str]
    target: Any
    base_target: Any
    differing: frozenset[str]
    counterfactual: dict[str, Any] | None


def _chosen(named: list[str], swap: str, chance: torch.Generator) -> list[str]:
    if swap == "all" or len(named) == 1:
        return named
    if swap == "one":
        return [named[int(torch.randint(len(named), (), generator=chance))]]
    which = 1 + int(torch.randint(2 ** len(named) - 1, (), generator=chance))
    return [name for i, name in enumerate(named) if which >> i & 1]


def _drawn(causal: CausalModel, draws: Iterator[dict[str, Any]], named: list[str], chosen: list[str]) -> _Example:
    base = next(draws)
    sources = {name: next(draws) for name in named}
    own = causal.run(base)
    do = {name: causal.run(sources[name])[name] for name in chosen}
    whole = all(name in causal.inputs for name in chosen)
    return _Example(
        base,
        sources,
        frozenset(chosen),
        causal.run(base, do)[causal.output],
        own[causal.output],
        frozenset(name for name, value in do.items() if value != own[name]),
        {**base, **do} if whole else None,
    )


def _tokenized(
    cls: type[Interchanges],
    model: Model,
    examples: list[_Example],
    prompt: Callable[[dict[str, Any]], Any],
    named: list[str],
    answer: Callable[[Any], str | int],
    padding: str,
) -> Interchanges:
    tokens = lambda given: model.tokens([prompt(inputs) for inputs in given], padding=padding)  # noqa: E731
    base = tokens([one.base for one in examples])
    ids: dict[str | int, int] = {}

    def answer_id(value: Any) -> int:
        word = answer(value)
        if not isinstance(word, str | int):
            raise TargetError(f"answer= made {word!r} of the output {value!r}: expected a token's text or id")
        if word not in ids:
            ids[word] = model.token_id(word, "answer")
        return ids[word]

    whole = [one.counterfactual for one in examples]
    return cls(
        base,
        {name: tokens([one.sources[name] for one in examples]) for name in named},
        torch.tensor([answer_id(one.target) for one in examples], device=base.ids.device),
        torch.tensor([answer_id(one.base_target) for one in examples], device=base.ids.device),
        {name: torch.tensor([name in one.swapped for one in examples]) for name in named},
        counterfactual=None if any(w is None for w in whole) else tokens(whole),
    )


def joined(a: Tokens, b: Tokens) -> Tokens:
    """Prompts of two batches, padded to one width, on the left where the first, or else the second, is padded there."""
    left = bool((a.first > 0).any()) or (not a.padded and bool((b.first > 0).any()))
    width = max(a.ids.shape[1], b.ids.shape[1])

    def wide(tokens: Tokens) -> tuple[Tensor, Tensor]:
        tokens = tokens.padded_on("left" if left else "right")
        extra = width - tokens.ids.shape[1]
        pad = (extra, 0) if left else (0, extra)
        return torch.nn.functional.pad(tokens.ids, pad), torch.nn.functional.pad(tokens.mask, pad)

    ids, mask = zip(wide(a), wide(b.to(a.ids.device)), strict=True)
    return Tokens(torch.cat(ids), torch.cat(mask), a.text + b.text)
