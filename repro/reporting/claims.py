"""The papers' claims, judged from the records of a study.

A claim is about rows, which a study has or has not by their names, and says on which side of no effect (a
difference of 0, a ratio of 1) its row stands. A verdict is about that direction alone; the published size is
shown beside the study's own. Importing it loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator
from scipy.stats import ttest_1samp

from repro.errors import UserError
from repro.reporting.analysis import Analysis, Difference
from repro.reporting.comparisons import Curves
from repro.reporting.curves import common_score, flop_ratio, percentile_interval
from repro.reporting.results import ENOUGH_SEEDS, Study, X
from repro.reporting.statistics import ALPHA, LEVEL, exact, holm, significant_digits
from repro.reporting.table import (
    DASH,
    MINUS,
    TIMES,
    Table,
    flops,
    of_benchmark,
    p_text,
    percent,
    signed,
    table_of,
    untrained,
)
from repro.schema import SEEN
from repro.validation import validated
from repro.yaml_files import read_yaml

CLAIMS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "claims.yaml"
ACCURACY, RATIO = "accuracy", "flop_ratio"
UNITS = {ACCURACY: "points", RATIO: "times"}  # of published values
_WIDTH = 44  # characters of a line in a cell of text


def _metric(name: str) -> str:
    if name not in (ACCURACY, RATIO, *SEEN):
        raise ValueError(f"there is no such metric; there are {ACCURACY}, {RATIO} and the suite's monitors")
    return name


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Comparison(_Section):
    """What of a row is compared with the rows ``over``, each of which it is to surpass: its accuracy at the
    top budget or a monitor's last value there, less theirs, or the FLOPs to their common accuracy, as a
    multiple of theirs."""

    metric: Annotated[str, AfterValidator(_metric)]
    direction: Literal["higher", "lower"]
    over: tuple[str, ...] = Field(min_length=1)


class Published(_Section):
    """What the paper has: one value, or the least and the most of several benchmarks or models."""

    values: tuple[FiniteFloat, ...] = Field(min_length=1, max_length=2)
    unit: Literal["points", "times", "trainings", "%"]
    model: str
    benchmark: str

    @property
    def scale(self) -> int:
        """What one of the study's own numbers, fractions of problems or whatever, is of these."""
        return 100 if self.unit == "points" else 1

    @model_validator(mode="after")
    def _ascend(self) -> Published:
        if sorted(self.values) != list(self.values):
            raise ValueError("`values` are the least and the most, in this order")
        return self


class Claim(_Section):
    """One claim of a paper, and how it is tested or why it cannot be."""

    claim: str
    paper: str = Field(pattern=r"arXiv:\d{4}\.\d{4,5}$")
    place: str  # in the paper
    row: str
    test: Comparison | None = None
    untestable: str = ""  # why no record can say
    published: Published
    caveat: str = ""  # where the rows are not the paper's

    @model_validator(mode="after")
    def _one_way(self) -> Claim:
        if (self.test is None) == (self.untestable == ""):
            raise ValueError("a claim has either a `test`, or why it is `untestable`")
        return self

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Claim:
        if self.test is None:
            return self
        if len({self.row, *self.test.over}) <= len(self.test.over):
            raise ValueError("a row is compared with others, each once; mend `over`")
        unit = UNITS.get(self.test.metric)
        if unit and self.published.unit != unit:
            raise ValueError(f"published values of {self.test.metric} are in {unit}")
        none, values = float(self.test.metric == RATIO), self.published.values
        if max(values) <= none if self.test.direction == "higher" else min(values) >= none:
            raise ValueError(f"no published value is {self.test.direction} than {none:g}, no effect")
        return self

    @property
    def rows(self) -> tuple[str, ...]:
        return (self.row, *(self.test.over if self.test else ()))


def read_claims(path: Path = CLAIMS) -> dict[str, Claim]:
    """Claims by their names. Raises UserError, naming the file and the key, where it is malformed."""
    values = read_yaml(path, "restore it, or make the tables in a checkout of the suite")
    if not isinstance(values, dict):
        raise UserError(f"{path}: claims are a mapping from names, and not a {type(values).__name__}")
    found = {}
    for name, value in values.items():
        if not isinstance(value, dict):
            raise UserError(f"{path}: `{name}` is a mapping of keys, such as `claim:`; make it one")
        found[str(name)] = validated(Claim, value, f"{path}, {name}")
    return found


