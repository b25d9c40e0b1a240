"""Which places carry what a prompt and its counterfactual differ in: a map of layers by positions, and one of heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.errors import CasebackError
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.arguments import checked
from caseback.model.running.metrics import logit_diff
from caseback.model.running.model import Model
from caseback.model.running.targets import target_and_foil
from caseback.model.running.tokens import PromptsLike
from caseback.reports.document import DocumentKind
from caseback.reports.explain_patching import patching
from caseback.reports.model_facts import model_facts
from caseback.reports.quick.one_prompt import one_prompt, token_of, tokens_of
from caseback.reports.tokens_text import visible

__all__ = ["PROMPT_PATCHING", "prompt_patching"]


@checked
def prompt_patching(
    model: Model,
    prompt: PromptsLike,
    corrupt: PromptsLike,
    *,
    target: str | int | None = None,
    foil: str | int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """The share of the difference that each place brings back into the run on the counterfactual (PRIMER 3.2.7).

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt: text, a list of token ids, or ``Tokens``.
    corrupt
        Its counterfactual, of as many tokens.
    target, foil
        The answer and what it is set against; by default the model's first choice, and the counterfactual's.
    progress
        Show a progress bar.

    Returns
    -------
    dict
        The document: ``tokens``, ``position``, ``target``, ``foil``, and ``patching``: ``maps`` with ``recovery``
        (layer, pos) of the stream and both kinds of block, and ``heads`` (layer, head).

    Raises
    ------
    TokensError
        For several prompts, or a counterfactual of another length.
    CasebackError
        Where the two prompts are answered alike.

    Examples
    --------
    >>> import caseback as cb
    >>> document = prompt_patching(cb.load("meadow"), "Mary and John went to the", "Mary and Anna went to the")
    >>> [one["site"] for one in document["patching"]["maps"]]
    ['resid_pre', 'attn_out', 'mlp_out']
    """
    expect_tokens_out(model.anatomy, "prompt_patching")
    tokens = one_prompt(model, prompt, "prompt_patching")
    other = one_prompt(model, corrupt, "prompt_patching")
    last = int(tokens.column(-1)[0])
    final = model.run(tokens).logits[0, last].detach()
    theirs = model.run(other).logits[0, int(other.column(-1)[0])].detach()
    t, f = target_and_foil(model, final, target, foil, theirs)
    patched = patching(model, tokens, other, logit_diff(t, f), progress=progress)
    patched["corrupt"] = [{**token, "visible": visible(token["text"])} for token in patched["corrupt"]]
    return PROMPT_PATCHING.document(
        model_facts(model),
        tokens=tokens_of(tokens),
        position=last,
        target=token_of(model, t),
        foil=token_of(model, f),
        patching=patched,
    )


def _lengths(document: Mapping[str, Any]) -> None:
    n = len(document["tokens"])
    for one in document["patching"]["maps"]:
        if any(len(row) != n for row in one["recovery"]):
            raise CasebackError(f"patching: the map of {one['site']} is not of {n} tokens")


PROMPT_PATCHING = DocumentKind(
    "caseback.prompt_patching",
    1,
    "a document of patching",
    "prompt_patching",
    sections=("tokens", "position", "target", "foil", "patching"),
    lengths=_lengths,
)
