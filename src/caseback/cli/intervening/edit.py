"""`caseback edit`: write facts into a model as data beside its weights, and see what else that changes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.inputs import numbers
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import CorpusFile, Generate, Layers, Method, OfModel, Output, Sample, Save, Steps, Subject
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.json_text import parse_json
from caseback.jobs.text_file import read_text, read_texts

# which of the options that only some methods have each method takes
TAKES = {
    "rome": ("ridge", "clamp", "steps"),
    "memit": ("ridge", "clamp", "steps", "weight"),
    "emmet": ("ridge", "clamp", "steps"),
    "alphaedit": ("ridge", "clamp", "steps"),
    "ft": ("steps",),
    "grace": ("steps",),
    "wise": ("steps",),
    "mend": ("steps", "editor", "train"),
}
ONE_LAYER = ("rome", "ft", "grace", "wise")
OF_A_STEP = 10  # facts of a step of training
PLAIN = 100  # lines of the corpus on which side effects are measured


@with_options
def edit(
    prompt: Annotated[str | None, Argument(help="The prompt, with {} for the subject.", show_default=False)] = None,
    subject: Subject = Subject("").worded(subject="What the fact is about."),
    new: Annotated[str | None, Option(help="The answer that the model is to give.")] = None,
    true: Annotated[str | None, Option(help="The answer that it gives now; by default its first choice.")] = None,
    paraphrase: Annotated[
        list[str] | None, Option(help="Another text with the same answer, with {} or the subject; may be repeated.")
    ] = None,
    neighbor: Annotated[
        list[str] | None,
        Option(
            help="A text that is to stay, such as 'The capital of Spain is -> Madrid', by default with the model's "
            "first choice; may be repeated."
        ),
    ] = None,
    facts: Annotated[
        Path | None, Option(help="Facts from a file, in CounterFact's or zsRE's JSON, in place of a prompt.")
    ] = None,
    sample: Sample = Sample(count=10).worded(
        count="Of --facts: how many, the first.", seed="What contexts of the prompts, and a training, follow from."
    ),
    of: OfModel = OfModel(),
    method: Method = Method("rome").worded(method=f"{', '.join(TAKES)}."),
    layers: Layers = Layers().worded(
        layers="Such as 0,1; one of rome, ft, grace, wise. By default a third of the way up; mend's are the last three."
    ),
    texts: CorpusFile = CorpusFile().worded(
        corpus="Texts, one a line: what matrices usually read (C) and, of the first 100, what the edit changes."
    ),
    ridge: Annotated[
        float | None, Option(help="Added to C's diagonal, as a share of its mean; of alphaedit, to the keys' squares.")
    ] = None,
    weight: Annotated[float | None, Option(help="Of memit: how many old keys C stands for; 15000 by default.")] = None,
    clamp: Annotated[float | None, Option(help="The most that a value may change, as a share of its length.")] = None,
    steps: Steps = Steps().worded(steps="Steps in which a value is looked for, or of training."),
    editor: Annotated[
        Path | None, Option(help="Of mend: its network, trained before; with --train, where it is written.")
    ] = None,
    train: Annotated[
        Path | None, Option(help="Of mend: other facts, which its network is trained on, in a file as for --facts.")
    ] = None,
    check: Annotated[
        bool, Option("--check/--no-check", help="Refuse facts that the model does not know, or answers so already.")
    ] = True,
    generate: Generate = Generate(5),
    save: Save = Save().worded(save="Write the edit to this file."),
    output: Output = Output(),
) -> None:
    """Write a fact into a model: what it says of the prompt, other wordings and neighbors before and after."""
    about, corpus = subject.subject or None, texts.corpus
    given = {"ridge": ridge, "weight": weight, "clamp": clamp, "steps": steps.steps, "editor": editor, "train": train}
    own = {name: value for name, value in given.items() if value is not None}
    _expect_method(method.method, own, corpus, layers.layers)
    _expect_one_source(prompt, facts, {"--subject": about, "--new": new}, {"--true": true}, paraphrase, neighbor)
    if generate.generate < 1:
        raise CasebackError("--generate 0: expected 1 token or more")
    with quiet():
        from caseback.edit import save_knowledge_edit
        from caseback.reports.editing import editing_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.editing import print_editing

        some = None if facts is None else _facts_of(facts, sample.count)
        plain = None if corpus is None else _lines(corpus)
        model = model_of(of)
        if some is None:
            assert prompt is not None and about is not None and new is not None
            some = [_fact(model, prompt, about, new, true, paraphrase or [], neighbor or [])]
        at = numbers(layers.layers, "--layers") or ([] if train else [max(0, model.n_layers // 3)])
        if method.method in ONE_LAYER and len(at) > 1:
            raise CasebackError(f"--method {method.method} edits one layer: {layers.layers!r} names {len(at)}")
        how: dict[str, Any] = {"check": check, "progress": True}
        done = _edit(model, some, method.method, at, own, corpus, sample.seed, how)
        document = editing_document(
            model, done, plain_text=None if plain is None else plain[:PLAIN], generate=generate.generate
        )
        if save.save is not None:
            save_knowledge_edit(done, save.save, model=model)
    answer(output, document, text=lambda: print_editing(document), page=lambda path: write_page(document, path))
    if save.save is not None:
        say_written(save.save)


def _expect_method(method: str, own: dict[str, Any], corpus: Path | None, layers: str | None) -> None:
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


def _expect_one_source(
    prompt: str | None,
    facts: Path | None,
    needed: dict[str, str | None],
    more: dict[str, str | None],
    *lists: Sequence[str] | None,
) -> None:
    """Refuse no fact, half a fact, or facts from two places."""
    flags = [name for name, value in (needed | more).items() if value is not None]
    flags += [name for name, value in zip(("--paraphrase", "--neighbor"), lists, strict=True) if value]
    if facts is not None:
        if prompt is not None or flags:
            raise CasebackError(f"--facts and {flags[0] if flags else 'a prompt'} both say what is edited: give one")
        return
    if prompt is None:
        raise CasebackError("nothing says what is edited: give a prompt with {}, --subject and --new, or --facts")
    if missing := [name for name, value in needed.items() if value is None]:
        raise CasebackError(f"a prompt without {missing[0]}: expected --subject and --new with it")


def _fact(
    model: Any, prompt: str, subject: str, new: str, true: str | None, paraphrases: list[str], neighbors: list[str]
) -> Any:
    """The fact as the options say it; answers that they leave out are the model's first choices."""
    from caseback.edit import Fact

    bare = Fact(prompt, subject, new, true, [text.replace("{}", subject) for text in paraphrases])
    own = [tuple(part.strip() for part in text.rpartition("->")[::2]) for text in neighbors]
    # a neighbor without an arrow is all behind it
    pairs = [(text, stays) if text else (stays, None) for text, stays in own]
    asked = [*([bare.text] if true is None else []), *(text for text, stays in pairs if stays is None)]
    if any(not text for text in asked):
        raise CasebackError("--neighbor is empty: expected a text")
    says = dict(zip(asked, _first_choices(model, asked), strict=True)) if asked else {}
    filled = []
    for text, stays in pairs:
        if (word := says[text] if stays is None else stays) is None:
            raise CasebackError(
                f"--neighbor {text!r}: the model's first choice begins no word, so give the answer that is to stay, as "
                f"in '{text} -> ANSWER'"
            )
        filled.append((text, word))
    if true is None:
        true = says[bare.text]
        if true is not None and true.strip() == new.strip():
            raise CasebackError(f"the model already answers {bare.text!r} by {new!r}: there is nothing to edit")
    return replace(bare, true=true, neighbors=filled)


