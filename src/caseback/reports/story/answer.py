"""The story of a whole answer: each of its tokens in turn, after all that stands before it.

    story(t) = the story of token t against its foil, after prompt + tokens 1 ... t-1 of the answer

What an answer's token hangs on may be of the prompt or of the answer itself; positions count from the prompt's
beginning, so a row says which.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caseback.errors import TokensError
from caseback.localize.inputs.generation import steps_of
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
from caseback.reports.story.several import stories

__all__ = ["answer_stories"]


@checked
def answer_stories(
    model: Model,
    prompt: PromptsLike,
    continuation: str | list[int] | None = None,
    *,
    max_new_tokens: int = 8,
    depth: str = "quick",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Tell the causal story of every token of an answer: which words before it, and which parts, it hangs on.

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt: text, a list of token ids, a conversation, or ``Tokens``.
    continuation
        The answer, as text or token ids; by default what the model writes, greedily.
    max_new_tokens
        At most so many tokens of it, where the model writes it.
    depth, seed, checkpoint, progress
        As for ``stories``.

    Returns
    -------
    dict
        The document of ``stories``, one row for each token of the answer in order. Its section ``answer`` has the
        ``prompt``, the answer's ``text``, and the ``start``: how many tokens the prompt has.

    Raises
    ------
    TokensError
        For several prompts, or a continuation that is empty or does not continue the prompt's tokens.
    CasebackError
        For a depth that has no story.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> document = answer_stories(model, "When Mary and John went to the store, John gave a drink to", " Mary.")
    >>> [row["target"]["text"] for row in document["rows"]], document["rows"][0]["words"][0]["text"]
    ([' Mary', '.'], ' Mary')
    """
    tokens = model.tokens(prompt)
    if len(tokens) != 1:
        raise TokensError(f"{len(tokens)} prompts given: an answer's story is of one")
    greedy = {} if continuation is not None else {"do_sample": False}
    steps = steps_of(model, tokens.padded_on("right"), continuation, max_new_tokens, greedy)
    targets = [steps.target(0, t) for t in range(steps.counts[0])]
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    text = "".join(model.token_text(i) for i in targets if i not in special)
    document = stories(
        model,
        steps.prefixes(steps.all()),
        targets=targets,
        source=f"the answer “{text.strip()}”",
        depth=depth,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )
    start = steps.starts[0]
    before = zip(steps.whole.ids[0].tolist()[:start], steps.whole.text[0], strict=False)
    asked = "".join(bare for i, bare in before if i not in special)
    return document | {"answer": {"prompt": asked, "text": text, "start": start}}
