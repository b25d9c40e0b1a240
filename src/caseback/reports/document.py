"""What all documents are: plain data of one kind and version, with facts about the model and named sections.

    {"kind": ..., "version": ..., "model": facts, section: ..., section: ..., ...}

A document may come from disk or from another program, so whoever draws one checks it first. A list of the wrong length
would draw a page that is quietly wrong: a kind with lists that belong together compares their lengths too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from caseback.errors import CasebackError
from caseback.model.argument_kinds import JUDGED_BY_THE_FUNCTION
from caseback.model.arguments import checked as checked  # for views too, which import no model
from caseback.reports.forms.schema import DRAFT, form_of, json_schema

__all__ = ["DocumentKind", "check_finite", "expect_kind"]

Document = Annotated[Mapping[str, Any], JUDGED_BY_THE_FUNCTION]
"""A document, which ``expect_kind`` refuses in words where it is none."""


@contextmanager
def drawn_from(noun: str, function: str) -> Iterator[None]:
    """Refuse data in words where whoever draws it, in the block or the decorated function, meets another form.

    Parameters
    ----------
    noun, function
        What messages call the data, with its article, and the function that gives it.

    Raises
    ------
    CasebackError

    Examples
    --------
    >>> with drawn_from("a row of counts", "count_rows"):
    ...     print({"token": " a"}["count"])
    Traceback (most recent call last):
    caseback.errors.CasebackError: a row of counts that cannot be drawn (KeyError: 'count'): pass what count_rows ...
    """
    try:
        yield
    except CasebackError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CasebackError(
            f"{noun} that cannot be drawn ({type(error).__name__}: {str(error)[:200]}): pass what {function} returned, "
            "unchanged"
        ) from error


@dataclass(frozen=True)
class DocumentKind:
    """One kind of document: how it identifies itself, and which sections it has.

    Attributes
    ----------
    kind, version
        What a document declares itself to be, such as ``"caseback.circuit"`` and ``1``.
    noun
        What messages call it, with its article.
    function
        The function that returns one.
    sections
        The keys that every document of this kind has besides ``kind``, ``version`` and ``model``.
    lengths
        Refuses a document whose lists do not fit each other; None for a kind without such lists.

    Examples
    --------
    >>> counts = DocumentKind("caseback.counts", 1, "a document of counts", "count_documents", ("tokens",))
    >>> counts.document({"name": "meadow"}, tokens=[3])
    {'kind': 'caseback.counts', 'version': 1, 'model': {'name': 'meadow'}, 'tokens': [3]}
    """

    kind: str
    version: int
    noun: str
    function: str
    sections: tuple[str, ...]
    lengths: Callable[[Mapping[str, Any]], None] | None = None

    def document(self, model: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
        """Make a document of this kind, and check it.

        Parameters
        ----------
        model
            Facts about the model, ``name`` among them, as ``model_facts`` gives them.
        **sections
            The sections of the kind, and those that only some of its documents have.

        Raises
        ------
        CasebackError
            As ``check``.
        """
        document = {"kind": self.kind, "version": self.version, "model": dict(model), **sections}
        self.check(document)
        return document

    def check(self, document: Any) -> None:
        """Refuse what cannot be drawn truthfully.

        That is another kind or version, a missing section, a number that is not finite, or lists whose lengths do not
        fit each other.

        Raises
        ------
        CasebackError
            If it is refused; the message names the place, what is there and what was expected.
        """
        expect_kind(document, self.kind, self.version, self.noun, self.function)
        expected = ("model", *self.sections)
        missing = [name for name in expected if name not in document]
        if missing:
            raise CasebackError(
                f"{self.noun} without {', '.join(missing)}; expected the parts {', '.join(expected)}: pass what "
                f"{self.function} returned"
            )
        if not isinstance(document["model"], Mapping) or "name" not in document["model"]:
            raise CasebackError(
                f"{self.noun} whose model is {document['model']!r}: expected facts, its name among them"
            )
        check_finite(document, self.kind.rpartition(".")[2])
        if self.lengths is not None:
            with drawn_from(self.noun, self.function):
                self.lengths(document)

    def schema(self) -> dict[str, Any]:
        """The JSON schema (draft 2020-12) of this kind's documents: what identifies them, and what is in each section.

        Of a kind that another package adds, the sections' names alone.

        Examples
        --------
        >>> counts = DocumentKind("caseback.counts", 1, "a document of counts", "count_documents", ("tokens",))
        >>> counts.schema()["required"], counts.schema()["properties"]["version"]
        (['kind', 'version', 'model', 'tokens'], {'const': 1})
        """
        model = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        own = {"kind": {"const": self.kind}, "version": {"const": self.version}, "model": model}
        form = form_of(self.kind.rpartition(".")[2]) if self.kind.startswith("caseback.") else None
        inner = json_schema(form or {name: "any" for name in self.sections})
        required = dict.fromkeys([*own, *self.sections, *inner["required"]])
        return {
            "$schema": DRAFT,
            "title": f"{self.noun}, as {self.function} returns it",
            "type": "object",
            "properties": {**own, **inner["properties"]},
            "required": list(required),
        }

    @contextmanager
    def drawing(self, document: Any) -> Iterator[Mapping[str, Any]]:
        """Check a document, and refuse it where drawing it meets what is not as its function made it.

        Raises
        ------
        CasebackError
            As ``check``, and for a part of another form than is drawn.

        Examples
        --------
        >>> counts = DocumentKind("caseback.counts", 1, "a document of counts", "count_documents", ("tokens",))
        >>> with counts.drawing(counts.document({"name": "meadow"}, tokens=[3]) | {"tokens": None}) as document:
        ...     print(len(document["tokens"]))
        Traceback (most recent call last):
        caseback.errors.CasebackError: a document of counts that cannot be drawn (TypeError: ...
        """
        self.check(document)
        with drawn_from(self.noun, self.function):
            yield document


@checked
def expect_kind(document: Any, kind: str, version: int, what: str, made_by: str) -> None:
    """Refuse anything but a document of this kind and version.

    Parameters
    ----------
    document
        What is to be drawn.
    kind, version
        What it must declare itself to be.
    what, made_by
        What a message calls such a document, and the function that makes one.

    Raises
    ------
    CasebackError
        If it is refused; the message says what it is and what was expected.

    Examples
    --------
    >>> expect_kind(["a"], "caseback.circuit", 1, "a circuit document", "circuit_document")
    Traceback (most recent call last):
    caseback.errors.CasebackError: not a circuit document: kind is 'list', expected 'caseback.circuit'; ...
    """
    actual = document.get("kind") if isinstance(document, Mapping) else type(document).__name__
    if actual != kind:
        raise CasebackError(
            f"not {what}: kind is {actual!r}, expected {kind!r}; pass what {made_by} returned or what was saved from it"
        )
    if document.get("version") != version:
        raise CasebackError(
            f"{what} of version {document.get('version')!r}; this caseback draws version {version}: make it again with "
            "the installed version"
        )


@checked
def check_finite(value: Any, place: str) -> None:
    """Refuse data that is not plain JSON, or has a number that is not finite; the message names the place."""
    _check_finite(value, place)


def _check_finite(value: Any, place: str) -> None:
    # by itself, since a document has thousands of places
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CasebackError(
                f"{place} is {value}, which is not finite: expected a finite number; "
                "if the model ran in half precision, explain it in float32"
            )
    elif isinstance(value, (list, tuple)):
        # Patterns of long prompts hold millions of numbers, so a flat list is tested at once: with one number that is
        # not finite, the sum is not either. (If a sum of finite numbers overflows, each number is tested below.)
        if set(map(type, value)) == {float} and math.isfinite(sum(value)):
            return
        for index, item in enumerate(value):
            _check_finite(item, f"{place}[{index}]")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_finite(item, f"{place}.{key}")
    elif value is not None and not isinstance(value, (str, int, bool)):
        raise CasebackError(f"{place} is a {type(value).__name__}, expected plain JSON data; convert it first")
