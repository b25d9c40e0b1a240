"""Public functions, classes and methods as doors: a valid call each, in which one argument gets a bad value.

Doors are what folders publish, what modules name in ``__all__``, techniques, and the methods of what people hold: models,
circuits, runs, tokens. An edit or a metric is only as good as the run that it is for, so a door of one runs it.
"""

import contextlib
import importlib
import inspect
import io
import itertools
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

import caseback as cb
from bad_inputs import values
from bad_inputs.examples import arguments_of_example
from bad_inputs.outcome import Fault, attempt, tidy, written_in
from bad_inputs.valid import Valid
from caseback.decode.vocabulary.activating.examples import Activating
from caseback.model.registry import techniques
from caseback.stream.collection import Collection
from caseback.stream.store import Store
from caseback.tasks.prompts import Prompts
from caseback.tasks.task import Task

HELD = (cb.Model, cb.RemoteModel, cb.Circuit, cb.Run, cb.Tokens)  # whose constructors are not for users
HELD_TOO = (Store, Collection, Task, Prompts, Activating)
# a matter of types, see ``outcome``; a name alone, or within an annotation
TYPES = {"model", "target_model", "weaker", "other", "anatomy", "tokenizer", "hf", "console", "chat", "explainer"}
TYPES |= {"simulator", "collection", "activating", "data", "lens", "prompt_of", "run", "run_fn", "cause", "isolation"}
TYPES |= {"document", "explanation", "glyphs", "drawn", "scores", "shares", "result", "reading", "technique", "figure"}
CLASSES = (
    "Model",
    "Run",
    "Interchanges",
    "Alignment",
    "Activating",
    "Lens",
    "Console",
    "DataArray",
    "Dataset",
    "Anatomy",
    "Program",
)
CLASSES += ("Glyphs", "Waterfall", "Technique", "Figure", "Judgement", "DocumentKind", "Mode", "Expression", "Organism")
CLASSES += (
    "Map",
    "Prompts",
    "Task",
    "Mechanism",
    "Draw",
    "Tally",
    "Rows",
    "Units",
    "Chat",
    "CausalModel",
    "Bar",
    "EntityExamples",
)
CLASSES += ("AffineMap", "Spectrum", "LowRank", "Projection", "Interventions", "Sentence", "Runs", "Graph", "Factored")


def published() -> dict[str, Callable[..., Any]]:
    """Every public function and class of the package, by where it is defined."""
    doors: dict[str, Callable[..., Any]] = {}

    def add(thing: Any) -> None:
        own = str(getattr(thing, "__module__", "")).startswith("caseback") and ".cli" not in thing.__module__
        own = own and not getattr(thing, "_is_protocol", False)  # of which there are no objects
        if callable(thing) and own and not (isinstance(thing, type) and issubclass(thing, Exception)):
            doors.setdefault(f"{thing.__module__}.{thing.__qualname__}", thing)

    for info in pkgutil.walk_packages(cb.__path__, "caseback."):
        if "__main__" in info.name or ".cli" in info.name:
            continue
        module = importlib.import_module(info.name)
        public = [name for name in vars(module) if not name.startswith("_")] if info.ispkg else []
        for name in getattr(module, "__all__", public):
            add(getattr(module, name))
    for name in cb.__all__:
        add(getattr(cb, name))
    for technique in techniques():
        add(technique.function)
    for kind in HELD:
        doors.pop(f"{kind.__module__}.{kind.__qualname__}", None)
    for kind in (*HELD, *HELD_TOO):
        for name, method in vars(kind).items():
            if not name.startswith("_") and inspect.isfunction(method):
                doors[f"{kind.__module__}.{kind.__qualname__}.{name}"] = method
    return dict(sorted(doors.items()))


