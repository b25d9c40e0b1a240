"""True and false statements: CSV with the columns statement and label. (Geometry of Truth, Marks & Tegmark 2023)

    statement,label,city,country,correct_country
    The city of Krasnodar is in Russia.,1,Krasnodar,Russia,Russia

The label is 1 where the statement is true. Further columns say what it is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from caseback.model.arguments import checked
from caseback.tasks.formats.reading import Examples, Malformed, csv_rows, examples

LABELS = {"1": True, "0": False, "true": True, "false": False, "1.0": True, "0.0": False}


@dataclass(frozen=True)
class Statement:
    """A statement that is true or false.

    Attributes
    ----------
    text
        The statement.
    label
        Whether it is true.
    about
        The row's other columns, as text.
    group
        The set it comes from: the file's name.
    """

    text: str
    label: bool
    about: Mapping[str, str] = field(default_factory=dict)
    group: str = ""


@checked
def statements(path: str | Path, *, skip_malformed: bool = False, limit: int | None = None) -> Examples[Statement]:
    r"""Read true and false statements, for probes and directions of truth.

    Parameters
    ----------
    path
        A CSV file with the columns ``statement`` and ``label``, which is 1 or 0, or true or false.
    skip_malformed
        Count malformed rows in ``dropped`` instead of raising.
    limit
        Stop after so many statements.

    Raises
    ------
    LoadError
        For a header without these columns or a malformed row, with its line.

    References
    ----------
    Marks & Tegmark 2023, "The Geometry of Truth".

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "cities.csv"
    >>> _ = file.write_text("statement,label,city\nThe city of Rome is in Italy.,1,Rome\n")
    >>> statement = statements(file)[0]
    >>> statement.label, statement.about["city"], statement.group
    (True, 'Rome', 'cities')
    """

    def make(row: dict[str, str]) -> Statement:
        label = LABELS.get(row["label"].strip().lower())
        if label is None:
            raise Malformed("a label of 1 or 0, or true or false", row["label"])
        if not row["statement"].strip():
            raise Malformed("a statement", row["statement"])
        about = {name: value for name, value in row.items() if name not in ("statement", "label")}
        return Statement(row["statement"], label, about, Path(path).stem)

    records = csv_rows(path, "statement", "label")
    return examples(path, records, make, skip_malformed=skip_malformed, limit=limit)
