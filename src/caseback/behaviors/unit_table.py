"""An atlas as a table for machines: a row for every unit that was looked at, whatever was found of it.

    unit, sort, layer, index      L2H0, head, 2, 0; in this order: heads, neurons, experts, each layer by layer
    labels, proved                kinds, as lists
    KIND score, control, band     of every kind that was looked for; empty for units of another sort
    KIND class                    the domain, relation, letter ... of the kinds that have them

Rows do not depend on scores, so tables of checkpoints or seeds of one shape stand row by row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from caseback.behaviors.atlas import Atlas
from caseback.behaviors.evidence import SORTS
from caseback.errors import WriteError
from caseback.jobs.whole_file import whole_file
from caseback.model.arguments import checked
from caseback.model.graph.names import parse_name

if TYPE_CHECKING:
    import pyarrow

NUMBERS = ("score", "control", "band")


@checked
def unit_table(atlas: Atlas) -> pd.DataFrame:
    """Every unit of an atlas with its labels and the numbers of every kind.

    Parameters
    ----------
    atlas
        What ``atlas`` or ``load_atlas`` gave.

    Returns
    -------
    pd.DataFrame
        A row for each unit: ``unit``, ``sort``, ``layer``, ``index``, ``labels`` and ``proved`` (lists of kinds), and
        for each kind ``KIND score``, ``KIND control`` and ``KIND band``, NaN for units of another sort; then ``KIND
        class`` of the kinds whose units are of a class.

    Examples
    --------
    >>> import caseback as cb
    >>> found = cb.behaviors.atlas(cb.load("meadow"), kinds=["induction"], proofs=False)
    >>> table = unit_table(found)
    >>> table.loc[10, ["unit", "labels"]].tolist(), len(table)
    (['L2H0', ['induction']], 20)
    """
    frames = {kind: frame.set_index("unit") for kind, frame in atlas.scores.items()}
    units = dict.fromkeys(str(unit) for frame in frames.values() for unit in frame.index)
    parsed = {unit: parse_name(unit) for unit in units}
    order = sorted(units, key=lambda unit: (SORTS.index(parsed[unit].kind), parsed[unit].layer, parsed[unit].index))
    labels = atlas.labels()
    proved: dict[str, list[str]] = {}
    for one in atlas.candidates:
        if one.grade == "proved":
            proved.setdefault(one.component, []).append(one.kind)
    about = {
        "unit": order,
        "sort": [parsed[unit].kind for unit in order],
        "layer": [parsed[unit].layer for unit in order],
        "index": [parsed[unit].index for unit in order],
        "labels": [labels.get(unit, []) for unit in order],
        "proved": [proved.get(unit, []) for unit in order],
    }
    numbers = {
        f"{kind} {name}": frame[name].reindex(order).to_numpy(dtype=float)
        for kind, frame in frames.items()
        for name in NUMBERS
    }
    classes = {f"{kind} class": frame["class"].reindex(order) for kind, frame in frames.items() if "class" in frame}
    table = pd.DataFrame(about | numbers)
    return table.assign(**{name: values.to_numpy(dtype=object) for name, values in classes.items()})


@checked
def save_unit_table(atlas: Atlas, path: str | Path) -> None:
    """Write ``unit_table`` as Parquet, with what the atlas is of as JSON in the file's metadata (``caseback``).

    Parameters
    ----------
    atlas
        What ``atlas`` or ``load_atlas`` gave.
    path
        The file; one that is there is replaced.

    Raises
    ------
    WriteError
        Where it cannot be written, or pyarrow, which writes it, is not installed.

    Examples
    --------
    ::

        save_unit_table(load_atlas("folder"), "units.parquet")
        pandas.read_parquet("units.parquet").query("sort == 'head'")
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise WriteError("writing Parquet needs pyarrow: pip install 'caseback[data]'") from None
    with whole_file(path) as draft:
        parquet.write_table(_arrow(atlas), draft, compression="zstd")


def _arrow(atlas: Atlas) -> pyarrow.Table:
    import pyarrow

    table = unit_table(atlas)
    lists, text = pyarrow.list_(pyarrow.string()), pyarrow.string()
    types = {"unit": text, "sort": text, "layer": pyarrow.int32(), "index": pyarrow.int32()}
    types |= {"labels": lists, "proved": lists}
    # named one by one: the types of an empty atlas are those of any other
    types |= {str(name): text for name in table.columns if str(name).endswith(" class")}
    schema = pyarrow.schema([(name, types.get(name, pyarrow.float32())) for name in table.columns])
    about = json.dumps({name: value for name, value in atlas.about.items() if value is not None})
    return pyarrow.Table.from_pandas(table, schema, preserve_index=False).replace_schema_metadata({"caseback": about})