def kind_of(name: str, annotation: Any, files: list[Path]) -> st.SearchStrategy[Any] | None:
    """Bad values for a parameter, by its name and its annotation; None for one whose class is a matter of types."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    parts = {part.strip(" []'\"").rpartition(".")[2] for part in text.replace("[", "|").replace(",", "|").split("|")}
    if name in ("tokens", "clean", "corrupt", "prompt", "prompts", "texts", "source") or "PromptsLike" in text:
        return values.prompts()
    if "Path" in text:
        return st.one_of(st.sampled_from([*files, *map(str, files)]), st.sampled_from([None, 3, b"x", [], ""]))
    if name in TYPES or parts & {*CLASSES}:
        return None
    if "Target" in text or name in ("target", "foil", "answers", "among"):
        return values.tokens_of_vocabulary()
    if "Tensor" in text or "Float" in parts or "Int" in parts or "Bool" in parts:
        return values.tensors()
    if "Callable" in text:
        return values.callables()
    if "Sequence" in text or "list" in parts or "tuple" in parts or "Iterable" in text:
        return values.lists_of_numbers() if "int" in parts else values.lists_of_texts()
    if "Index" in text or "Position" in text or name in ("pos", "layers", "heads", "units"):
        return values.lists_of_numbers()
    if "bool" in parts:
        return values.flags()
    if "float" in parts:
        return values.real_numbers()
    if "int" in parts:
        return values.whole_numbers()
    if "str" in parts or "Literal" in parts:
        return values.texts()
    return values.things()


def inputs_of(door: str, function: Callable[..., Any], files: list[Path]) -> st.SearchStrategy[tuple[str, Any]]:
    """Which parameter gets which value; at times one that there is not."""
    ways = [st.tuples(st.just("no_such_parameter"), values.things())]
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or name == "self":
            continue
        bad = kind_of(name, parameter.annotation, files)
        if bad is not None:
            ways += [st.tuples(st.just(name), bad)] * 2
    return st.one_of(ways)


def call(door: str, function: Callable[..., Any], arguments: dict[str, Any], valid: Valid) -> Any:
    """Call a door, and use what it gave where it does nothing by itself."""
    given = given_by(function, arguments)
    if isinstance(given, cb.Edit):
        return valid.model.run(valid.text, edits=[given])
    if isinstance(given, cb.Metric):
        return given(valid.model.run(valid.text, read=["resid_post"]))
    if inspect.isgenerator(given):
        return list(itertools.islice(given, 20))
    return given


def given_by(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a door by its arguments' names, but for those that have none for a caller."""
    own = dict(arguments)
    parameters = inspect.signature(function).parameters.values()
    first = [own.pop(p.name) for p in parameters if p.name in own and (p.kind is p.POSITIONAL_ONLY or p.name == "self")]
    return function(*first, **own)


def fault_at(door: str, function: Callable[..., Any], given: tuple[str, Any], valid: Valid) -> Fault | None:
    """Call a door with one bad argument; None where all is well."""
    name, value = given
    arguments, _ = valid_call(door, function, valid)
    before, state = written_in(valid.room), valid.state_before()
    with _quiet(valid.room):
        _, what = attempt(lambda: call(door, function, arguments | {name: value}, valid))
    shown = " ".join(repr(value).split())
    shown = f"{door}({name}={shown if len(shown) < 120 else shown[:117] + '...'})"
    if valid.state() != state and what is None:
        what = "the model, or a random state, is not as it was"
    after = written_in(valid.room)
    left = [p for p in after if p not in before and (p.name.endswith(".part") or after[p] == b"")]
    tidy(before, after)
    if what is None and left:
        what = f"left {left}"
    return None if what is None else Fault(shown, what)


def valid_call(door: str, function: Callable[..., Any], valid: Valid) -> tuple[dict[str, Any], str | None]:
    """The arguments of a call that works, ours or the docstring's, and why there are none."""
    if door not in valid.calls:
        ours = valid.arguments(door, function)
        why = _why_not(door, function, ours, valid)
        example = arguments_of_example(function) if why is not None else None
        worse = example is None or _why_not(door, function, example, valid) is not None
        valid.calls[door] = (ours, why) if worse else (example, None)
    return valid.calls[door]


def result_of(doors: Mapping[str, Callable[..., Any]], valid: Valid, door: str, otherwise: Mapping[str, Any]) -> Any:
    """What a door's valid call gives, but for some arguments; what it wrote stays.

    Raises
    ------
    LookupError
        Where there is no such call.
    """
    arguments, why = valid_call(door, doors[door], valid)
    if why is not None:
        raise LookupError(f"{door} has no valid call: {why}")
    with _quiet(valid.room):
        return given_by(doors[door], arguments | otherwise)


def _why_not(door: str, function: Callable[..., Any], arguments: dict[str, Any], valid: Valid) -> str | None:
    before = written_in(valid.room)
    try:
        with _quiet(valid.room):
            call(door, function, arguments, valid)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        tidy(before, written_in(valid.room))
    return None


@contextlib.contextmanager
def _quiet(room: Path) -> Iterator[None]:
    """Without warnings or printing, in a folder of its own."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.chdir(room):
        warnings.simplefilter("ignore")
        yield
