"""The detectors of truth by name: what each reads, how it is fitted, and what it takes of statements.

A fitted detector has states at several places, of which other topics choose one. A score needs no fitting and counts as
higher where a statement is held to be true. Baselines are what any detector has to be better than.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from caseback.behaviors.truth.fitting import Fitted, Known, ccs, logistic, mass_mean, saplma, two_dimensional
from caseback.errors import CasebackError, did_you_mean
from caseback.tasks.statements import Statements

Needs = Literal["negated", "subject", "answer", "samples"]
LACKS = {
    "negated": "statements both affirmative and negated",
    "subject": "the subject of every statement",
    "answer": "the place where every statement's answer begins",
    "samples": "several sampled answers to each question",
}


@dataclass(frozen=True)
class Detector:
    """One way to tell what is true.

    Attributes
    ----------
    name
        By which it is asked for.
    about
        What it is, in words.
    reads
        Which features, a key of what ``features`` reads.
    fit
        How it is fitted; None for a score.
    needs
        What statements must have.
    baseline
        Whether it is one of those that every other stands beside.
    most
        At how many places it is fitted at most, at even distances; None: at all.
    teacher
        A score whose high and low values it is fitted to, in place of truth.
    citation
        Whose it is.
    """

    name: str
    about: str
    reads: str
    fit: Callable[[Known], Fitted] | None = None
    needs: tuple[Needs, ...] = ()
    baseline: bool = False
    most: int | None = None
    teacher: str | None = None
    citation: str = ""

    def lacks(self, statements: Statements, samples: bool = False) -> str | None:
        """What of its needs these statements do not have, in words."""
        for need in self.needs:
            if need == "samples":
                if not samples:
                    return LACKS[need]
            elif not has(statements, need):
                return LACKS[need]
        return None


def has(statements: Statements, need: str) -> bool:
    """Whether statements have what a detector needs."""
    if need == "negated":
        return bool(statements.negated.any()) and not bool(statements.negated.all())
    places: Sequence[object] = statements.subjects if need == "subject" else statements.answers
    return all(place is not None for place in places)


DETECTORS = {
    detector.name: detector
    for detector in (
        Detector("mass_mean", "difference of means", "stream", mass_mean, citation="Marks & Tegmark 2023"),
        Detector("logistic", "linear probe", "stream", logistic, citation="Marks & Tegmark 2023"),
        Detector("saplma", "multilayer perceptron", "upper stream", saplma, most=8, citation="Azaria & Mitchell 2023"),
        Detector(
            "ccs",
            "consistency with the negation, without labels",
            "stream",
            ccs,
            needs=("negated",),
            most=4,
            citation="Burns et al. 2023",
        ),
        Detector(
            "two_dimensional",
            "plane of truth and polarity",
            "stream",
            two_dimensional,
            needs=("negated",),
            citation="Buerger et al. 2024",
        ),
        Detector("head", "linear probe of one head's z", "heads", logistic, citation="Li et al. 2023a"),
        Detector(
            "constraint",
            "attention to the subject, all heads",
            "constraint",
            logistic,
            needs=("subject",),
            citation="Yuksekgonul et al. 2024",
        ),
        Detector(
            "lookback",
            "attention to the context beside that to the answer, all heads",
            "lookback",
            logistic,
            needs=("answer",),
            citation="Chuang et al. 2024",
        ),
        Detector(
            "sharpness",
            "how few context tokens call for the answer",
            "sharpness",
            needs=("answer",),
            citation="Chen S. et al. 2024",
        ),
        Detector("attribute", "the answer in upper layers' lens", "attribute", needs=("answer",)),
        Detector(
            "answer_log_prob",
            "log probability of the answer",
            "answer log_prob",
            needs=("answer",),
            citation="Guerreiro et al. 2023a",
        ),
        Detector("min_prob", "least probable token of the answer", "min_prob", citation="Varshney et al. 2023"),
        Detector("entropy", "certainty of the answer's tokens", "entropy", citation="Varshney et al. 2023"),
        Detector(
            "eigenscore",
            "how alike sampled answers' states are",
            "eigenscore",
            needs=("samples",),
            citation="Chen C. et al. 2024",
        ),
        Detector(
            "semantic_entropy",
            "how few things sampled answers say",
            "semantic_entropy",
            needs=("samples",),
            citation="Kuhn et al. 2023",
        ),
        Detector(
            "entropy_probe",
            "linear probe for low semantic entropy",
            "stream",
            logistic,
            needs=("samples",),
            teacher="semantic_entropy",
            citation="Kossen et al. 2024",
        ),
        Detector("log_prob", "log probability of the statement", "log_prob", baseline=True),
        Detector("mean_log_prob", "the same by token", "mean_log_prob", baseline=True),
        Detector("length", "tokens and characters", "length", logistic, baseline=True),
        Detector("bag_of_tokens", "words alone", "bag", logistic, baseline=True),
        Detector("untrained", "linear probe of an untrained model", "untrained", logistic, baseline=True),
    )
}
ACTIVATIONS = ("mass_mean", "logistic", "saplma", "ccs", "two_dimensional", "head")


def chosen_detectors(
    methods: Sequence[str] | None, statements: Statements, untrained: bool, samples: bool = False
) -> tuple[list[Detector], dict[str, str]]:
    """The detectors that are asked for, baselines among them, and what is left out for what it lacks.

    Raises
    ------
    CasebackError
        For a name that is unknown, and a detector asked for by name whose needs statements do not have.
    """
    for name in methods or ():
        if name not in DETECTORS:
            raise CasebackError(f"no detector is called {name!r}. {did_you_mean(name, DETECTORS, most=len(DETECTORS))}")
    asked = list(DETECTORS) if methods is None else list(dict.fromkeys(methods))
    taken, left = [], {}
    for name, detector in DETECTORS.items():
        if name not in asked and not detector.baseline:
            continue
        if name == "untrained" and not untrained and name not in (methods or ()):
            continue
        lacks = detector.lacks(statements, samples)
        if lacks is None:
            taken.append(detector)
        elif methods is None:
            left[name] = lacks
        else:
            raise CasebackError(f"{name} takes {lacks}, which these do not have")
    return taken, left
