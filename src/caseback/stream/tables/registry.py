"""Tables by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from caseback.errors import CasebackError, did_you_mean
from caseback.stream.tables.residual import StreamMoments
from caseback.stream.tables.table import Table

TABLES: dict[str, type[Table]] = {table.name: table for table in (StreamMoments,)}
TableSpec = str | Mapping[str, Mapping[str, Any]] | Table


def tables_of(specs: Iterable[TableSpec] | Mapping[str, Mapping[str, Any]]) -> dict[str, Table]:
    """Tables from their names, ``{name: options}``, or themselves."""
    specs = [specs] if isinstance(specs, str | Mapping | Table) else list(specs)
    chosen: dict[str, Table] = {}
    for spec in specs:
        if isinstance(spec, Table):
            chosen[spec.name] = spec
            continue
        for name, options in ({spec: {}} if isinstance(spec, str) else spec).items():
            if name not in TABLES:
                raise CasebackError(f"there is no table {name!r}. {did_you_mean(name, TABLES)}")
            chosen[name] = TABLES[name](**options)
    return chosen
