"""From a program to an organism: a model that computes it, with its answer book.

    infer (what each expression can be)  ->  plan (which component writes it, which read it)  ->  weights and circuit

The plain-Python meaning of the program is the organism's ``function``; it plays no part in the compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.organisms.compiled.infer import infer
from caseback.organisms.compiled.interpret import interpret
from caseback.organisms.compiled.language import Expression, ProgramError
from caseback.organisms.compiled.organism import BOS, Organism, legible
from caseback.organisms.compiled.plan import lay_out
from caseback.organisms.compiled.written import labelled, write

ANSWER = 10.0
"""The answer's logit; that of every other word is 0."""


@checked
def compile_program(
    program: Expression,
    *,
    alphabet: Sequence[str],
    max_length: int,
    name: str = "program",
    about: str = "",
    sources: Callable[[Sequence[str], int], set[int]] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Organism:
    """Compile a program to a model that computes it on every prompt up to a length.

    Parameters
    ----------
    program
        A categorical expression; the model predicts its value at each word, written as text. Where the value is
        ``None``, any prediction will do.
    alphabet
        The words that a prompt may consist of.
    max_length
        The longest prompt, in words.
    name, about, sources
        As in ``Organism``.
    dtype
        The weights' type.

    Returns
    -------
    Organism
        Its circuit holds each edge along which anything is read; its variables are the program's expressions, each
        both where it is written and in the stream from there on.

    Raises
    ------
    ProgramError
        If the program does not type-check; the text names the expression.
    CasebackError
        For an alphabet that repeats a word, or a length below 1.

    Notes
    -----
    Primer 6.31 and 6.32: Weiss et al. 2021, Lindner et al. 2023.

    Examples
    --------
    >>> from caseback.organisms.compiled.language import Aggregate, Select, indices, tokens
    >>> first = Aggregate(Select(indices, indices, lambda key, query: key == 0), tokens).named("first word")
    >>> organism = compile_program(first, alphabet="abc", max_length=5)
    >>> organism.predict([["b", "a", "c"]])
    [['b', 'b', 'b']]
    >>> print(*sorted(map(str, organism.circuit.edges)))
    L0H0 -> logits embed -> L0H0.v pos_embed -> L0H0.k
    """
    alphabet = tuple(alphabet)
    if max_length < 1 or not alphabet or len(set(alphabet)) < len(alphabet):
        raise CasebackError(
            f"alphabet {alphabet} and max_length {max_length}: expected distinct words, at least one, and a length of "
            "1 or more"
        )
    checked = infer(program, alphabet, max_length)
    if program.is_numerical():
        raise ProgramError(f"{program} is numerical, and words are predicted: compile categorical({program})")
    plan = lay_out(checked)
    answers = {value: str(value) for value in checked.kinds[program].listed}
    if len(set(answers.values())) < len(answers):
        raise ProgramError(f"{program}: two of its values {list(answers)} are the same word; map them to distinct ones")
    words = [*alphabet, *(word for word in answers.values() if word not in (*alphabet, BOS))]
    output = plan.places[program]
    unembed = torch.zeros(output.width, 1 + len(words), dtype=torch.float64)
    for i, word in enumerate(answers.values()):
        unembed[i, [BOS, *words].index(word)] = ANSWER
    hf, circuit = write(plan, (output, unembed), dtype, model=name, method="compiled", program=str(program))
    return Organism(
        name=name,
        model=legible(hf, words),
        function=lambda prompt: [None if v is None else str(v) for v in interpret(program, prompt)],
        circuit=circuit,
        variables=labelled(plan, dtype),
        inputs=alphabet,
        max_length=max_length,
        about=about,
        sources=sources,
    )
