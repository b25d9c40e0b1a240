"""`caseback erase`: take a label out of a model's states, and see what probes and the model lose."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.inputs import names_in
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Json, Method, OfModel, Save, Seed, Site
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError, did_you_mean

MEASURES = ("kl", "loss")


@with_options
def erase(
    texts: Annotated[
        Path, Argument(help="Texts with labels: .jsonl, .json, .parquet, .csv or .tsv.", show_default=False)
    ],
    of: OfModel = OfModel(),
    text: Annotated[str, Option(help="The column of texts.")] = "text",
    label: Annotated[str, Option(help="The column of labels: what is erased.")] = "label",
    group: Annotated[
        str | None, Option(help="The column of groups, which are fitted to or judged on together.")
    ] = None,
    site: Site = Site("resid_post").worded(
        site="Where, such as resid_post (all its layers) or resid_post:3; several parted by commas."
    ),
    method: Method = Method("leace").worded(method="leace, orth, sal, mean, inlp or rlace."),
    scrub: Annotated[
        bool, Option("--scrub", help="Fit each site to states from which the label is already erased below.")
    ] = False,
    everywhere: Annotated[
        bool, Option("--everywhere", help="Erase at every position, not only a text's last.")
    ] = False,
    metric: Annotated[
        str, Option(help="kl (of the next token from the clean run) or loss (of all tokens, with --everywhere).")
    ] = "kl",
    draws: Annotated[int, Option(min=2, help="Random concepts of each kind that it is compared with.")] = 20,
    seed: Seed = Seed(),
    save: Save = Save().worded(save="Write the eraser to this file."),
    output: Json = Json(),
) -> None:
    """Erase a label from states: probes before and after, and what the model loses beside random concepts."""
    if metric not in MEASURES:
        raise CasebackError(f"--metric {metric!r} is unknown. {did_you_mean(metric, MEASURES)}")
    sites = [name.replace(":", ".") for name in names_in(site.site)]
    with quiet():
        from caseback.decode.erasure import save_eraser
        from caseback.reports.erasure import erasure_report
        from caseback.tasks.labeled_texts import labeled_texts
        from caseback.views.text.erasure import print_erasure

        labeled = labeled_texts(texts, text, label, group)
        model = model_of(of)
        document, eraser = erasure_report(
            model,
            labeled,
            sites=sites,
            method=method.method,
            scrubbed=scrub,
            everywhere=everywhere,
            metric=metric,
            draws=draws,
            seed=seed.seed,
            progress=True,
        )
        if save.save is not None:
            save_eraser(eraser, save.save, model=model)
    answer(output, document, text=lambda: print_erasure(document))
    if save.save is not None:
        say_written(save.save)
