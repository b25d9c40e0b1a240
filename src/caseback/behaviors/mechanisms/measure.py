"""One behavior in one model: parts are chosen on some prompts, and proved on others.

    chosen   looks past what the best of all heads does where the relation is absent; of these, the largest falls
    proved   on held-out prompts the look is past that band again, and

             sign x fall > max( quantile .95 of parts of like depth, a twentieth of the metric's fall to the corrupt run )
             and more than two of its standard errors;

             or all that have the look, exchanged at once, are past random sets as large, and the part by itself brings
             back a tenth of that

A model that does not do the task, whose margin is what shuffled answers give, has no such heads, and none is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caseback.behaviors.mechanisms.chance import margin
from caseback.behaviors.mechanisms.declared import BEHAVIORS
from caseback.behaviors.mechanisms.report import BehaviorReport, Carried, RoleReport
from caseback.behaviors.mechanisms.role import DIRECT, TOTAL, Behavior, Role
from caseback.behaviors.mechanisms.scene import Part, Scene, name_of, parts_of
from caseback.errors import CasebackError, OutOfRange, SiteAbsent, did_you_mean
from caseback.model.findings import Finding, Findings, band_of_best, ordered
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.tasks.prompts import Prompts
from caseback.tasks.task import Task

RANDOM = 20
"""How many other parts a candidate is compared with, and how many random sets all proved ones are."""
LEAST_LOOK = 0.1
SMALLEST = 0.05
"""The least fall that proves anything, as a share of the metric's fall to the corrupt run."""
RESTORED = 0.1
"""The share of its group's fall that a part must bring back by itself."""
ALONE, AMONG = "alone", "among its kind"
LAYERS = 12
"""The most layers of which the stream is exchanged; of more, so many at even distances."""
UNITS = {"logit_diff": "logits", "prob_diff": "probability", "log_prob": "nats"}