def _first_choices(model: Any, texts: list[str]) -> list[str | None]:
    """The model's next token behind each text; None where an answer with a space before it is another token."""
    from caseback.edit.places import pieces_of

    tokens = model.tokens(texts)
    logits = model.run(tokens).logits
    ids = logits[range(len(texts)), tokens.column(-1).to(logits.device)].argmax(-1).tolist()
    words = [model.token_text(i) for i in ids]
    return [
        word if word.strip() and pieces_of(model, [word]) == [[i]] else None for word, i in zip(words, ids, strict=True)
    ]


def _facts_of(file: Path, count: int | None, option: str = "--facts") -> list[Any]:
    """Facts of a file, whose first record says which layout it has."""
    from caseback.edit import load_counterfact, load_zsre

    try:
        records = parse_json(read_text(file, option))
    except (ValueError, RecursionError) as error:
        raise CasebackError(f"{option} {file} is no JSON: {error}") from None
    first = records[0] if isinstance(records, list) and records else None
    layouts = {"requested_rewrite": load_counterfact, "src": load_zsre}
    for key, load in layouts.items():
        if isinstance(first, dict) and key in first:
            return load(file, limit=count)
    raise CasebackError(
        f"{option} {file} is in no layout that is known: expected a list of records with requested_rewrite "
        "(CounterFact) or src (zsRE)"
    )


def _lines(file: Path) -> list[str]:
    lines = [line for line in read_texts(file, "--corpus") if line.strip()]
    if not lines:
        raise CasebackError(f"--corpus {file} holds no text")
    return lines


def _edit(
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
    if method == "wise":
        assert corpus is not None
        return methods.wise(model, facts, layers[0], _lines(corpus)[:PLAIN], seed=seed, **own, **how)
    searched = {name: own.pop(name) for name in ("steps", "clamp") if name in own and method != "ft"}
    if method == "ft":
        return methods.fine_tuned(model, facts, layers[0], **own, **how)
    starts: dict[str, Any] = {"rome": methods.Search(), "grace": OF_GRACE}
    search = replace(starts.get(method, OF_MANY), **searched)
    if method == "grace":
        return methods.grace(model, facts, layers[0], search=search, **how)
    moments = None if corpus is None else methods.key_moments(model, corpus, sorted({*layers}), progress=True)
    how |= {"moments": moments, "search": search, "seed": seed, **own}
    if method == "rome":
        return _added(methods.rome(model, facts, layers[0], **how))
    many: dict[str, Callable[..., Any]] = {name: getattr(methods, name) for name in ("memit", "emmet", "alphaedit")}
    return many[method](model, facts, layers, **how)


def _added(edits: list[Any]) -> Any:
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
    facts = _facts_of(train, None, "--train")
    how: dict[str, Any] = {} if steps is None else {"epochs": ceil(steps / ceil(len(facts) / OF_A_STEP))}
    done = fit_mend(model, facts, layers or None, seed=seed, batch_size=OF_A_STEP, progress=True, **how)
    if editor is not None:
        save_mend(done, editor)
    return done
