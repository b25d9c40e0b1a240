"""`caseback erase`: take a label out of a model's states, and see what probes and the model lose."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.inputs import names_in
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Columns, Draws, Method, OfModel, Output, Save, Seed, Site
from caseback.cli.with_options import with_options


@with_options
def erase(
    texts: Annotated[
        Path, Argument(help="Texts with labels: .jsonl, .json, .parquet, .csv or .tsv.", show_default=False)
    ],
    of: OfModel = OfModel(),
    columns: Columns = Columns().worded(label="The column of labels: what is erased."),
    site: Site = Site("resid_post").worded(
        site="Where, such as resid_post (all its layers) or resid_post:3; several parted by commas."
    ),
    method: Method = Method("leace").worded(
        method="leace, orth, sal, mean, inlp or rlace; oracle or quadratic, which take each text's label."
    ),
    scrub: Annotated[
        bool, Option("--scrub", help="Fit each site to states from which the label is already erased below.")
    ] = False,
    everywhere: Annotated[
        bool, Option("--everywhere", help="Erase at every position, not only a text's last.")
    ] = False,
    loss: Annotated[
        bool, Option("--loss", help="Measure the loss of all tokens, not the next token's KL; with --everywhere.")
    ] = False,
    draws: Draws = Draws().worded(draws="Random concepts of each kind that it is compared with."),
    seed: Seed = Seed(),
    save: Save = Save().worded(save="Write the eraser to this file."),
    output: Output = Output(),
) -> None:
    """Erase a label from states: probes before and after, and what the model loses beside random concepts."""
    sites = [name.replace(":", ".") for name in names_in(site.site)]
    with quiet():
        from caseback.decode.erasure import save_eraser
        from caseback.reports.concepts.erasure import erasure_report
        from caseback.tasks.labeled_texts import labeled_texts
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.erasure import print_erasure

        labeled = labeled_texts(texts, columns.text, columns.label, columns.group)
        model = model_of(of)
        document, eraser = erasure_report(
            model,
            labeled,
            sites=sites,
            method=method.method,
            scrubbed=scrub,
            everywhere=everywhere,
            metric="loss" if loss else "kl",
            draws=draws.draws,
            seed=seed.seed,
            progress=True,
        )
        if save.save is not None:
            save_eraser(eraser, save.save, model=model)
    answer(output, document, text=lambda: print_erasure(document), page=lambda path: write_page(document, path))
    if save.save is not None:
        say_written(save.save)