class Finding(StrEnum):
    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    NOT_TESTED = "not tested"
    NOT_TESTABLE = "not testable"


@dataclass(frozen=True)
class Effect(Difference):
    """By how much a row and another differ, or the ratio of their FLOPs, with its 95 % interval and two-sided
    p-value. ``bound``: where the mean is not known, ``<`` or ``>`` it."""

    bound: Literal["", "<", ">"] = ""


@dataclass(frozen=True)
class Judgement:
    """What a study says of a claim. Where it was tested, ``effect`` is that over the row ``against``, of
    several the one surpassed least, ``p_holm`` the claim's p-value, adjusted for all claims of the benchmark,
    and ``covers`` whether the interval reaches the published values."""

    finding: Finding
    reason: str = ""
    effect: Effect | None = None
    against: str = ""
    p_holm: float = np.nan
    covers: bool | None = None


def judge(curves: Curves, claims: Mapping[str, Claim]) -> dict[str, Judgement]:
    """A judgement of each claim on one benchmark.

    Supported: all intervals lie on the claimed side, and the p-value holds after Holm's correction over the
    claims. Contradicted: an interval lies on the other side, likewise. A study of few seeds decides nothing.
    """
    found = {name: _effects(curves, claim) for name, claim in claims.items()}
    p = {name: _p(claims[name], effects) for name, effects in found.items() if isinstance(effects, dict)}
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    return {
        name: _judged(claims[name], effects, adjusted[name], curves.analysis.study.preliminary)
        if isinstance(effects, dict)
        else effects
        for name, effects in found.items()
    }


def _effects(curves: Curves, claim: Claim) -> dict[str, Effect] | Judgement:
    """The effect on each row of the claim's test, or why there is none."""
    if claim.test is None:
        return Judgement(Finding.NOT_TESTABLE, claim.untestable)
    lack = _lack(curves.analysis.study, claim)
    if lack:
        return Judgement(Finding.NOT_TESTED, lack)
    effects = {}
    for other in claim.test.over:
        effect = _effect(curves, claim.test.metric, claim.row, other)
        if isinstance(effect, X):
            return Judgement(Finding.NOT_TESTED, effect.reason)
        effects[other] = effect
    return effects


def _p(claim: Claim, effects: Mapping[str, Effect]) -> float:
    """The p-value of the claim where every effect is on its side, else of its contrary."""
    behind = [effect.p for effect in effects.values() if _ahead(claim, effect.mean) < 0]
    # To surpass all it must surpass each, which needs no correction; to fall short of any has several tries.
    return min(1.0, len(effects) * min(behind)) if behind else max(effect.p for effect in effects.values())


def _judged(claim: Claim, effects: Mapping[str, Effect], p: float, preliminary: bool) -> Judgement:
    against = min(effects, key=lambda other: _ahead(claim, effects[other].mean))
    effect = effects[against]
    ends = [sorted(_ahead(claim, end) for end in (one.low, one.high)) for one in effects.values()]
    finding, reason = Finding.UNDECIDED, ""
    if preliminary:
        reason = f"preliminary: fewer than {ENOUGH_SEEDS} training seeds"
    elif p < ALPHA and all(worst > 0 for worst, _ in ends):
        finding = Finding.SUPPORTED
    elif p < ALPHA and any(best < 0 for _, best in ends):
        finding = Finding.CONTRADICTED
    least, most = (claim.published.values[i] / claim.published.scale for i in (0, -1))
    return Judgement(finding, reason, effect, against, p, effect.low <= most and effect.high >= least)


def _ahead(claim: Claim, value: float) -> float:
    """By how much a value lies on the claimed side."""
    assert claim.test
    by = value - (claim.test.metric == RATIO)
    return by if claim.test.direction == "higher" else -by


