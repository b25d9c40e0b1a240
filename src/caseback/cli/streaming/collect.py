"""`caseback collect`: one pass of a model over a corpus, for tables of statistics and stored activations."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.inputs import names_in, numbers
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Json, Launched, OfModel, Seed, Stored
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def collect(
    corpus: Annotated[
        Path, Argument(help="A file of texts, JSON lines or Parquet, or a folder of such files.", show_default=False)
    ],
    of: OfModel = OfModel(),
    tables: Annotated[str | None, Option(help="Tables by name, parted by commas, or all.")] = None,
    activations: Annotated[
        str | None, Option(help="Sites whose activations are stored, such as resid_post:5,mlp_post:0.")
    ] = None,
    vllm_layers: Annotated[
        str | None,
        Option(help="CORPUS is a folder of vLLM's extracted hidden states, of these layer ids in vLLM's order: 6,12."),
    ] = None,
    column: Annotated[str, Option(help="Where records have their text.")] = "text",
    stored: Stored = Stored().worded(
        max_length="Tokens of a row at most; by default 128, or the model's context if that is less.",
        store="The folder of the job, to go on from; it is needed.",
    ),
    shard_tokens: Annotated[int | None, Option(min=1, help="Tokens of a shard: what an interruption costs.")] = None,
    interleave: Annotated[int, Option(min=1, help="So many shards are filled at a time, documents at random.")] = 1,
    seed: Seed = Seed(),
    launched: Launched = Launched(),
    output: Json = Json(),
) -> None:
    """Run a model over a corpus once and keep tables of statistics, activations, or both."""
    if stored.store is None:
        raise CasebackError("name a folder to collect into: --store FOLDER")
    with quiet():
        from caseback.stream import collect as collect_from
        from caseback.stream import collect_vllm
        from caseback.stream.describe import collection_facts, expect_tables

        chosen = expect_tables(names_in(tables or ""))
        model = model_of(of)
        to = {"folder": stored.store, "shard_tokens": shard_tokens, "progress": True}
        if vllm_layers is not None:
            others = {
                "--tables": chosen,
                "--activations": activations,
                "--column": column != "text",
                "--max-length": stored.max_length,
                "--interleave": interleave != 1,
                "--workers": launched.workers != 1,
                "--on": launched.on != "here",
                "--threads": launched.threads,
            }
            if ignored := [option for option, given in others.items() if given]:
                raise CasebackError(f"vLLM's files are taken as they are: leave out {' and '.join(ignored)}")
            collection = collect_vllm(corpus, model, numbers(vllm_layers, "--vllm-layers") or [], **to)
        else:
            collection = collect_from(
                model,
                corpus,
                chosen,
                activations=[site.replace(":", ".") for site in names_in(activations or "")],
                length=stored.max_length,
                column=column,
                interleave=interleave,
                seed=seed.seed,
                workers=launched.workers,
                on=launched.on,
                threads=launched.threads,
                **to,
            )
        facts = collection_facts(collection)
        from caseback.views.text.collection import print_collection
    answer(output, facts, text=lambda: print_collection(facts))
