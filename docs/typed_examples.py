"""Writes the examples of the docs and of the README as Python files, for the type checker (`make lint`).

Each page becomes one file of the same statements in the same order, without what they print. Examples that show an
error are left out: they are wrong on purpose. That what may be None is there, an example knows and need not say.

    python docs/typed_examples.py FOLDER
"""

import doctest
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def of_page(text: str) -> str:
    """The statements of a page's examples."""
    examples = doctest.DocTestParser().get_examples(text)
    return "".join(example.source for example in examples if example.exc_msg is None)


def main(folder: Path) -> None:
    """Write them all, in place of what the folder had."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.py"):
        old.unlink()
    for path in [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]:
        if source := of_page(path.read_text(encoding="utf-8")):
            name = "_".join(path.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
            (folder / f"{name}.py").write_text(source, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
