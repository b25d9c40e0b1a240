"""Collections and what is neighbors in stores, as plain data for commands and reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caseback.errors import OutOfRange, did_you_mean
from caseback.jobs.job import Job
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import Tokens
from caseback.stream.collection import Collection
from caseback.stream.nearest import context, in_common, nearest
from caseback.stream.rows_on_disk import split_documents
from caseback.stream.store import Store
from caseback.stream.tables.registry import TABLES


def expect_tables(names: Sequence[str]) -> Any:
    """Names of tables as ``collect`` takes them; ``all`` for all that the model has.

    Raises
    ------
    OutOfRange
        For a name that no table has, with those that there are.
    """
    if list(names) == ["all"]:
        return "all"
    for name in names:
        if name not in TABLES:
            known = did_you_mean(name, TABLES, most=len(TABLES))
            raise OutOfRange(f"there is no table {name!r}. {known}")
    return list(names)


def collection_facts(collection: Collection) -> dict[str, Any]:
    """What a collection holds: tokens, and each table's arrays with their sizes; in a folder also what was split."""
    tables = {
        name: {str(key): {str(dim): int(size) for dim, size in array.sizes.items()} for key, array in dataset.items()}
        for name, dataset in ((name, collection[name]) for name in collection)
    }
    stores, corpus = [], {}
    if collection.folder is not None:
        stores = collection.sites
        corpus = split_documents(collection.folder, len(Job.open(collection.folder)))
    return {
        "model": collection.model.name,
        "tokens": collection.n_tokens,
        **corpus,
        "folder": None if collection.folder is None else str(collection.folder),
        "tables": tables,
        "activations": stores,
    }


def similar_contexts(
    model: Model,
    store: Store,
    tokens: Tokens,
    *,
    pos: int = -1,
    top: int = 10,
    measure: Any = "cosine",
    skip: int = 1,
    progress: bool = False,
) -> dict[str, Any]:
    """The contexts in which a site is nearest to what it is at a position of a prompt, and what they have in common."""
    store.expect_model(model)
    run = execute(model.anatomy, tokens, read=[store.site], logits=False)
    vector = run[store.site][0, int(tokens.column(pos)[0])].flatten()
    neighbors = nearest(store, vector, top=top, measure=measure, skip=skip, model=model, progress=progress)
    contexts = []
    for rank in range(neighbors.sizes["rank"]):
        row, place = int(neighbors.row[0, rank]), int(neighbors.pos[0, rank])
        before, after = context(store, row, place)
        contexts.append(
            {
                "score": float(neighbors[0, rank]),
                "place": int(neighbors.place[0, rank]),
                "row": row,
                "pos": place,
                "before": [model.token_text(token) for token in before[:-1]],
                "token": model.token_text(before[-1]),
                "after": [model.token_text(token) for token in after],
            }
        )
    common = [
        {"where": one.where, "token": model.token_text(one.token), "share": one.share, "base": one.base}
        for one in in_common(store, neighbors)[0]
    ]
    return {"model": model.name, "site": str(store.site), "measure": measure, "contexts": contexts, "common": common}
