"""Which decoder families load: a tiny random model of every causal LM class of transformers, one row each.

    python benchmarks/families.py [NAME ...] [--refused]

A model counts as verified when ``cb.load`` found its parts and every identity of ``caseback.model.running.verify``
held, ``declared`` where the family is in ``caseback.model.anatomy.families``, ``guessed`` where the common spellings
fitted. The models and the judgement of what is a decoder of attention and MLP layers only are the test suite's
(``zoo_sweep``).
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

import caseback as cb

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from zoo_sweep import Specimen, sweep


def verdict(specimen: Specimen) -> tuple[str, str]:
    """One word for a specimen, and the reason where it is not verified."""
    if specimen.model is None:
        return "not built", first_line(specimen.error)
    if not specimen.attention_only:
        return "other", str(specimen.obstacle)
    try:
        model = cb.load(specimen.model)
    except cb.CasebackError as error:
        return "refused", first_line(error)
    except Exception as error:  # noqa: BLE001  a load that breaks instead of refusing is a defect to show
        return "crashed", first_line(error)
    return ("declared" if model.declared else "guessed"), ""


def first_line(error: Exception | None) -> str:
    """An error's first line, without what every undeclared family's refusal says around it."""
    text = (str(error).strip().splitlines() or [""])[0]
    text = text.split("the common layout does not fit it: ")[-1].split(". Declared: ")[0]
    return f"{type(error).__name__}: {text}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", help="model types; all of transformers' mapping if none")
    options.add_argument("--refused", action="store_true", help="print the refused ones only")
    chosen = options.parse_args()
    logging.set_verbosity_error()
    count: Counter[str] = Counter()
    for specimen in sweep(chosen.names or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        word, why = verdict(specimen)
        count[word] += 1
        if word in ("refused", "crashed") or not chosen.refused:
            print(f"{specimen.name:24s} {specimen.class_name:34s} {word:10s} {why}", flush=True)
    verified = count["declared"] + count["guessed"]
    plain = verified + count["refused"] + count["crashed"]
    print(
        f"{sum(count.values())} classes: {count['not built']} not built, {count['other']} not attention only, "
        f"{plain} decoders of attention and MLPs\n"
        f"of these {verified} verified ({count['declared']} declared, {count['guessed']} by the common spellings), "
        f"{count['refused']} refused, {count['crashed']} crashed"
    )


if __name__ == "__main__":
    main()
