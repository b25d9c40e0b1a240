"""Every table by its name, and how a list of names becomes tables.

"neuron_windows" | {"neuron_windows": {"k": 10}} | NeuronWindows(k=10)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from caseback.errors import CasebackError, did_you_mean
from caseback.stream.tables.attention.direct import HeadDirect
from caseback.stream.tables.attention.heads import HeadMoments
from caseback.stream.tables.attention.offsets import AttentionOffsets
from caseback.stream.tables.attention.predicted import AttentionPredicted
from caseback.stream.tables.attention.query_key_means import QueryKeyMeans
from caseback.stream.tables.attention.received import AttentionReceived
from caseback.stream.tables.attention.relations import AttentionRelations
from caseback.stream.tables.by_document import ExpertDocuments, HeadDocuments, NeuronDocuments
from caseback.stream.tables.neurons.groups import NeuronGroups
from caseback.stream.tables.neurons.histograms import NeuronHistograms
from caseback.stream.tables.neurons.moments import NeuronMoments
from caseback.stream.tables.neurons.windows import NeuronWindows
from caseback.stream.tables.output_statistics import OutputStatistics
from caseback.stream.tables.reservoir import Reservoir
from caseback.stream.tables.residual import StreamMoments
from caseback.stream.tables.router_counts import RouterCounts
from caseback.stream.tables.second_moments import SecondMoments
from caseback.stream.tables.table import Table
from caseback.stream.tables.token_counts import TokenCounts

TABLES: dict[str, type[Table]] = {
    kind.name: kind
    for kind in (
        AttentionOffsets,
        AttentionRelations,
        AttentionReceived,
        AttentionPredicted,
        HeadMoments,
        HeadDirect,
        QueryKeyMeans,
        NeuronMoments,
        NeuronHistograms,
        NeuronGroups,
        NeuronWindows,
        NeuronDocuments,
        HeadDocuments,
        ExpertDocuments,
        Reservoir,
        StreamMoments,
        SecondMoments,
        OutputStatistics,
        RouterCounts,
        TokenCounts,
    )
}

TableLike = str | Mapping[str, Mapping[str, Any]] | Table


def tables_of(given: TableLike | Iterable[TableLike]) -> dict[str, Table]:
    """Tables by a name of their own: that of their kind, with a number from the second of a kind on.

    Parameters
    ----------
    given
        Names, mappings of names to options, tables; one or several.

    Raises
    ------
    CasebackError
        For a name or an option that does not exist, and an option that is refused.

    Examples
    --------
    >>> tables = tables_of(["neuron_windows", {"neuron_windows": {"site": "resid_post", "k": 5}}])
    >>> {name: table.k for name, table in tables.items()}
    {'neuron_windows': 20, 'neuron_windows_2': 5}
    """
    one = isinstance(given, str | Mapping | Table)
    if not one and not isinstance(given, Iterable):
        raise CasebackError(f"{given!r} names no tables: expected names such as 'neuron_moments', or {{name: options}}")
    tables: dict[str, Table] = {}
    for item in [given] if one else given:
        for table in _tables(item):
            number = 1 + sum(type(other) is type(table) for other in tables.values())
            tables[table.name if number == 1 else f"{table.name}_{number}"] = table
    return tables


def _tables(item: Any) -> list[Table]:
    if isinstance(item, Table):
        return [item]
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, Mapping):
        raise CasebackError(f"{item!r} is no table: expected a name such as 'neuron_moments', or {{name: options}}")
    return [_table(name, options) for name, options in item.items()]


def _table(name: Any, options: Any) -> Table:
    kind = TABLES.get(name)
    if kind is None:
        raise CasebackError(f"no table is called {name!r}. {did_you_mean(str(name), TABLES, most=len(TABLES))}")
    if not isinstance(options, Mapping):
        raise CasebackError(f"options of table {name} are {options!r}: expected them by name")
    known = {field.name for field in fields(kind)}
    for option in options:
        if option not in known:
            raise CasebackError(f"table {name} has no option {option!r}. {did_you_mean(str(option), known)}")
    values = {option: tuple(value) if isinstance(value, list) else value for option, value in options.items()}
    return kind(**values)
