"""The figures of a study, as PNG and SVG that are the same bytes on every build.

Methods are coloured (Okabe-Ito first, safe for colour-blind readers), ablations thinner, controls grey and
dashed. Colours follow the order of the study's rows, methods first, so a row keeps its colour in every
figure; when they are used up they begin again with other dashes, so that no two rows look alike.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from math import ceil
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from repro.records import Role
from repro.reporting.analysis import Analysis, Difference
from repro.reporting.costs import account_means
from repro.reporting.results import Row, X
from repro.reporting.statistics import ALPHA
from repro.reporting.table import MINUS, flop_unit, flops, stem
from repro.reporting.tables import tier_title
from repro.schema import INSIDE, SEEN

_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
    "#882255", "#332288", "#8C564B", "#999933", "#44AA99", "#AA4499",
)  # fmt: skip
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (4, 1.2, 1, 1.2)), (0, (1.2, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "h")
_GREYS = {
    Role.CONTINUED: ("#444444", (0, (5, 2))),
    Role.NEGATIVE: ("#999999", (0, (2, 1.5))),
    Role.UPPER: ("#444444", (0, (1, 1.5))),
    Role.BASE: ("#777777", (0, (8, 3))),
}
_ACROSS = 3  # panels of small multiples
_ACCOUNTS = {"train": "#0072B2", "sample": "#56B4E9", "search": "#E69F00", "reward": "#CC79A7"}
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "repro", "svg.fonttype": "path", "text.parse_math": False,
    "font.family": "DejaVu Sans", "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#555555",
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#e6e6e6", "axes.axisbelow": True,
    "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "xtick.color": "#333333", "ytick.color": "#333333", "legend.frameon": False,
    "figure.dpi": 100, "savefig.dpi": 160, "figure.facecolor": "white",
}  # fmt: skip


def all_figures(analyses: Sequence[Analysis]) -> dict[str, tuple[bytes, bytes]]:
    """(PNG, SVG) of every figure by file stem, given the analysis of each benchmark. Rows without complete
    runs are left out and named."""
    style: Any = {**matplotlib.rcParamsDefault, **_STYLE, "backend": "agg"}
    with matplotlib.rc_context(style):
        figures = {
            stem(name, analysis): make(analysis)
            for name, make in (("accuracy", accuracy), ("differences", differences))
            for analysis in analyses
        }
        figures |= {"spend": spend(analyses[0]), "frequency": frequency(analyses[0])}
        looked_at = dict.fromkeys(line["monitor"] for line in analyses[0].study.monitors)
        shared = [name for name in SEEN if name in looked_at]
        own = [name for name in looked_at if name not in SEEN]
        figures |= {
            stem: monitors(analyses[0], names)
            for stem, names in (("monitors", shared), ("logged", own))
            if names
        }
        return {name: _render(figure) for name, figure in figures.items()}


def _render(figure: Figure) -> tuple[bytes, bytes]:
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    # Matplotlib leaves spaces at line ends, which git would complain of in committed figures.
    return png.getvalue(), b"\n".join(line.rstrip() for line in svg.getvalue().split(b"\n"))


def accuracy(analysis: Analysis) -> Figure:
    """Score against spent FLOPs, with 95 % bands; the base model is the line across."""
    study = analysis.study
    unit, name = flop_unit(study.top)
    figure, axes = _canvas(9.0, max(5.2, 1.0 + 0.19 * len(study.rows)))
    labels: list[tuple[float, float, str, str]] = []
    for row in study.rows:
        points = []
        for budget in study.budgets:
            score, spent = analysis.accuracy(row.method, budget), study.spent(row.method, budget)
            if not isinstance(score, X) and not isinstance(spent, X):
                points.append((spent / unit, 100 * score.mean, 100 * score.low, 100 * score.high))
        if not points:
            continue
        x, y, low, high = np.array(points).T
        look = _look(analysis, row)
        if row.role is Role.BASE:
            axes.axhspan(low[-1], high[-1], color="#777777", alpha=0.10, lw=0)
            axes.axhline(y[-1], **(look | {"marker": None, "lw": 1.2}))
            labels.append((study.top / unit, y[-1], row.title, look["color"]))
            continue
        if row.role is Role.METHOD:
            axes.fill_between(x, low, high, color=look["color"], alpha=0.08, lw=0)
        axes.plot(x, y, **look)
        title = row.title if len(points) == len(study.budgets) else f"{row.title} (X)"
        labels.append((x[-1], y[-1], title, look["color"]))
    axes.set_xlabel(f"spent FLOPs ({name})")
    axes.set_ylabel("accuracy (%)")
    on = f" on {analysis.benchmark.title}" if len(study.benchmarks) > 1 else ""
    axes.set_title(f"{study.title}: accuracy{on} at matched FLOPs", pad=12)
    ticks = [b / unit for b in study.budgets]
    if ticks[-1] / ticks[0] >= 6:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{t:.3g}" for t in ticks])
    _label_ends(axes, labels)
    _name_missing(figure, analysis)
    return figure


def differences(analysis: Analysis) -> Figure:
    """Paired differences at the top budget with 95 % intervals, one panel for each reference row."""
    study = analysis.study
    against = analysis.references
    rows = [r for r in analysis.by_score if not isinstance(analysis.accuracy(r.method, study.top), X)][::-1]
    figure, panels = _canvas(9.0, 1.5 + 0.34 * max(3, len(rows)), max(1, len(against)))
    for axes, reference in zip(panels, against, strict=False):
        family = analysis.differences(reference.method, study.top)
        axes.axvline(0, color="#555555", lw=1)
        for y, row in enumerate(rows):
            difference, p = family.get(row.method, (None, 1.0))
            if not isinstance(difference, Difference):
                continue
            colour = _look(analysis, row)["color"]
            low, mean, high = 100 * np.array([difference.low, difference.mean, difference.high])
            axes.plot([low, high], [y, y], color=colour, lw=2.2, solid_capstyle="round")
            axes.plot(mean, y, "o", ms=7, mec=colour, mew=1.6, mfc=colour if p < ALPHA else "white")
        axes.set_title(f"against {reference.title}", pad=8)
        axes.set_xlabel("difference (percentage points)")
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda v, _: f"{v:+g}".replace("-", MINUS) if v else "0")
        )
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.7, len(rows) - 0.3)
    panels[0].set_yticks(range(len(rows)), [r.title for r in rows])
    on = f" On {analysis.benchmark.title}." if len(study.benchmarks) > 1 else ""
    note = f"Filled: significant at {ALPHA:g} after Holm. At {flops(study.top)}.{on}"
    _name_missing(figure, analysis, note)
    return figure


def spend(analysis: Analysis) -> Figure:
    """What each row spent at the top budget, by account."""
    study = analysis.study
    unit, name = flop_unit(study.top)
    rows = [
        r for r in study.rows if r.role is not Role.BASE and not study.incomplete(r.method, study.top)
    ][::-1]  # fmt: skip
    figure, axes = _canvas(9.0, 1.7 + 0.34 * max(3, len(rows)))
    left = np.zeros(len(rows))
    means = [account_means(study, r.method) for r in rows]
    for account in INSIDE:
        width = np.array([m[account][0] / unit for m in means])
        if not width.any():
            continue
        bars = axes.barh(range(len(rows)), width, left=left, height=0.68, label=account,
                         color=_ACCOUNTS[account], edgecolor="white", lw=0.6)  # fmt: skip
        shares = width / np.array([sum(m[a][0] for a in INSIDE) / unit or 1 for m in means])
        text = [f"{100 * s:.0f} %" if s >= 0.07 else "" for s in shares]
        dark = account in ("sample", "search", "reward")
        axes.bar_label(bars, text, label_type="center", color="black" if dark else "white", fontsize=8.5)
        left += width
    axes.axvline(study.top / unit, color="#555555", lw=1, ls=(0, (3, 2)))
    axes.set_yticks(range(len(rows)), [r.title for r in rows])
    axes.set_xlim(0, 1.02 * study.top / unit)
    axes.set_xlabel(f"spent FLOPs ({name}); dashed: the budget")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_title("Spend by account", pad=26)
    if rows:
        axes.legend(ncols=len(INSIDE), loc="lower left", bbox_to_anchor=(-0.01, 1.0), handlelength=1.0,
                    columnspacing=1.4, borderpad=0.2)  # fmt: skip
    _name_missing(figure, analysis)
    return figure


def frequency(analysis: Analysis) -> Figure:
    """How often the training problems of each tier were trained on, and how many of them at all."""
    study = analysis.study
    visited = {v["method"] for v in study.visits}
    rows = [r for r in study.rows if r.method in visited and not study.incomplete(r.method, study.top)]
    tiers = sorted({v["tier"] for v in study.visits})
    totals = np.zeros((3, len(rows), len(tiers)))  # trained, problems, pool
    for v in study.visits:
        for i, row in enumerate(rows):
            if v["method"] == row.method and v["seed"] in study.seeds:
                totals[:, i, tiers.index(v["tier"])] += [v["trained"], v["problems"], v["pool"]]
    with np.errstate(invalid="ignore"):
        often, covered = totals[0] / totals[2], 100 * totals[1] / totals[2]
    figure, panels = _canvas(9.0, 1.6 + 0.36 * max(3, len(rows)), 2)
    for axes, values, title, form in (
        (panels[0], often, "Training sequences per pool problem", lambda v: f"{v:.1f}"),
        (panels[1], covered, "Pool problems trained on (%)", lambda v: f"{v:.0f}"),
    ):
        if rows and not np.isnan(values).all():
            highest = max(float(np.nanmax(values)), 1e-9)
            axes.imshow(values, cmap="Blues", vmin=0, vmax=highest * 1.15, aspect="auto")
            for (i, j), v in np.ndenumerate(values):
                if not np.isnan(v):
                    colour = "white" if v > 0.62 * highest else "#222222"
                    axes.text(j, i, form(v), ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(len(tiers)), [tier_title(t) for t in tiers])
        axes.set_title(title, pad=8)
        axes.hlines(np.arange(len(rows) - 1) + 0.5, -0.5, len(tiers) - 0.5, color="white", lw=1.5)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    panels[0].set_yticks(range(len(rows)), [r.title for r in rows])
    _name_missing(figure, analysis, f"At {flops(study.top)}, over all seeds.")
    return figure


def monitors(analysis: Analysis, names: Sequence[str]) -> Figure:
    """A panel for each of some monitors over spent FLOPs, up to the top budget: the mean over seeds of every
    row that has it, and each seed."""
    study = analysis.study
    unit, name = flop_unit(study.top)
    rows = [row for row in study.rows if not study.incomplete(row.method, study.top)]
    seen = {
        row.method: [study.monitored(row.method, seed, study.top) for seed in study.seeds] for row in rows
    }
    rows = [row for row in rows if any(name in run for run in seen[row.method] for name in names)]
    down = ceil(len(names) / _ACROSS)
    legend = 0.2 * ceil(len(rows) / _ACROSS)
    figure = Figure(figsize=(10.0, 0.6 + 1.9 * down + legend), layout="constrained")
    panels = figure.subplots(down, _ACROSS, squeeze=False).ravel()
    for axes, monitor in zip(panels, names, strict=False):
        for row in rows[::-1]:  # methods above controls
            runs = [run[monitor] for run in seen[row.method] if monitor in run]
            each = [{n: (line["spent"] / unit, line["value"]) for n, line in run.items()} for run in runs]
            look = _look(analysis, row)
            if len(runs) > 1:
                for run in each:
                    axes.plot(*_thinned(run.values()), color=look["color"], lw=0.5, alpha=0.35)
            both = [n for n in (each[0] if each else {}) if all(n in run for run in each)]
            if len(runs) == len(study.seeds) and both:
                mean = _thinned(np.mean([[run[n] for run in each] for n in both], axis=1))
                axes.plot(*mean, **look | {"lw": 0.7 * look["lw"], "ms": 0.5 * look["ms"]})
        values = [value for line in axes.lines for value in line.get_ydata()]
        if values and 0 < 1000 * min(values) < max(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlim(-0.02 * study.top / unit, 1.02 * study.top / unit)
        axes.set_title(SEEN.get(monitor, monitor), fontsize=9)
        axes.tick_params(labelsize=8)
    for axes in panels[len(names) :]:
        axes.remove()
    handles = [Line2D([], [], label=row.title, **_look(analysis, row)) for row in rows]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=_ACROSS, fontsize=8.5, handlelength=3)
    thin = "  Thin: single seeds." * (len(study.seeds) > 1)
    _name_missing(figure, analysis, f"Across: spent FLOPs ({name}), up to {flops(study.top)}.{thin}")
    return figure


# --------------------------------------------------------------------------------------------- helpers


def _thinned(points: Iterable[Any]) -> Any:
    """The coordinates of at most some 200 points, the last among them: more cannot be told apart."""
    found = np.array(list(points))
    return found[:: -ceil(len(found) / 200)][::-1].T


def _canvas(width: float, height: float, panels: int = 0) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    if not panels:
        return figure, figure.subplots()
    return figure, figure.subplots(1, panels, sharey=True, squeeze=False)[0]


def _look(analysis: Analysis, row: Row) -> dict[str, Any]:
    if row.role in _GREYS:
        grey, dashes = _GREYS[row.role]
        alike = [r.method for r in analysis.study.rows if r.role is row.role].index(row.method)
        marker = _MARKERS[alike % len(_MARKERS)]
        return {"color": grey, "ls": dashes, "lw": 1.5, "marker": marker, "ms": 3.5}
    at = [r.method for r in analysis.study.rows if r.role not in _GREYS].index(row.method)
    main = row.role is Role.METHOD
    turn, colour = divmod(at, len(_COLOURS))
    return {"color": _COLOURS[colour], "marker": _MARKERS[at % len(_MARKERS)],
            "ls": _DASHES[turn % len(_DASHES)], "lw": 2.0 if main else 1.2,
            "ms": 5.5 if main else 4.0}  # fmt: skip


def _label_ends(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """The name of each line at its right end, moved apart until none overlap."""
    if not labels:
        return
    low, high = axes.get_ylim()
    height = axes.get_figure(root=True).get_figheight()  # type: ignore[union-attr]
    gap = (high - low) * 0.22 / height  # inches, more than a line of text has
    ordered = sorted(labels, key=lambda label: (label[1], label[2]))
    at = np.array([y for _, y, _, _ in ordered])
    for _ in range(500):
        close = gap - np.diff(at)
        if (close <= 1e-9).all():
            break
        push = np.where(close > 0, close / 2, 0)
        at[:-1] -= push
        at[1:] += push
    at += max(0.0, low - at[0])
    axes.set_ylim(low, max(high, at[-1]))
    for (x, y, title, colour), where in zip(ordered, at, strict=True):
        axes.annotate(
            title, (x, y), xytext=(1.03, where), textcoords=axes.get_yaxis_transform(), va="center",
            color=colour, fontsize=9, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.6, "relpos": (0, 0.5),
                        "shrinkA": 1, "shrinkB": 3},
        )  # fmt: skip


def _name_missing(figure: Figure, analysis: Analysis, note: str = "") -> None:
    study = analysis.study
    missing = [r.title for r in study.rows if study.incomplete(r.method, study.top)]
    parts = [note] if note else []
    if study.preliminary:
        parts.append(f"Preliminary: {len(study.seeds)} training seed{'s' * (len(study.seeds) > 1)}.")
    if missing:
        parts.append(f"Incomplete (X): {', '.join(missing)}.")
    if parts:
        figure.supxlabel(fill("  ".join(parts), 130), fontsize=8.5, color="#555555", x=0.01, ha="left")
