"""`caseback attribute`: which tokens of the prompt caused this, by several methods, and how far to trust them."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.explaining.asked import Chat, Continuation, ManyPrompts, first_given
from caseback.cli.inputs import as_text, chat_of, continuation_of, names_in, prompt_of, token_in
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import (
    Generate,
    Ids,
    Json,
    Listed,
    Measured,
    Methods,
    OfModel,
    OnKnownSources,
    Output,
    Resume,
    Sample,
)
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError

WRITTEN = 20  # tokens after a context, where none are given and no number of them
DEFAULT_METHODS = "gradient_x_input,integrated_gradients"


@with_options
def attribute(
    prompt: Annotated[str | None, Argument(help="The text whose next token is explained.", show_default=False)] = None,
    of: OfModel = OfModel(),
    by: Methods = Methods().worded(
        method=f"Methods by name, parted by commas, or all; --list names them. By default {DEFAULT_METHODS}."
    ),
    listed: Listed = Listed().worded(listed="No prompt: name the methods."),
    known: OnKnownSources = OnKnownSources(),
    measured: Measured = Measured(),
    level: Annotated[str, Option(help="Score each token, word or sentence.")] = "token",
    generate: Generate = Generate(0).worded(generate="Also attribute so many generated tokens, one by one."),
    continued: Continuation = Continuation(),
    contrast: Annotated[str | None, Option(help="Another continuation, token by token its foil.")] = None,
    baseline: Annotated[
        str,
        Option(
            help="What a removed token becomes where faithfulness is measured: mean, mean_after_first, zero, pad, eos "
            "...; the methods keep their own baselines."
        ),
    ] = "mean",
    context: Annotated[
        str | None,
        Option(help="A text before the prompt: which of its tokens the continuation relies on (PECoRe)."),
    ] = None,
    many: ManyPrompts = ManyPrompts().worded(
        task="Attribute the answers of a task's prompts in place of one: means by word and place.",
    ),
    sample: Sample = Sample(count=20).worded(
        count="With --task, how many prompts.",
        seed="What prompts, random orders, and the prompts of --judge, follow from.",
    ),
    resume: Resume = Resume().worded(checkpoint="Of several prompts: a file that keeps what is done, to go on from."),
    chat: Chat = Chat(),
    ids: Ids = Ids(),
    output: Output = Output(),
) -> None:
    """Attribute a prediction to the prompt's tokens by several methods, side by side."""
    if (prompt is not None) + known.judge + listed.listed + many.several != 1:
        raise CasebackError(
            "expected one of a prompt, --task or --prompts, --judge (methods on models with a known source) and --list"
        )
    if output.html is not None and (known.judge or listed.listed):
        raise CasebackError("--judge and --list print a table, or JSON: leave out --html")
    if listed.listed:
        _list(output)
        return
    # judging is of all methods unless some are named
    method = ("all" if known.judge else DEFAULT_METHODS) if by.method is None else by.method
    names = "all" if method == "all" else names_in(method)
    if known.judge:
        _judge(names, sample.seed, output)
        return
    of_one = {
        "--foil": measured.foil,
        "--metric": None if measured.metric == "logit_diff" else measured.metric,
        "--contrast": contrast,
    }
    written = {"--generate": generate.generate, "--continuation": continued.continuation}
    if many.several:
        alone = of_one | written | {"--target": measured.target, "--context": context}
        if unused := first_given(alone | {"--chat": chat.chat, "--ids": ids.ids}):
            raise CasebackError(f"{unused} is of a single prompt: leave it out, or --task and --prompts")
        _many(of, many, sample, names, level, baseline, resume.checkpoint, output)
        return
    if resume.checkpoint is not None:
        raise CasebackError("--checkpoint keeps the attributions of several prompts: give --task or --prompts too")
    assert prompt is not None
    given = prompt_of(prompt, ids.ids)
    if context is not None:
        if unused := first_given(of_one | {"--chat": chat.chat, "--level": None if level == "token" else level}):
            raise CasebackError(f"{unused} has no use with --context: leave one of them out")
        if by.method is not None and (by.method == "all" or "," in by.method):
            raise CasebackError(f"--method {by.method!r} with --context: expected one method, such as gradient_norm")
        before = prompt_of(context, ids.ids) if ids.ids else context
        after = continuation_of(continued.continuation, ids.ids)
        _of_context(of, before, given, after, generate.generate, by.method, measured.target, output)
        return
    with quiet():
        from caseback.reports.attributions import compare_attributions
        from caseback.views.page.kinds import write_page
        from caseback.views.text.attributions import print_attributions

        model = model_of(of)
        document = compare_attributions(
            model,
            chat_of(given, chat.chat),
            names,
            target=token_in(model, measured.target),
            foil=token_in(model, measured.foil),
            metric=measured.metric,
            features=level,
            baseline=baseline,
            generate=generate.generate,
            continuation=continuation_of(continued.continuation, ids.ids),
            contrast=continuation_of(contrast, ids.ids),
            seed=sample.seed,
            progress=True,
        )
    answer(
        output,
        document,
        text=lambda: print_attributions(document),
        page=lambda path: write_page(document, path),
    )


def _many(
    of: OfModel,
    many: ManyPrompts,
    sample: Sample,
    methods: str | list[str],
    level: str,
    baseline: str,
    checkpoint: Path | None,
    output: Output,
) -> None:
    """Means over a task's prompts, or a file's."""
    with quiet():
        from caseback.reports.inputs.over_prompts import attributions_over_prompts
        from caseback.views.page.kinds import write_page
        from caseback.views.text.inputs.attributed_prompts import print_attributed_prompts

        drawn = many.asked(sample)
        model = model_of(of)
        prompts, answers = drawn(model)
        answers.pop("corrupt", None)
        document = attributions_over_prompts(
            model,
            prompts,
            methods,
            features=level,
            baseline=baseline,
            seed=sample.seed,
            checkpoint=checkpoint,
            progress=True,
            **answers,
        )
    answer(
        output,
        document,
        text=lambda: print_attributed_prompts(document),
        page=lambda path: write_page(document, path),
    )


def _of_context(
    of: OfModel,
    context: str | list[int],
    current: str | list[int],
    continuation: str | list[int] | None,
    generate: int,
    method: str | None,
    target: str | None,
    output: Output,
) -> None:
    """What of a context a continuation relies on."""
    if generate and continuation is not None:
        raise CasebackError("both --generate and --continuation given: the answer is either written or given")
    with quiet():
        from caseback.localize.inputs import gradient_norm, pecore
        from caseback.localize.inputs.methods import method_named
        from caseback.reports.inputs.context import context_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.inputs.context import print_context

        model = model_of(of)
        reliance = pecore(
            model,
            context,
            current,
            continuation,
            method=gradient_norm if method is None else method_named(method)[1],
            target=token_in(model, target),
            max_new_tokens=generate or WRITTEN,
        )
        document = context_document(model, reliance, current=as_text(current))
    answer(output, document, text=lambda: print_context(document), page=lambda path: write_page(document, path))


def _list(output: Json) -> None:
    from caseback.localize.inputs import input_methods
    from caseback.reports.tables.techniques import technique_row
    from caseback.views.text.listings.techniques import print_methods

    rows = [technique_row(technique) | {"name": name} for name, technique in input_methods().items()]
    answer(output, rows, text=lambda: print_methods(rows))


def _judge(names: str | list[str], seed: int, output: Json) -> None:
    with quiet():
        from caseback.localize.inputs import known_source_test
        from caseback.views.text.judged import print_judged

        shares = known_source_test(names, seed=seed, progress=True)
    answer(output, shares, text=lambda: print_judged(shares))
