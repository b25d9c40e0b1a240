"""`caseback directions`: along what does a label vary in a model's states, and do ways of finding it agree?"""

from pathlib import Path
from typing import Annotated

from typer import Argument

from caseback.cli.answer import answer, say_written
from caseback.cli.inputs import names_in
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Columns, Mean, Methods, OfModel, OnePos, Output, Save, Seed, Site, Toward
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def directions(
    texts: Annotated[
        Path,
        Argument(help="Texts with one of two labels: .jsonl, .json, .parquet, .csv or .tsv.", show_default=False),
    ],
    columns: Columns = Columns().worded(label="The column of labels, of which there are two."),
    of: OfModel = OfModel(),
    toward: Toward = Toward(),
    site: Site = Site("resid_post").worded(
        site="Where, such as resid_post (all its layers) or z:3 (its heads); several parted by commas."
    ),
    pos: OnePos = OnePos(-1).worded(pos="The token of each text that is read; by default its last."),
    mean: Mean = Mean(),
    methods: Methods = Methods("mean_difference,lda,logistic,pca").worded(
        method="Ways, parted by commas: mean_difference, lda, logistic, ridge, pca, kmeans, random."
    ),
    seed: Seed = Seed(),
    save: Save = Save().worded(save="Write the directions of the first way to this file, as .safetensors."),
    output: Output = Output(),
) -> None:
    """Find the direction between two labels in several ways at every layer: how well each tells, how far they agree."""
    with quiet():
        from caseback.decode.directions import save_directions
        from caseback.reports.concepts.directions import directions_report
        from caseback.tasks.labeled_texts import labeled_texts
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.directions import print_directions

        read = labeled_texts(texts, columns.text, columns.label, columns.group)
        positive = (
            None if toward.toward is None else next((one for one in read.labels if str(one) == toward.toward), None)
        )
        if toward.toward is not None and positive is None:
            raise CasebackError(f"--toward {toward.toward!r} is no label of {texts}")
        document, by_way = directions_report(
            model_of(of),
            read,
            sites=[name.replace(":", ".") for name in names_in(site.site)],
            pos=pos.pos,
            reduce="mean" if mean.mean else None,
            ways=names_in(methods.method or ""),
            positive=positive,
            label=columns.label,
            seed=seed.seed,
            progress=True,
        )
        if save.save is not None:
            save_directions(by_way[document["ways"][0]], save.save)
    answer(output, document, text=lambda: print_directions(document), page=lambda path: write_page(document, path))
    if save.save is not None:
        say_written(save.save)
