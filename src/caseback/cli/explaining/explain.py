"""`caseback explain`: why the model predicted this token and not that one, with checks of every claim."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.explaining.asked import Chat, Continuation, ManyPrompts, first_given
from caseback.cli.inputs import chat_of, continuation_of, prompt_of, token_in
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import (
    Ablation,
    Contrast,
    Counterfactual,
    FittedLens,
    Generate,
    Ids,
    OfModel,
    Output,
    Resume,
    Sample,
)
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def explain(
    prompt: Annotated[str | None, Argument(help="The text whose next token is explained.", show_default=False)] = None,
    of: OfModel = OfModel(),
    contrast: Contrast = Contrast().worded(
        foil="Its contrast; by default the answer to the counterfactual, or the model's next choice."
    ),
    counterfactual: Counterfactual = Counterfactual(),
    swap: Annotated[
        str | None, Option(help="Two words whose exchange is the counterfactual, such as Mary:John.")
    ] = None,
    depth: Annotated[
        str, Option(help="How much of the causal story is measured: quick, normal, deep or none.")
    ] = "normal",
    atlas: Annotated[
        Path | None, Option(help="The model's atlas (caseback atlas --out FOLDER): what parts are known for.")
    ] = None,
    fitted: FittedLens = FittedLens().worded(
        lens="A fitted lens (caseback lens --fit --save FILE) in place of the logit lens."
    ),
    ablation: Ablation = Ablation("zero").worded(ablation="What stands in for an ablated component: zero or mean."),
    many: ManyPrompts = ManyPrompts().worded(
        task="Tell the stories of a task's prompts in place of one, and what they share.",
        prompts="The same for a file: JSON lines with prompt, target and perhaps foil and corrupt.",
    ),
    sample: Sample = Sample(count=10).worded(count="With --task, how many prompts."),
    generate: Generate = Generate(0).worded(
        generate="Tell the story of each of so many tokens that the model goes on to write."
    ),
    continued: Continuation = Continuation().worded(continuation="The same for the tokens of this answer."),
    resume: Resume = Resume().worded(checkpoint="Of several stories: a file that keeps what is done, to go on from."),
    chat: Chat = Chat(),
    ids: Ids = Ids(),
    output: Output = Output(),
) -> None:
    """Explain why the model predicts a token: the causal story, inputs, components, layers, and checks."""
    checkpoint = resume.checkpoint
    of_one = {
        "--target": contrast.target,
        "--foil": contrast.foil,
        "--corrupt": counterfactual.corrupt,
        "--swap": swap,
        "--atlas": atlas,
        "--lens": fitted.lens,
        "--ablation": None if ablation.ablation == "zero" else ablation.ablation,
    }
    if many.several:
        if unused := first_given(
            of_one
            | {"PROMPT": prompt, "--ids": ids.ids, "--chat": chat.chat, "--generate": generate.generate}
            | {"--continuation": continued.continuation}
        ):
            raise CasebackError(f"{unused} is of a single prompt: leave it out, or --task and --prompts")
        _several(of, many, sample, depth, checkpoint, output)
        return
    if prompt is None:
        raise CasebackError("no prompt given: expected a text, or --ids and token ids such as 5,1,2")
    given = chat_of(prompt_of(prompt, ids.ids), chat.chat)
    if generate.generate or continued.continuation is not None:
        if unused := first_given(of_one):
            raise CasebackError(f"{unused} is of one token: leave it out, or --generate and --continuation")
        _answer(
            of, given, continuation_of(continued.continuation, ids.ids), generate.generate, depth, checkpoint, output
        )
        return
    if checkpoint is not None:
        raise CasebackError("--checkpoint keeps several stories: give --task, --prompts, --generate or --continuation")
    with quiet():
        from caseback.behaviors import load_atlas
        from caseback.decode.vocabulary import load_lens
        from caseback.localize.counterfactuals.swapping import swapped
        from caseback.reports.explain import explain as explained
        from caseback.views.page.kinds import write_page
        from caseback.views.text.explanation import print_explanation

        known = None if atlas is None else load_atlas(atlas)
        model = model_of(of)
        corrupt = continuation_of(counterfactual.corrupt, ids.ids)
        if swap is not None:
            if corrupt is not None:
                raise CasebackError("both --corrupt and --swap given: each is the counterfactual")
            corrupt = swapped(model, given, swap)
        document = explained(
            model,
            given,
            target=token_in(model, contrast.target),
            foil=token_in(model, contrast.foil),
            corrupt=corrupt,
            depth=depth,
            atlas=known,
            lens=None if fitted.lens is None else load_lens(fitted.lens, model),
            ablation=ablation.ablation,
            progress=True,
        )
    answer(
        output,
        document,
        text=lambda: print_explanation(document),
        page=lambda path: write_page(document, path),
    )


def _answer(
    of: OfModel,
    prompt: Any,
    continuation: str | list[int] | None,
    generate: int,
    depth: str,
    checkpoint: Path | None,
    output: Output,
) -> None:
    """The story of each token of an answer."""
    if generate and continuation is not None:
        raise CasebackError("both --generate and --continuation given: the answer is either written or given")
    with quiet():
        from caseback.reports.story.answer import answer_stories
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.stories import print_stories

        model = model_of(of)
        document = answer_stories(
            model,
            prompt,
            continuation,
            max_new_tokens=max(generate, 1),
            depth=depth,
            checkpoint=checkpoint,
            progress=True,
        )
    answer(output, document, text=lambda: print_stories(document), page=lambda path: write_page(document, path))


def _several(
    of: OfModel, many: ManyPrompts, sample: Sample, depth: str, checkpoint: Path | None, output: Output
) -> None:
    """The stories of a task's prompts, or of a file's."""
    with quiet():
        from caseback.reports.story.several import stories
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.stories import print_stories

        drawn = many.asked(sample)
        model = model_of(of)
        prompts, answers = drawn(model)
        document = stories(
            model, prompts, depth=depth, seed=sample.seed, checkpoint=checkpoint, progress=True, **answers
        )
    answer(output, document, text=lambda: print_stories(document), page=lambda path: write_page(document, path))
