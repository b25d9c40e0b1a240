"""Anything that answers: a function from a list of messages to a reply, so that any client fits in one line.

    chat = lambda messages: client.create(messages=messages).text      # some service
    chat = local_chat(model)                                           # a model in hand

A message is ``{"role": "user", "content": "..."}``. What a reply should be is the asker's business: one that cannot be
read is kept, counted and never fatal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from caseback.errors import CasebackError, OutOfRange
from caseback.model.arguments import checked
from caseback.model.running.model import Model

Message = dict[str, str]
Chat = Callable[[list[Message]], str]
T = TypeVar("T")


@dataclass
class Asking:
    """A chat with a count of its replies and the ones that could not be read.

    Attributes
    ----------
    chat
        Who answers.
    asked
        How many replies there were.
    junk
        Those that could not be read, as they came.
    """

    chat: Chat
    asked: int = 0
    junk: list[Any] = field(default_factory=list)

    def __call__(self, prompt: str, read: Callable[[str], T | None]) -> T | None:
        """Ask, and read the reply; None where it is junk."""
        return self.of([{"role": "user", "content": prompt}], read)

    def of(self, messages: list[Message], read: Callable[[str], T | None]) -> T | None:
        """The same for a longer conversation."""
        reply: Any = self.chat(messages)
        self.asked += 1
        answer = read(reply) if isinstance(reply, str) else None
        if answer is None:
            self.junk.append(reply)
        return answer


def text_of(reply: str) -> str | None:
    """A reply as text; None where nothing is in it."""
    return reply.strip() or None


@checked
def local_chat(model: Model, *, max_new_tokens: int = 200, seed: int | None = None, **options: Any) -> Chat:
    """A chat with a model in hand, by its chat template or, without one, with roles written out.

    Parameters
    ----------
    model
        The model. It needs a tokenizer.
    max_new_tokens, seed
        As for ``Model.generate``.
    **options
        Passed on to it.

    Raises
    ------
    CasebackError
        For a model without a tokenizer.

    Examples
    --------
    >>> import caseback as cb
    >>> chat = local_chat(cb.load("meadow"), max_new_tokens=3)
    >>> isinstance(chat([{"role": "user", "content": "Where is the dog?"}]), str)
    True
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise CasebackError("a chat needs a tokenizer: load the model with tokenizer=")
    if max_new_tokens < 1:
        raise OutOfRange(f"max_new_tokens={max_new_tokens}: expected at least 1")

    def chat(messages: list[Message]) -> str:
        if getattr(tokenizer, "chat_template", None):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            text = "\n".join(f"{m['role']}: {m['content']}" for m in messages) + "\nassistant:"
            ids = tokenizer(text)["input_ids"]
        if model.context is not None:
            # the question stands at the end
            ids = ids[-max(1, model.context - max_new_tokens) :]
        generated = model.generate([ids], max_new_tokens=max_new_tokens, seed=seed, **options)
        new = generated.ids[0][generated.mask[0]][len(ids) :]
        return tokenizer.decode(new, skip_special_tokens=True)

    return chat
