"""`caseback similar`: the contexts of a corpus in which the model's state is nearest to a prompt's."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.inputs import prompt_of
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Ids, Json, OfModel, OnePos, Site, Skip, Top
from caseback.cli.with_options import with_options


@with_options
def similar(
    folder: Annotated[Path, Argument(help="The folder that collect --activations filled.", show_default=False)],
    prompt: Annotated[str, Argument(help="The prompt whose state is looked for.", show_default=False)],
    of: OfModel = OfModel(),
    site: Site = Site("").worded(site="Which stored site, such as resid_post:5; by default the only one."),
    pos: OnePos = OnePos(),
    measure: Annotated[str, Option(help="cosine, dot or euclidean.")] = "cosine",
    skip: Skip = Skip(skip=1),
    top: Top = Top(10).worded(top="How many contexts."),
    ids: Ids = Ids(),
    output: Json = Json(),
) -> None:
    """Find the contexts of a corpus in which a site is nearest to what it is in a prompt."""
    given = prompt_of(prompt, ids.ids)
    with quiet():
        from caseback.stream import open_store
        from caseback.stream.describe import similar_contexts
        from caseback.views.text.collection import print_similar

        model = model_of(of)
        store = open_store(folder, site.site.replace(":", ".") or None)
        result = similar_contexts(
            model,
            store,
            model.tokens([given]),
            pos=pos.pos,
            top=top.top,
            measure=measure,
            skip=skip.skip,
            progress=True,
        )
    answer(output, result, text=lambda: print_similar(result))
