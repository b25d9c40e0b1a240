"""Who has a role: candidates on some prompts, and what becomes of them on others.

    seen     look > .1  and  look - control > t(1 - .05 / n) standard errors of the paired difference over prompts
    chosen   of the heads that are seen with n = 1, those of the largest falls; on other prompts n is how many they are
    alone    sign x fall > quantile .95 of parts of like depth, a twentieth of the metric's fall to the corrupt run, and
             two of its standard errors
    among    all candidates with the look, exchanged at once, are past random sets as large and that twentieth, and the
             part's own return brings back a tenth of it

Heads of a role make up for one another, so each may be dispensable by itself: hence the second way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from caseback.behaviors.mechanisms.role import Role
from caseback.behaviors.mechanisms.scene import Part, Scene, name_of
from caseback.model.findings import Finding

RANDOM = 20
"""How many other parts a candidate is compared with, and how many random sets a group is."""
LEAST_LOOK = 0.1
SMALLEST = 0.05
"""The least fall that proves anything, as a share of the metric's fall to the corrupt run."""
RESTORED = 0.1
"""The share of its group's fall that a part must bring back by itself."""
ALONE, AMONG = "alone", "among its kind"
UNITS = {"logit_diff": "logits", "prob_diff": "probability", "log_prob": "nats"}
Proved = Mapping[str, Sequence[str]]
"""Names of proved parts by role."""


class Together(NamedTuple):
    """What the candidates with a role's look do at once: the mean fall, its band, and which of them count in it."""

    fall: float | None = None
    band: float | None = None
    count: frozenset[Part] = frozenset()


def chosen(role: Role, scene: Scene, parts: Sequence[Part], proved: Proved, top: int) -> list[Part]:
    """The parts that look as a role does and whose exchange moves the metric its way the most.

    At most a quarter of all parts are, so that others are left to compare them with.
    """
    able = list(parts)
    if role.to:
        looks, _, bands = _looks(role, scene, 1)
        able = [part for part, look, band in zip(parts, looks, bands, strict=True) if look > band]
    falls = scene.falls(role, [[part] for part in able], proved).mean(1)
    most = min(top, max(1, len(parts) // 4))
    return [able[i] for i in np.argsort(-falls, kind="stable")[:most] if falls[i] > 0]


def judged(
    role: Role,
    scene: Scene,
    parts: Sequence[Part],
    candidates: Sequence[Part],
    pool: Sequence[Part],
    proved: Proved,
    seed: int,
) -> tuple[list[Finding], Together]:
    """What becomes of a role's candidates on held-out prompts.

    Parameters
    ----------
    role, scene
        The role, and the held-out prompts.
    parts
        All parts of its sort.
    candidates, pool
        Those that were chosen, and the others that they are compared with.
    proved
        Names of parts that are proved in the roles before it.
    seed
        Draws random sets.
    """
    if not candidates:
        return [], Together()
    falls = scene.falls(role, [[part] for part in (*candidates, *pool)], proved)
    own, random = falls[: len(candidates)], falls[len(candidates) :].mean(1)
    chance = float(np.quantile(random, 0.95))
    means, errors = own.mean(1), own.std(1, ddof=1) / np.sqrt(own.shape[1])
    scores, controls, bands = means, np.full(len(candidates), random.mean()), np.full(len(candidates), chance)
    if role.to:
        rows = [parts.index(part) for part in candidates]
        scores, controls, bands = (numbers[rows] for numbers in _looks(role, scene, len(candidates)))
    seen = scores > bands
    together = _together(role, scene, [part for part, yes in zip(candidates, seen, strict=True) if yes], pool, seed)
    alone = means > np.maximum(max(chance, SMALLEST * abs(scene.gap)), 2 * errors)
    among = np.array([part in together.count for part in candidates]) & (means > 2 * errors)
    unit = UNITS.get(scene.prompts.measure, scene.prompts.measure)
    findings = []
    for i, part in enumerate(candidates):
        way = (ALONE if alone[i] else AMONG if among[i] else "") if seen[i] else ""
        draw = {
            "error": float(errors[i]),
            "random": chance,
            "random_parts": len(pool),
            "share": float(means[i]) / scene.gap if scene.gap else 0.0,
            "proved_by": way,
        }
        findings.append(
            Finding(
                component=name_of(part),
                kind=role.name,
                score=float(scores[i]),
                control=float(controls[i]),
                band=float(bands[i]),
                effect=float(means[i]),
                unit=unit,
                grade="proved" if way else "seen" if seen[i] else "unseen",
                draw=draw,
            )
        )
    return findings, together


def _looks(role: Role, scene: Scene, tested: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every head's mean look, the same where the relation is absent, and the band past which it is more than that.

    Each head is its own control: other heads may look at the control's place for good reasons.
    """
    look, control = scene.look(role.at, role.to), scene.control(role)
    n = look.shape[1]
    errors = (look - control).std(1, ddof=1) / np.sqrt(n)
    bands = control.mean(1) + float(student.ppf(1 - 0.05 / tested, n - 1)) * errors
    return look.mean(1), control.mean(1), np.maximum(bands, LEAST_LOOK)


def _together(role: Role, scene: Scene, group: Sequence[Part], pool: Sequence[Part], seed: int) -> Together:
    """A group exchanged at the role's place at once, beside random sets, and without each of its own."""
    if not group:
        return Together()
    rng, size = np.random.default_rng(seed), min(len(group), len(pool))
    random = [[pool[i] for i in rng.choice(len(pool), size, replace=False)] for _ in range(RANDOM)]
    rests = [[other for other in group if other != part] for part in group] if len(group) > 1 else []
    falls = scene.together(role, [list(group), *random, *rests])
    whole, drawn, rest = falls[0], falls[1 : 1 + RANDOM].mean(1), falls[1 + RANDOM :]
    fall, band = float(whole.mean()), float(np.quantile(drawn, 0.95))
    if fall <= max(band, SMALLEST * abs(scene.gap)):
        return Together(fall, band)
    back = whole - rest
    bars = np.maximum(RESTORED * fall, 2 * back.std(1, ddof=1) / np.sqrt(back.shape[1]))
    return Together(fall, band, frozenset(p for p, yes in zip(group, back.mean(1) > bars, strict=False) if yes))


def like(candidates: Sequence[Part], parts: Sequence[Part], taken: Sequence[Part]) -> list[Part]:
    """The parts nearest in depth to any candidate: those that no role has taken, or those that are no candidates."""
    free = [part for part in parts if part not in taken] or [part for part in parts if part not in candidates]
    depths = np.array([layer for _, layer, _ in candidates] or [0])
    return sorted(free, key=lambda part: int(np.abs(depths - part[1]).min()))[:RANDOM]