def _lack(study: Study, claim: Claim) -> str:
    """Why the rows of a claim say nothing, in words; empty where they do."""
    missing = [name for name in claim.rows if name not in study.index]
    if missing:
        return f"the study lacks {', '.join(missing)}"
    curve = claim.test is not None and claim.test.metric == RATIO
    for name in claim.rows:
        row = study.rows[study.index[name]]
        for budget in study.budgets if curve else (study.top,):
            lack = study.incomplete(name, budget)
            if lack:
                return f"{row.title} at {flops(budget)}: {lack.reason}"
        if untrained(study, row, study.top):
            return f"{row.title} took no optimizer step within {flops(study.top)} in a training seed"
    return ""


def _effect(curves: Curves, metric: str, row: str, other: str) -> Effect | X:
    analysis = curves.analysis
    if metric == RATIO:
        return _flop_ratio(curves, row, other)
    if metric != ACCURACY:
        return _monitor_difference(analysis.study, metric, row, other)
    found = analysis.difference(row, other, analysis.study.top)
    return found if isinstance(found, X) else Effect(found.mean, found.low, found.high, found.p)


def _flop_ratio(curves: Curves, row: str, other: str) -> Effect | X:
    """FLOPs that the row needs for the score that both reach, as a multiple of those of the other."""
    rows = {one.method: one for one in curves.analysis.study.rows}
    ours, theirs = curves.of(rows[row]), curves.of(rows[other])
    if ours is None or theirs is None:
        return X("a score is missing")
    if curves.base:
        gain = common_score(ours[1], theirs[1]) - curves.base[1]
        if percentile_interval(gain, gain)[0] <= 0:
            return X("the lower of the two scores is not surely above the base model's, which costs nothing")
    measured, drawn = (flop_ratio(a, b, curves.budgets) for a, b in zip(ours, theirs, strict=True))
    if measured.low < 1 < measured.high:
        return X("which needs fewer FLOPs is below the lowest budget")
    low, high = percentile_interval(drawn.low, drawn.high)
    tail = min((drawn.high >= 1).sum(), (drawn.low <= 1).sum())
    p = min(1.0, 2 * (1 + int(tail)) / (1 + len(ours[1])))
    if measured.low == measured.high:
        return Effect(exact(measured.low), low, high, p)
    if measured.high <= 1:
        return Effect(exact(measured.high), low, high, p, "<")
    return Effect(exact(measured.low), low, high, p, ">")


def _monitor_difference(study: Study, monitor: str, row: str, other: str) -> Effect | X:
    """Difference of the last values of a monitor at the top budget, paired by training seed: Student's t."""
    last: dict[str, list[float]] = {row: [], other: []}
    for name, values in last.items():
        for seed in study.seeds:
            rounds = study.monitored(name, seed, study.top).get(monitor)
            if not rounds:
                return X(f"{study.rows[study.index[name]].title} has no monitor {monitor}")
            values.append(rounds[max(rounds)]["value"])
    each = np.subtract(last[row], last[other])
    if len(each) == 1:
        return X("a monitor of one training seed says no spread")
    mean = float(each.mean())
    if np.ptp(each) == 0:
        return Effect(mean, mean, mean, p=float(mean == 0))
    result = ttest_1samp(each, 0.0)
    low, high = result.confidence_interval(LEVEL)
    return Effect(mean, exact(low), exact(high), significant_digits(float(result.pvalue)))


# ------------------------------------------------------------------------------------------------ the table


