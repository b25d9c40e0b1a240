"""How `caseback edit` edits: what each method takes, and facts to an edit by it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from caseback.cli.group import Group
from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.json_text import parse_json
from caseback.jobs.text_file import read_text, read_texts

_SEARCH = ("clamp", "kl", "lr", "steps")
_SPREAD = ("contexts", "ridge", *_SEARCH)
TAKES = {
    "rome": ("published", *_SPREAD),
    "memit": ("weight", *_SPREAD),
    "emmet": _SPREAD,
    "alphaedit": ("share", *_SPREAD),
    "ft": ("bound", "lr", "steps"),
    "grace": ("radius", *_SEARCH),
    "wise": ("contexts", "shards", "density", "margins", "lr", "steps"),
    "mend": ("steps", "editor", "train"),
}
"""Which of the options that only some methods have each method takes."""
ONE_LAYER = ("rome", "ft", "grace", "wise")
PLAIN = 100  # lines of the corpus on which side effects are measured, and at which WISE's gate is shut
_OF_A_STEP = 10  # facts of a step of training


class OfMethod(Group):
    """What single methods take."""

    ridge: Annotated[
        float | None, Option(help="Added to C's diagonal, as a share of its mean; of alphaedit, to the keys' squares.")
    ] = None
    weight: Annotated[float | None, Option(help="Of memit: how many old keys C stands for; 15000 by default.")] = None
    share: Annotated[
        float | None,
        Option(help="Of alphaedit: which share of C's trace the directions hold that it writes in; 0.02 by default."),
    ] = None
    published: Annotated[
        bool, Option("--published", help="Of rome: direction and divisor of two keys, as the reference has it.")
    ] = False
    clamp: Annotated[float | None, Option(help="The most that a value may change, as a share of its length.")] = None
    kl: Annotated[
        float | None, Option(help="How much what the model says of the subject by itself counts in the search.")
    ] = None
    lr: Annotated[float | None, Option(help="The rate of the search, or of training.")] = None
    bound: Annotated[float | None, Option(help="Of ft: the most that an entry of the matrix may change by.")] = None
    radius: Annotated[float | None, Option(help="Of grace: of a new key's ball; 1 by default.")] = None
    contexts: Annotated[
        int | None,
        Option(
            min=0,
            help="How many texts of its own the model puts before the prompts; 20 of rome, 5 of memit and its like, "
            "none of wise by default.",
        ),
    ] = None
    shards: Annotated[
        int | None, Option(min=1, help="Of wise: in how many parts the facts are trained, then merged.")
    ] = None
    density: Annotated[
        float | None, Option(help="Of wise: the share of the memory's entries that a part may change.")
    ] = None
    margins: Annotated[
        str | None,
        Option(help="Of wise: alpha, beta and gamma, such as the published 5,20,10; by default of the matrix's size."),
    ] = None
    editor: Annotated[
        Path | None, Option(help="Of mend: its network, trained before; with --train, where it is written.")
    ] = None
    train: Annotated[
        Path | None, Option(help="Of mend: other facts, which its network is trained on, in a file as for --facts.")
    ] = None

    def given(self, **more: Any) -> dict[str, Any]:
        """What was given of these, and of others, by name."""
        named = {name: getattr(self, name) for name in self.options} | more
        return {name: value for name, value in named.items() if value is not None and value is not False}


def expect_method(method: str, own: dict[str, Any], corpus: Path | None, layers: str | None) -> None:
    """Refuse what a method does not take, or lacks.

    Raises
    ------
    CasebackError
    """
    if method not in TAKES:
        raise CasebackError(f"--method {method!r} is unknown. {did_you_mean(method, list(TAKES))}")
    if odd := [name for name in own if name not in TAKES[method]]:
        those = [name for name, taken in TAKES.items() if odd[0] in taken]
        raise CasebackError(f"--method {method} has no --{odd[0]}: it is of {', '.join(those)}")
    if corpus is None and method in ("memit", "emmet", "alphaedit"):
        raise CasebackError(
            f"--method {method} follows from what matrices usually read: give --corpus, or --method rome, which does "
            "without"
        )
    if corpus is None and method == "wise":
        raise CasebackError("--method wise keeps its memory shut at plain texts: give --corpus")
    if method == "mend" and not {"editor", "train"} & own.keys():
        raise CasebackError(
            "--method mend edits by a network: give --train FILE, other facts that it is trained on, or --editor FILE, "
            "which such a call wrote"
        )
    if method == "mend" and "train" not in own and ("steps" in own or layers is not None):
        raise CasebackError(f"--{'steps' if 'steps' in own else 'layers'} is of training, which --train asks for")
    if corpus is None and method == "rome" and "ridge" in own:
        raise CasebackError("--ridge is added to C, which --corpus gives")
    if "margins" in own:
        own["margins"] = _three(own["margins"])


def edited(
    model: Any,
    facts: list[Any],
    method: str,
    layers: list[int],
    own: dict[str, Any],
    corpus: Path | None,
    seed: int,
    how: dict[str, Any],
) -> Any:
    """Edit the facts by a method, those of ROME and MEND each by itself and then added up."""
    from caseback import edit as methods
    from caseback.edit.grace import SEARCH as OF_GRACE
    from caseback.edit.memit import SEARCH as OF_MANY

    if method == "mend":
        return _added(methods.mend(model, facts, _editor(model, layers, seed, **own), check=how["check"]))
    if (n := own.pop("contexts", None)) is not None:
        own["contexts"] = _contexts(model, n, method, seed)
    if method == "wise":
        assert corpus is not None
        return methods.wise(model, facts, layers[0], lines_of(corpus)[:PLAIN], seed=seed, **own, **how)
    if method == "ft":
        return methods.fine_tuned(model, facts, layers[0], **own, **how)
    searched = {name: own.pop(name) for name in _SEARCH if name in own}
    starts: dict[str, Any] = {"rome": methods.Search(), "grace": OF_GRACE}
    search = replace(starts.get(method, OF_MANY), **searched)
    if method == "grace":
        return methods.grace(model, facts, layers[0], search=search, **own, **how)
    moments = None if corpus is None else methods.key_moments(model, corpus, sorted({*layers}), progress=True)
    how |= {"moments": moments, "search": search, "seed": seed, **own}
    if method == "rome":
        return _added(methods.rome(model, facts, layers[0], **how))
    many: dict[str, Callable[..., Any]] = {name: getattr(methods, name) for name in ("memit", "emmet", "alphaedit")}
    return many[method](model, facts, layers, **how)


def facts_of(file: Path, count: int | None, option: str = "--facts") -> list[Any]:
    """Facts of a file, whose first record says which layout it has."""
    from caseback.edit import load_counterfact, load_known, load_zsre

    try:
        records = parse_json(read_text(file, option))
    except (ValueError, RecursionError) as error:
        raise CasebackError(f"{option} {file} is no JSON: {error}") from None
    first = records[0] if isinstance(records, list) and records else None
    layouts = {"requested_rewrite": load_counterfact, "src": load_zsre, "attribute": load_known}
    for key, load in layouts.items():
        if isinstance(first, dict) and key in first:
            return load(file, limit=count)
    raise CasebackError(
        f"{option} {file} is in no layout that is known: expected a list of records with requested_rewrite "
        "(CounterFact), src (zsRE) or attribute (known facts)"
    )


def lines_of(file: Path) -> list[str]:
    """The texts of a corpus, one a line."""
    lines = [line for line in read_texts(file, "--corpus") if line.strip()]
    if not lines:
        raise CasebackError(f"--corpus {file} holds no text")
    return lines


def _three(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise CasebackError(f"--margins {text!r}: expected three numbers, such as 5,20,10")
    return numbers


def _contexts(model: Any, count: int, method: str, seed: int) -> list[str]:
    """Texts that the model writes: half of 5 tokens and half of 10, or all of 10 where several layers are edited."""
    from caseback.edit.places import sampled_contexts

    spread = method in ("memit", "emmet", "alphaedit")
    lengths = [10] * count if spread else [5] * (count // 2) + [10] * (count - count // 2)
    return sampled_contexts(model, lengths, words=spread, seed=seed)


def _added(edits: Sequence[Any]) -> Any:
    rest: Iterable[Any]
    first, *rest = edits
    for one in rest:
        first = first + one
    return first


def _editor(
    model: Any,
    layers: list[int],
    seed: int,
    train: Path | None = None,
    editor: Path | None = None,
    steps: int | None = None,
) -> Any:
    """MEND's network, read or trained and written."""
    from caseback.edit import fit_mend, load_mend, save_mend
    from caseback.jobs.whole_file import expect_writable

    if train is None:
        assert editor is not None
        return load_mend(editor, model)
    if editor is not None:
        expect_writable(editor, "the network")
    facts = facts_of(train, None, "--train")
    how: dict[str, Any] = {} if steps is None else {"epochs": ceil(steps / ceil(len(facts) / _OF_A_STEP))}
    done = fit_mend(model, facts, layers or None, seed=seed, batch_size=_OF_A_STEP, progress=True, **how)
    if editor is not None:
        save_mend(done, editor)
    return done