@technique(
    entry=("5.4.4", "5.4.5", "5.4.6", "5.4.7", "5.4.8", "5.4.9", "5.4.10", "5.4.11", "5.4.12"),
    citation="Wang et al. 2023, Hanna et al. 2023, Heimersheim & Janiak 2023, Merullo et al. 2024",
    cost="a sweep of the heads that look, and one of candidates and as many random ones",
)
def behavior(
    model: Model,
    name: str | Behavior,
    *,
    task: Task | None = None,
    prompts: int = 20,
    top: int = 5,
    places: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> BehaviorReport:
    """Whether a model does a task, which heads and MLPs have which role in it, and what proves them.

    Parameters
    ----------
    model
        The model.
    name
        One of ``caseback.behaviors.BEHAVIORS``, or a ``Behavior`` of your own.
    task
        The task in other words than the behavior's own, with the same places; its own by default.
    prompts
        Prompts that parts are chosen on, and as many others that they are judged on; at least 4.
    top
        Candidates of each role at most.
    places
        Exchange the stream at the behavior's places too.
    seed
        Same seed, same result. Draws prompts, shuffled answers and random parts.
    progress
        Show progress bars.

    Returns
    -------
    BehaviorReport
        Of an absent behavior it has the margin alone. Effects are in the task's measure, with the role's sign: above 0
        where the part works as its role says.

    Raises
    ------
    CasebackError
        For an unknown behavior, too few prompts, or a task without the behavior's places.
    TokensError
        If the task has too few prompts for the model's tokenizer.

    References
    ----------
    Wang et al. 2023, "Interpretability in the wild"; each behavior's ``citation``.

    Examples
    --------
    >>> import caseback as cb
    >>> report = behavior(cb.load("meadow"), "induction", prompts=8, places=False)
    >>> report.margin.clean > report.margin.band, report.proved("induction")[0][:2]
    (True, 'L2')
    """
    own = BEHAVIORS.get(name) if isinstance(name, str) else name
    if own is None:
        raise CasebackError(f"no behavior is called {name!r}. {did_you_mean(name, BEHAVIORS, most=len(BEHAVIORS))}")
    if prompts < 4:
        raise OutOfRange(f"prompts is {prompts}: expected 4 or more, to choose on and as many to judge on")
    if top < 1:
        raise OutOfRange(f"top is {top}: expected 1 candidate or more")
    drawn = (task or own.task()).prompts(model, 2 * prompts, seed=seed)
    selection, held_out = drawn[:prompts], drawn[prompts:]
    judged = margin(model, held_out, seed=seed)
    about = {**model.provenance(), "seed": seed, "parts": len(parts_of(model, "head"))}
    report = BehaviorReport(
        own.name,
        own.about,
        own.entry,
        own.citation,
        (prompts, prompts),
        _example(held_out),
        judged,
        about_model=about,
    )
    if not judged.present:
        return report
    choosing, judging = (Scene(model, own, some, progress=progress) for some in (selection, held_out))
    roles, findings = _roles(model, own, choosing, judging, top, seed)
    carried = None
    if places:
        layers = np.unique(np.linspace(0, model.n_layers - 1, min(LAYERS, model.n_layers)).astype(int)).tolist()
        shares = judging.carried(layers)
        carried = Carried(own.places, tuple(layers), tuple(map(tuple, shares.tolist())))
    return BehaviorReport(
        **{name: getattr(report, name) for name in ("behavior", "about", "entry", "citation", "prompts", "example")},
        margin=judged,
        roles=tuple(roles),
        heads=Findings(ordered(findings), {key: str(value) for key, value in about.items()}),
        carried=carried,
        about_model=about,
    )


def _roles(
    model: Model, own: Behavior, choosing: Scene, judging: Scene, top: int, seed: int
) -> tuple[list[RoleReport], list[Finding]]:
    """Every role's candidates and what became of them, role by role: some work through others."""
    chosen: dict[str, list[Part]] = {}
    by_role: dict[str, list[str]] = {}
    proved: dict[str, list[str]] = {}
    reports, findings = [], []
    for role in own.roles:
        if role.by not in (TOTAL, DIRECT) and not proved.get(role.by):
            reports.append(_report(role, missing=f"no {role.by} was proved, through which it works"))
            continue
        try:
            parts = parts_of(model, role.sort)
        except SiteAbsent as error:
            reports.append(_report(role, missing=str(error)))
            continue
        chosen[role.name] = _chosen(role, choosing, parts, proved, top, seed)
        by_role[role.name] = [name_of(part) for part in chosen[role.name]]
        others = {part for name, some in chosen.items() if _same(own, name, role) for part in some}
        role_findings, together = _judged(role, judging, parts, chosen[role.name], others, proved, seed)
        proved[role.name] = [finding.component for finding in role_findings if finding.grade == "proved"]
        findings += role_findings
        reports.append(_report(role, len(role_findings), len(proved[role.name]), *together))
    return reports, findings


def _same(own: Behavior, name: str, role: Role) -> bool:
    """Whether a role is of the same parts at the same place, so that its candidates are no random parts."""
    other = next(one for one in own.roles if one.name == name)
    return (other.at, other.sort) == (role.at, role.sort)


def _report(role: Role, *numbers: object, missing: str = "") -> RoleReport:
    return RoleReport(role.name, role.about, role.at, role.to, role.proof, *numbers, missing=missing)  # type: ignore[arg-type]


def _chosen(
    role: Role, scene: Scene, parts: Sequence[Part], proved: Mapping[str, Sequence[str]], top: int, seed: int
) -> list[Part]:
    """The parts that look as the role does and whose exchange moves the metric its way the most."""
    able = list(parts)
    if role.to:
        band = band_of_best(scene.control(role), seed=seed)
        looks = scene.look(role.at, role.to).mean(1)
        able = [part for part, look in zip(parts, looks, strict=True) if look > max(band, LEAST_LOOK)]
    falls = scene.falls(role, [[part] for part in able], proved).mean(1)
    # at most a quarter of all are candidates, so that others are left to compare with
    most = min(top, max(1, len(parts) // 4))
    return [able[i] for i in np.argsort(-falls, kind="stable")[:most] if falls[i] > 0]


def _judged(
    role: Role,
    scene: Scene,
    parts: Sequence[Part],
    candidates: Sequence[Part],
    others: set[Part],
    proved: Mapping[str, Sequence[str]],
    seed: int,
) -> tuple[list[Finding], tuple[float | None, float | None]]:
    """The findings of a role on held-out prompts, and the fall when all proved ones are exchanged, beside random sets."""
    if not candidates:
        return [], (None, None)
    pool = _like(candidates, [part for part in parts if part not in others]) or [
        p for p in parts if p not in candidates
    ]
    falls = scene.falls(role, [[part] for part in (*candidates, *pool)], proved)
    random = falls[len(candidates) :].mean(1)
    chance = float(np.quantile(random, 0.95)) if len(random) else float("inf")
    least = SMALLEST * abs(scene.gap)
    looks, controls, band = None, None, 0.0
    if role.to:
        looks, controls = scene.look(role.at, role.to).mean(1), scene.control(role)
        band = band_of_best(controls, seed=seed)
    measured = []
    for i, part in enumerate(candidates):
        mean, error = float(falls[i].mean()), float(falls[i].std(ddof=1) / np.sqrt(falls.shape[1]))
        score, control, passed = mean, float(random.mean()) if len(random) else 0.0, chance
        if looks is not None and controls is not None:
            at = parts.index(part)
            score, control, passed = float(looks[at]), float(controls[at].mean()), max(band, LEAST_LOOK)
        measured.append((part, mean, error, score, control, passed))
    group = [part for part, _, _, score, _, passed in measured if score > passed]
    together, together_band, restored = _together(role, scene, group, pool, seed)
    findings = []
    for part, mean, error, score, control, passed in measured:
        alone = mean > max(chance, least, 2 * error)
        among = part in restored and mean > 2 * error
        seen = score > passed
        draw = {
            "error": error,
            "random": chance,
            "random_parts": len(random),
            "share": mean / scene.gap,
            "proved_by": (ALONE if alone else AMONG if among else "") if seen else "",
        }
        findings.append(
            Finding(
                component=name_of(part),
                kind=role.name,
                score=score,
                control=control,
                band=passed,
                effect=mean,
                unit=UNITS.get(scene.prompts.measure, scene.prompts.measure),
                grade="unseen" if not seen else "proved" if alone or among else "seen",
                draw=draw,
            )
        )
    return findings, (together, together_band)


def _together(
    role: Role, scene: Scene, group: Sequence[Part], pool: Sequence[Part], seed: int
) -> tuple[float | None, float | None, set[Part]]:
    """The fall when all parts that look as the role does are exchanged, the band of random sets, and who of them counts.

    Heads of a role make up for one another, so that each alone may be dispensable: of a group that is past its band,
    those count whose own return brings back a tenth of the fall.
    """
    if not group:
        return None, None, set()
    rng, size = np.random.default_rng(seed), min(len(group), len(pool))
    random = [[pool[i] for i in rng.choice(len(pool), size, replace=False)] for _ in range(RANDOM)] if size else []
    rests = [[other for other in group if other != part] for part in group] if len(group) > 1 else []
    falls = scene.together(role, [list(group), *random, *rests])
    all_of, drawn, rest = falls[0], falls[1 : 1 + len(random)].mean(1), falls[1 + len(random) :]
    together, band = float(all_of.mean()), float(np.quantile(drawn, 0.95)) if len(drawn) else None
    if band is None or together <= max(band, SMALLEST * abs(scene.gap)):
        return together, band, set()
    back = all_of - rest
    certain = back.mean(1) > np.maximum(RESTORED * together, 2 * back.std(1, ddof=1) / np.sqrt(back.shape[1]))
    return together, band, {part for part, one in zip(group, certain, strict=False) if one}


def _like(candidates: Sequence[Part], free: Sequence[Part]) -> list[Part]:
    """The free parts nearest in depth to any of the candidates."""
    depths = np.array([layer for _, layer, _ in candidates])
    return sorted(free, key=lambda part: int(np.abs(depths - part[1]).min()))[:RANDOM]


def _example(prompts: Prompts) -> dict[str, str]:
    pair = prompts.pairs[0]
    sides = {side: "".join(getattr(prompts, side).text[0]) for side in ("clean", "corrupt")}
    return sides | {name: ", ".join(map(str, getattr(pair, name)[:3])) for name in ("target", "foil")}
