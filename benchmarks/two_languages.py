"""Does one head say a verb's number in several languages? English beside French and Spanish, in one model.

    python benchmarks/two_languages.py MODEL [--languages english french] [--count 16] [--write FOLDER]

Nouns of one token or more with their article, before two forms of a verb. French and Spanish are written below; English
is the package's own task. ``--write`` leaves the pairs as files for ``caseback behavior --pairs FILE --pairs FILE``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import caseback as cb
from caseback.behaviors import overlap, pair_sets
from caseback.tasks import Pair, Text

FRENCH = (
    *("Le chien Les chiens", "Le garçon Les garçons", "Le livre Les livres", "Le roi Les rois", "Le mur Les murs"),
    *("Le frère Les frères", "Le jardin Les jardins", "Le lion Les lions", "Le village Les villages"),
    *("Le soldat Les soldats", "Le train Les trains", "Le port Les ports", "Le film Les films", "Le lac Les lacs"),
    *("La fille Les filles", "La maison Les maisons", "La table Les tables", "La ville Les villes"),
    *("La porte Les portes", "La route Les routes", "La lettre Les lettres", "La rose Les roses"),
    *("La machine Les machines", "La carte Les cartes"),
)
SPANISH = (
    *("El perro Los perros", "El gato Los gatos", "El libro Los libros", "El hijo Los hijos", "El amigo Los amigos"),
    *("El hermano Los hermanos", "El niño Los niños", "El barco Los barcos", "El pueblo Los pueblos"),
    *("El caballo Los caballos", "El banco Los bancos", "El río Los ríos", "El grupo Los grupos"),
    *("El soldado Los soldados", "La casa Las casas", "La mesa Las mesas", "La puerta Las puertas"),
    *("La mujer Las mujeres", "La playa Las playas", "La carta Las cartas", "La reina Las reinas"),
    *("La hija Las hijas", "La vaca Las vacas", "La flor Las flores"),
)
VERBS = {"french": ((" est", " sont"), (" a", " ont")), "spanish": ((" es", " son"), (" tiene", " tienen"))}
NUMBERS = ("singular", "plural")


def pairs_of(language: str, nouns: tuple[str, ...]) -> list[Pair]:
    """Both numbers of every noun before each verb."""
    listed = []
    for words in nouns:
        parts = words.split(" ")
        forms = [" ".join(parts[:2]), " ".join(parts[2:])]
        for verb in VERBS[language]:
            for n in (0, 1):
                clean, corrupt = (Text(form, {"subject": (0, len(form))}) for form in (forms[n], forms[1 - n]))
                listed.append(
                    Pair.of(clean, corrupt, verb[n], verb[1 - n], corrupt_target=verb[1 - n], group=NUMBERS[n])
                )
    return listed


def main() -> None:
    """Print margins, heads, what they share and what their vectors do elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--languages", nargs="+", default=["english", "french", "spanish"])
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    model = cb.load(asked.model)
    english = cb.tasks.agreement(structure="simple").prompts(model, 4 * asked.count).pairs
    sets = {"english": [replace(pair, group=pair.group.split()[1]) for pair in english]}
    sets |= {"french": pairs_of("french", FRENCH), "spanish": pairs_of("spanish", SPANISH)}
    sets = {name: sets[name] for name in asked.languages}
    for name, pairs in sets.items() if asked.write else ():
        rows = [
            {"clean_prefix": pair.clean.text, "patch_prefix": pair.corrupt.text, "case": pair.group}
            | {"clean_answer": pair.target[0], "patch_answer": pair.foil[0]}
            for pair in pairs
        ]
        (asked.write / f"{name}.json").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    reports = pair_sets(model, sets, prompts=asked.count, progress=True)
    print("| set | margin | shuffled | right | proved |\n|---|---|---|---|---|")
    for report in reports:
        heads = ", ".join(
            f"{one.component} ({one.effect:+.2f})" for one in report.heads if one.grade == "proved"
        )  # fmt: skip
        m = report.margin
        print(
            f"| {report.behavior} | {m.clean:+.2f} ± {m.error:.2f} | {m.band:+.2f} | {m.right:.0%} | "
            f"{heads if report.present else 'absent'} |"
        )
    print("\n| moved | into | foil's log probability | moved | random | other heads | counterfactual | flipped |")
    print("|---|---|---|---|---|---|---|---|")
    for report in reports:
        for one in report.transfers:
            by = one.by["log_prob"]
            numbers = " | ".join(f"{by[key]:.2f}" for key in ("without", "with", "band", "other", "shown"))
            flipped = one.by["accuracy"]
            print(
                f"| {one.vector} | {one.prompts} | {numbers} | {flipped['without']:.0%} → {flipped['with']:.0%} "
                f"(random {flipped['band']:.0%}) {'carries' if one.carries else ''} |"
            )
    for one, other in combinations([report for report in reports if report.present], 2):
        print(overlap(one, other))


if __name__ == "__main__":
    main()
