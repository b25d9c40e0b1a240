"""What can go wrong, by name.

Every error that a user can cause is a `CasebackError`. Its text names the value, says what was expected and
what to do. Where Python has a class for the mistake the error is one of those too, so that
`except ValueError` and `except IndexError` keep their sense.
"""

from collections.abc import Iterable


class CasebackError(Exception):
    """The root of all errors that caseback raises on purpose."""


class ArgumentError(CasebackError, TypeError, ValueError):
    """An argument that is not of the kind that its parameter asks for."""


class UnknownSite(CasebackError, ValueError):
    """A name that is no site of any model."""


class SiteAbsent(CasebackError, ValueError):
    """A site that this model lacks, or that its forward pass did not reach."""


class OutOfRange(CasebackError, IndexError):
    """A layer, head, position or unit that the model or the prompt does not have."""


class TargetError(CasebackError, ValueError):
    """A target or foil that is not exactly one token of the vocabulary."""


class TokensError(CasebackError, ValueError):
    """A prompt that cannot be run: empty, past the context, or not aligned with its counterfactual."""


class NothingToReplace(TokensError):
    """A prompt without a word of its own before its end, so that no other version of it can be made."""


class EditError(CasebackError, ValueError):
    """An edit whose value, shape or address does not fit its site."""


class AnatomyError(CasebackError):
    """A model whose parts are not where its family's anatomy says, or a family without anatomy."""


class LoadError(CasebackError):
    """A model, tokenizer or file that cannot be loaded, or that is refused as unsafe."""


class WriteError(CasebackError, OSError):
    """A file cannot be written: no such folder, no permission, no space, or not a regular file."""


class MemoryShortage(CasebackError, MemoryError):
    """A job that would not fit in memory."""


class ResultError(CasebackError, ValueError):
    """A result whose dimensions or attributes are outside the project's vocabulary."""


class RegistryError(CasebackError, ValueError):
    """A technique registered twice, without a docstring, or under no entry of the Primer."""


def did_you_mean(word: str, choices: Iterable[str], *, most: int = 12) -> str:
    """Say in a sentence which of the choices a mistyped word was near to.

    Parameters
    ----------
    word
        What was given.
    choices
        What would have been right.
    most
        How many choices are listed where none is near.

    Returns
    -------
    str
        The near choices, best first and three at most; all of them (the first `most`) where none is near;
        an empty text where there are no choices.

    Examples
    --------
    >>> did_you_mean("resid_pots", ["resid_pre", "resid_post", "pattern"])
    'Did you mean resid_post or resid_pre?'
    >>> did_you_mean("banana", ["q", "k", "v"])
    'Choose one of q, k, v.'
    """
    known = list(dict.fromkeys(choices))
    by_lower_case = {choice.lower(): choice for choice in reversed(known)}
    import difflib  # here, since most words are right and `caseback --help` is to answer at once

    near = difflib.get_close_matches(word.lower(), by_lower_case, n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(by_lower_case[match] for match in near)}?"
    if not known:
        return ""
    rest = f" … ({len(known)} in all)" if len(known) > most else ""
    return f"Choose one of {', '.join(known[:most])}{rest}."
