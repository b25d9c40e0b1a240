"""`caseback probe`: is a label readable from a model's states, where, and more than from words alone?"""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.inputs import names_in
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Columns, Mean, Method, OfModel, OnePos, Output, Save, Seed, Site
from caseback.cli.with_options import with_options


@with_options
def probe(
    texts: Annotated[
        Path,
        Argument(help="A file of texts with a label each: .jsonl, .json, .parquet, .csv or .tsv.", show_default=False),
    ],
    columns: Columns = Columns().worded(label="The column of labels: what is probed for."),
    of: OfModel = OfModel(),
    site: Site = Site("resid_post").worded(
        site="Where, such as resid_post (all its layers) or z:3 (its heads); several parted by commas."
    ),
    pos: OnePos = OnePos(-1).worded(pos="The token of each text that is read; by default its last."),
    mean: Mean = Mean(),
    method: Method = Method("logistic").worded(method="logistic, ridge, lda or mass_mean."),
    no_baselines: Annotated[
        bool, Option("--no-baselines", help="Leave out words alone, embeddings and an untrained model.")
    ] = False,
    seed: Seed = Seed(),
    save: Save = Save().worded(save="Write the probe to this file."),
    output: Output = Output(),
) -> None:
    """Fit linear probes for a label at every layer, and judge them on texts that were held out."""
    with quiet():
        from caseback.decode.probes import save_probe
        from caseback.reports.concepts.probe import probe_prompts
        from caseback.tasks.labeled_texts import labeled_texts
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.probe import print_probe

        read = labeled_texts(texts, columns.text, columns.label, columns.group)
        document, probe = probe_prompts(
            model_of(of),
            read.texts,
            read.labels,
            groups=read.groups,
            sites=[name.replace(":", ".") for name in names_in(site.site)],
            pos=pos.pos,
            reduce="mean" if mean.mean else None,
            method=method.method,  # pyright: ignore[reportArgumentType]
            baselines=not no_baselines,
            label=columns.label,
            seed=seed.seed,
            progress=True,
        )
        if save.save is not None:
            save_probe(probe, save.save)
    answer(
        output,
        document,
        text=lambda: print_probe(document),
        page=lambda path: write_page(document, path),
    )
    if save.save is not None:
        say_written(save.save)
