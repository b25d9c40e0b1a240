"""Target prompts for a patchscope: a text with a placeholder, whose state makes way for the one that is read.

    token identity   cat->cat; 135->135; hello->hello; x           goes on with the token that the state stands for
    description      Syria: Country in the Middle East, ..., x     goes on with what the state's subject is
    SelfIE           [INST] _ _ _ _ _ [/INST] Sure, I will repeat the message:     says the state in sentences

The first two are Ghandeharioun et al.'s (2024), the third is Chen et al.'s (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.running.tokens import Tokens


@dataclass(frozen=True)
class TargetPrompt:
    """A text and where in it a state is written.

    Attributes
    ----------
    text
        The prompt.
    placeholder
        The text of one of its tokens, spaces around it aside.
    which
        Write at the ``"last"`` such token, or at ``"all"`` of them.
    """

    text: str
    placeholder: str = "x"
    which: Literal["last", "all"] = "last"

    def places(self, tokens: Tokens) -> list[int]:
        """The positions of the placeholder in the tokenized text.

        Raises
        ------
        CasebackError
            Where no token of the text is the placeholder.

        Examples
        --------
        >>> import caseback as cb
        >>> model = cb.load("meadow")
        >>> where = token_identity()
        >>> tokens = model.tokens(where.text)
        >>> where.places(tokens) == [tokens.shape[1] - 1]
        True
        """
        places = [i for i, text in enumerate(tokens.text[0]) if text.strip() == self.placeholder.strip()]
        if not places:
            raise CasebackError(
                f"no token of the target prompt {self.text!r} is the placeholder {self.placeholder!r} (its tokens are "
                f"{', '.join(map(repr, tokens.text[0][:12]))}): choose one that is a single token in it"
            )
        return places if self.which == "all" else places[-1:]


@checked
def token_identity(
    words: Sequence[str] = ("cat", "135", "hello", "black", "shoe"), *, placeholder: str = "x"
) -> TargetPrompt:
    """The prompt after which a model repeats a token.

    Parameters
    ----------
    words
        What is repeated in the examples.
    placeholder
        The last token.

    Examples
    --------
    >>> token_identity(["cat", "hello"]).text
    'cat->cat; hello->hello; x'
    """
    return TargetPrompt("; ".join([*(f"{word}->{word}" for word in words), placeholder]), placeholder)


@checked
def description(
    examples: Sequence[tuple[str, str]] = (
        ("Syria", "Country in the Middle East"),
        ("Leonardo DiCaprio", "American actor"),
        ("Samsung", "South Korean multinational major appliance and consumer electronics corporation"),
    ),
    *,
    placeholder: str = "x",
) -> TargetPrompt:
    """The prompt after which a model says what an entity is.

    Parameters
    ----------
    examples
        Entities and what they are.
    placeholder
        The last token.

    Examples
    --------
    >>> description([("Paris", "city in France")]).text
    'Paris: city in France, x'
    """
    return TargetPrompt(", ".join([*(f"{name}: {what}" for name, what in examples), placeholder]), placeholder)


@checked
def selfie(
    *,
    before: str = "[INST] ",
    after: str = " [/INST] Sure, I will repeat the message:",
    placeholder: str = "_",
    times: int = 5,
) -> TargetPrompt:
    """The prompt after which a model with a chat's manners tells what a message says, the message being a state.

    Parameters
    ----------
    before, after
        What stands around the message: the marks of a turn are the model's own, and those of Llama-2's chat here.
    placeholder, times
        The message: one token, so many times; each makes way for the state.

    Raises
    ------
    CasebackError
        For a message without a token.

    Examples
    --------
    >>> selfie(before="Message: ", after=" It says:", times=2).text
    'Message: _ _ It says:'
    """
    if times < 1:
        raise CasebackError(f"times is {times}: expected at least one placeholder")
    return TargetPrompt(before + " ".join([placeholder] * times) + after, placeholder, "all")