def claims_table(curves: Sequence[Curves], path: Path = CLAIMS) -> Table | None:
    """What a study says of the claims about its rows; None where none of these could be tested.

    A claim that wants rows which the study has not is no line of the table: a note names all of these.
    """
    study = curves[0].analysis.study
    about = {name: claim for name, claim in read_claims(path).items() if claim.row in study.index}
    shown = {name: claim for name, claim in about.items() if all(row in study.index for row in claim.rows)}
    if not any(claim.test for claim in shown.values()):
        return None
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    reasons: dict[str, None] = {}
    for of in curves:
        analysis = of.analysis
        for name, one in judge(of, shown).items():
            claim = shown[name]
            finding = str(one.finding) + "\n(preliminary)" * (one.effect is not None and study.preliminary)
            cells.append({
                **of_benchmark(analysis), "Claim": f"{fill(claim.claim, _WIDTH)}\n({name})",
                "Paper": f"{claim.paper.rpartition(', ')[0]}\n{fill(claim.place, _WIDTH // 2)}",
                "Published": _published(claim.published), "Here": _here(study, claim.published, one),
                "In reach": DASH if one.covers is None else "yes" if one.covers else "no", "Verdict": finding,
            })  # fmt: skip
            data.append(_plain(analysis, name, claim, one))
            if one.effect is None:
                reasons[f"{name}, {one.finding}: {one.reason.removesuffix('.')}."] = None
    seeds = len(study.seeds)
    elsewhere = [name for name in about if name not in shown]
    notes = [
        f"At {flops(study.top)} (ratios: from {flops(study.budgets[0])} on), a model of "
        f"{study.facts.model.parameters:,} parameters, {seeds} training seed{'s' * (seeds > 1)}. A verdict "
        "is about these rows at this scale, and not about the paper's own.",
        f"Supported or contradicted: the {percent(LEVEL, 0)} % interval lies on that side of no effect, and "
        "the p-value holds after Holm's correction over all claims tested. A claim over several rows must "
        "hold over each; the one that is surpassed least is shown.",
        "In reach: whether the interval reaches the published size, of the model and data named there.",
        *reasons,
        *(f"{name}: {claim.caveat}" for name, claim in shown.items() if claim.caveat),
        *[f"Claims that want rows which the study has not: {', '.join(elsewhere)}."] * bool(elsewhere),
    ]
    return table_of(study, "claims", "Claims of the papers", cells, data, notes)


def _published(published: Published) -> str:
    """The published size, and of which model and benchmark."""
    size = " to ".join(_number(value / published.scale, published) for value in published.values)
    about = (fill(text, _WIDTH // 2) for text in (published.model, published.benchmark))
    return "\n".join([f"{size} {published.unit}" if published.unit != "times" else size, *about])


def _here(study: Study, published: Published, one: Judgement) -> str:
    """The study's own effect with its interval and p-value, and over which row."""
    effect = one.effect
    if effect is None:
        return DASH
    mean, low, high = (_number(value, published) for value in (effect.mean, effect.low, effect.high))
    over = fill(f"over {study.rows[study.index[one.against]].title}", _WIDTH // 2)
    return f"{effect.bound}{mean}\n[{low}, {high}]\n{p_text(one.p_holm)}\n{over}"


def _number(value: float, published: Published) -> str:
    """A number of the study's own kind, as its unit is written."""
    if published.unit == "points":
        return signed(value)
    if published.unit == "trainings":
        return f"{value:+.2f}".replace("-", MINUS)
    if published.unit == "%":
        return f"{value:g}"
    if value == 0 or np.isinf(value):  # nothing bounds it on that side
        return "0" if value == 0 else "∞"
    return f"{TIMES} {value:.2f}"


def _plain(analysis: Analysis, name: str, claim: Claim, one: Judgement) -> dict[str, Any]:
    study, effect, published = analysis.study, one.effect, claim.published
    return {
        "claim": name, "sentence": claim.claim, "paper": claim.paper, "place": claim.place, "row": claim.row,
        "over": " ".join(claim.rows[1:]), "metric": claim.test.metric if claim.test else None,
        "direction": claim.test.direction if claim.test else None,
        "published_least": published.values[0], "published_most": published.values[-1],
        "published_unit": published.unit, "published_model": published.model,
        "published_benchmark": published.benchmark, "verdict": str(one.finding), "reason": one.reason,
        "against": one.against, "bound": effect.bound if effect else None,
        "effect": effect.mean if effect else None, "effect_low": effect.low if effect else None,
        "effect_high": effect.high if effect and np.isfinite(effect.high) else None, "p_holm": one.p_holm,
        "in_reach": None if one.covers is None else int(one.covers), "benchmark": analysis.benchmark.name,
        "parameters": study.facts.model.parameters, "lowest_budget": study.budgets[0],
        "top_budget": study.top, "seeds": len(study.seeds),
    }  # fmt: skip
