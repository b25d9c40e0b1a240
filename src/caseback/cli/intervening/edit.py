"""`caseback edit`: write facts into a model as data beside its weights, and see what else that changes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.inputs import numbers
from caseback.cli.intervening.edit_methods import (
    ONE_LAYER,
    PLAIN,
    TAKES,
    OfMethod,
    edited,
    expect_method,
    facts_of,
    lines_of,
)
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import CorpusFile, Generate, Layers, Method, OfModel, Output, Sample, Save, Steps, Subject
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


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
        Path | None,
        Option(help="Facts from a file, in the JSON of CounterFact, zsRE or known_1000, in place of a prompt."),
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
    of_method: OfMethod = OfMethod(),
    steps: Steps = Steps().worded(steps="Steps in which a value is looked for, or of training."),
    check: Annotated[
        bool, Option("--check/--no-check", help="Refuse facts that the model does not know, or answers so already.")
    ] = True,
    generate: Generate = Generate(5),
    save: Save = Save().worded(save="Write the edit to this file."),
    output: Output = Output(),
) -> None:
    """Write a fact into a model: what it says of the prompt, other wordings and neighbors before and after."""
    about, corpus = subject.subject or None, texts.corpus
    own = of_method.given(steps=steps.steps)
    expect_method(method.method, own, corpus, layers.layers)
    _expect_one_source(prompt, facts, {"--subject": about, "--new": new}, {"--true": true}, paraphrase, neighbor)
    if generate.generate < 1:
        raise CasebackError("--generate 0: expected 1 token or more")
    with quiet():
        from caseback.edit import save_knowledge_edit
        from caseback.reports.editing import editing_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.editing import print_editing

        some = None if facts is None else facts_of(facts, sample.count)
        plain = None if corpus is None else lines_of(corpus)
        model = model_of(of)
        if some is None:
            assert prompt is not None and about is not None and new is not None
            some = [_fact(model, prompt, about, new, true, paraphrase or [], neighbor or [])]
        at = numbers(layers.layers, "--layers") or ([] if of_method.train else [max(0, model.n_layers // 3)])
        if method.method in ONE_LAYER and len(at) > 1:
            raise CasebackError(f"--method {method.method} edits one layer: {layers.layers!r} names {len(at)}")
        how: dict[str, Any] = {"check": check, "progress": True}
        done = edited(model, some, method.method, at, own, corpus, sample.seed, how)
        document = editing_document(
            model, done, plain_text=None if plain is None else plain[:PLAIN], generate=generate.generate
        )
        if save.save is not None:
            save_knowledge_edit(done, save.save, model=model)
    answer(output, document, text=lambda: print_editing(document), page=lambda path: write_page(document, path))
    if save.save is not None:
        say_written(save.save)


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
