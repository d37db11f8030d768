"""The papers' claims, judged from the records of a study.

A claim is about rows, which a study has or has not by their names, and says on which side of none (a difference
of 0, a ratio of 1) its row stands. A verdict is about that direction alone; how large a paper has it is shown
beside the study's own. Importing it loads no torch.
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
from repro.records import Role
from repro.reporting.analysis import Analysis, Difference
from repro.reporting.results import ENOUGH_SEEDS, X
from repro.reporting.statistics import ALPHA, LEVEL, holm
from repro.reporting.table import DASH, MINUS, Table, flops, lacks, p_text, signed, table_of
from repro.schema import SEEN
from repro.validation import validated
from repro.yaml_files import read_yaml

CLAIMS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "claims.yaml"
ACCURACY, RATIO = "accuracy", "flop_ratio"
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
class Judgement:
    """What a study says of a claim. Where it was tested: ``effect`` is that on the row ``against``, of several
    the one that the row surpasses least; its p-value is that of the claim, ``p_holm`` adjusted for all claims
    of the benchmark; ``covers`` says whether the interval reaches the published values."""

    finding: Finding
    reason: str = ""
    effect: Difference | None = None
    against: str = ""
    p_holm: float = np.nan
    covers: bool | None = None


def judge(analysis: Analysis, claims: Mapping[str, Claim]) -> dict[str, Judgement]:
    """A judgement of each claim on one benchmark.

    Supported: every interval lies on the claimed side, and so does the p-value after Holm's correction over
    the claims. Contradicted: one lies on the other side, likewise. A study of few seeds decides nothing.
    """
    measured = {name: _measured(analysis, claim) for name, claim in claims.items()}
    family = [name for name, found in measured.items() if not isinstance(found, Judgement)]
    adjusted = dict(zip(family, holm([measured[n].p for n in family]), strict=True))  # type: ignore[union-attr]
    return {
        name: found
        if isinstance(found, Judgement)
        else _judged(claims[name], found, adjusted[name], analysis.study.preliminary)
        for name, found in measured.items()
    }


@dataclass(frozen=True)
class _Measured:
    """The effect on each row of a test, and the p-value of them all: of the claim where every effect is on its
    side, else of its contrary."""

    effects: dict[str, Difference]
    closest: str
    p: float


def _measured(analysis: Analysis, claim: Claim) -> _Measured | Judgement:
    if claim.test is None:
        return Judgement(Finding.NOT_TESTABLE, claim.untestable)
    lack = _lack(analysis, claim.rows)
    if lack:
        return Judgement(Finding.NOT_TESTED, lack)
    effects = {}
    for other in claim.test.over:
        effect = _effect(analysis, claim.test.metric, claim.row, other)
        if isinstance(effect, X):
            return Judgement(Finding.NOT_TESTED, effect.reason)
        effects[other] = effect
    ahead = {other: _ahead(claim.test, effect.mean) for other, effect in effects.items()}
    against = [effects[other].p for other, by in ahead.items() if by < 0]
    # To surpass all, it must surpass each (no correction); to fall short of any is one of several tries.
    p = min(1.0, len(effects) * min(against)) if against else max(one.p for one in effects.values())
    return _Measured(effects, min(ahead, key=lambda other: ahead[other]), p)


def _judged(claim: Claim, found: _Measured, p: float, preliminary: bool) -> Judgement:
    assert claim.test
    effect = found.effects[found.closest]
    scale = 100 if claim.test.metric == ACCURACY else 1
    least, most = claim.published.values[0] / scale, claim.published.values[-1] / scale
    covers = effect.low <= most and effect.high >= least
    # The ends of every interval that are nearest to the claim's contrary, and to the claim.
    worst = min(_ahead(claim.test, end) for one in found.effects.values() for end in (one.low, one.high))
    best = min(
        max(_ahead(claim.test, end) for end in (one.low, one.high)) for one in found.effects.values()
    )
    if preliminary:
        finding, reason = Finding.UNDECIDED, f"preliminary: fewer than {ENOUGH_SEEDS} training seeds"
    elif p < ALPHA and worst > 0:
        finding, reason = Finding.SUPPORTED, ""
    elif p < ALPHA and best < 0:
        finding, reason = Finding.CONTRADICTED, ""
    else:
        finding, reason = Finding.UNDECIDED, ""
    return Judgement(finding, reason, effect, found.closest, p, covers)


def _ahead(test: Comparison, value: float) -> float:
    """By how much a value lies on the claimed side."""
    by = value - (test.metric == RATIO)
    return by if test.direction == "higher" else -by


def _lack(analysis: Analysis, rows: Sequence[str]) -> str:
    """Why these rows say nothing at the top budget, in words; empty where they do."""
    study = analysis.study
    missing = [name for name in rows if name not in study.index]
    if missing:
        return f"the study lacks {', '.join(missing)}"
    for name in rows:
        row = study.rows[study.index[name]]
        if study.incomplete(name, study.top):
            return f"{row.title}: {'; '.join(lacks(study, row))}"
        steps = [study.run(name, seed, study.top)["steps"] for seed in study.seeds]
        if row.role is not Role.BASE and not all(steps):
            return f"{row.title} took no optimizer step within the budget in a training seed"
    return ""


def _effect(analysis: Analysis, metric: str, row: str, other: str) -> Difference | X:
    if metric == ACCURACY:
        return analysis.difference(row, other, analysis.study.top)
    if metric == RATIO:
        return X("FLOP ratios are not there yet")
    return _monitor_difference(analysis, metric, row, other)


def _monitor_difference(analysis: Analysis, monitor: str, row: str, other: str) -> Difference | X:
    """The difference of a monitor's last values at the top budget, paired by training seed, by Student's t."""
    study = analysis.study
    last: dict[str, list[float]] = {}
    for name in (row, other):
        for seed in study.seeds:
            rounds = study.monitored(name, seed, study.top).get(monitor)
            if not rounds:
                return X(f"{study.rows[study.index[name]].title} has no monitor `{monitor}`")
            last.setdefault(name, []).append(rounds[max(rounds)]["value"])
    each = np.subtract(last[row], last[other])
    if len(each) == 1:
        return X(f"of the monitor `{monitor}` one training seed says no spread")
    mean = float(each.mean())
    if np.ptp(each) == 0:
        return Difference(mean, mean, mean, p=float(mean == 0))
    result = ttest_1samp(each, 0.0)
    low, high = result.confidence_interval(LEVEL)
    return Difference(mean, float(low), float(high), p=float(result.pvalue))


# ------------------------------------------------------------------------------------------------ the table


def claims_table(analyses: Sequence[Analysis], path: Path = CLAIMS) -> Table | None:
    """What a study says of the claims about its rows; None where no claim is about any.

    A claim about rows that the study has not is not a line of the table: a note names them all.
    """
    study = analyses[0].study
    about = {name: claim for name, claim in read_claims(path).items() if claim.row in study.index}
    shown = {name: claim for name, claim in about.items() if all(row in study.index for row in claim.rows)}
    if not shown:
        return None
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    notes = [
        f"Tested at {flops(study.top)} (ratios: from {flops(study.budgets[0])}), on a model of "
        f"{study.facts.model.parameters:,} parameters, with {len(study.seeds)} training "
        f"seed{'s' * (len(study.seeds) > 1)}: a verdict is about these rows at this scale, and not about the "
        "paper's own.",
        f"Supported or contradicted: the {100 * LEVEL:.0f} % interval lies on that side of none, and the p-value "
        "holds after Holm's correction over all claims tested. Of several rows the one that is surpassed least "
        "is shown; to be supported a claim must hold over each.",
        "In reach: whether the interval reaches what the paper has, which is for other models and benchmarks.",
    ]
    for analysis in analyses:
        for name, one in judge(analysis, shown).items():
            claim = shown[name]
            of = {"Benchmark": analysis.benchmark.title} if len(analyses) > 1 else {}
            cells.append({
                **of, "Claim": fill(claim.claim, _WIDTH), "Paper": f"{claim.paper.rpartition(', ')[0]}\n{claim.place}",
                "Published": _published(claim.published), "Here": _here(analysis, claim, one),
                "In reach": DASH if one.covers is None else "yes" if one.covers else "no",
                "Verdict": f"{one.finding}\n(preliminary)" if one.effect and study.preliminary else str(one.finding),
            })  # fmt: skip
            data.append(_plain(analysis, name, claim, one))
            if one.reason and not one.effect and (analysis is analyses[0] or claim.test):
                notes.append(f"{name}, {one.finding}: {one.reason}{'' if one.reason.endswith('.') else '.'}")
    notes += [f"{name}: {claim.caveat}" for name, claim in shown.items() if claim.caveat]
    others = [name for name in about if name not in shown]
    notes += [f"Claims about rows that the study has not: {', '.join(others)}."] * bool(others)
    for cell, line in zip(cells, data, strict=True):
        cell["Claim"] += f"\n({line['claim']})"
    return table_of(study, "claims", "Claims of the papers", cells, data, notes)


def _published(published: Published) -> str:
    """The published size, and of which model and benchmark."""
    texts = [_number(value, published.unit) for value in published.values]
    return "\n".join([
        f"{' to '.join(texts)} {published.unit}", *(fill(text, _WIDTH // 2) for text in (published.model, published.benchmark))
    ])  # fmt: skip


def _number(value: float, unit: str) -> str:
    if unit == "points":
        return signed(value / 100)
    if unit == "trainings":
        return f"{value:+.2f}".replace("-", MINUS)
    return f"{value:.2f}" if unit == "times" else f"{value:g}"


def _here(analysis: Analysis, claim: Claim, one: Judgement) -> str:
    """The study's own effect, over which row, with its interval and p-value."""
    if one.effect is None:
        return DASH
    unit = claim.published.unit
    scale = 100 if unit == "points" else 1
    mean, low, high = (_number(scale * value, unit) for value in (one.effect.mean, one.effect.low, one.effect.high))
    rows = analysis.study.rows
    title = rows[analysis.study.index[one.against]].title
    return f"{mean}\n[{low}, {high}]\n{p_text(one.p_holm)}\n{fill(f'over {title}', _WIDTH // 2)}"


def _plain(analysis: Analysis, name: str, claim: Claim, one: Judgement) -> dict[str, Any]:
    study, effect = analysis.study, one.effect
    return {
        "claim": name, "sentence": claim.claim, "paper": claim.paper, "place": claim.place, "row": claim.row,
        "over": " ".join(claim.rows[1:]), "metric": claim.test.metric if claim.test else None,
        "direction": claim.test.direction if claim.test else None,
        "published_least": claim.published.values[0], "published_most": claim.published.values[-1],
        "published_unit": claim.published.unit, "published_model": claim.published.model,
        "published_benchmark": claim.published.benchmark, "verdict": str(one.finding), "reason": one.reason,
        "against": one.against, "effect": effect.mean if effect else None,
        "effect_low": effect.low if effect else None, "effect_high": effect.high if effect else None,
        "p_holm": one.p_holm, "covers_published": None if one.covers is None else int(one.covers),
        "benchmark": analysis.benchmark.name, "parameters": study.facts.model.parameters,
        "lowest_budget": study.budgets[0], "top_budget": study.top, "seeds": len(study.seeds),
    }  # fmt: skip
