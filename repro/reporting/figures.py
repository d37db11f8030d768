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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from repro.records import Role
from repro.reporting.analysis import Analysis, Difference
from repro.reporting.comparisons import opponents
from repro.reporting.costs import account_means
from repro.reporting.curves import score_distribution, seed_weights
from repro.reporting.results import Row, X
from repro.reporting.statistics import ALPHA, DRAWS, LEVEL, macro_mean
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
_ACROSS = 3  # panels of monitors
_AGAINST: tuple[dict[str, Any], ...] = (
    {"color": "#999999", "lw": 3.0}, {"color": "#009E73", "lw": 1.4}, {"color": "#0072B2", "lw": 1.4},
)  # fmt: skip
_FEWEST_CELLS = 5  # of a performance profile
ACCOUNTS = {"train": "#0072B2", "sample": "#56B4E9", "search": "#E69F00", "reward": "#CC79A7"}
_SIGNED = FuncFormatter(lambda v, _: f"{v:+g}".replace("-", MINUS) if v else "0")
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "repro", "svg.fonttype": "path", "text.parse_math": False,
    "font.family": "DejaVu Sans", "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#555555",
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#e6e6e6", "axes.axisbelow": True,
    "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "xtick.color": "#333333", "ytick.color": "#333333", "legend.frameon": False,
    "figure.dpi": 160, "figure.facecolor": "white",
}  # fmt: skip


def all_figures(analyses: Sequence[Analysis]) -> dict[str, tuple[bytes, bytes]]:
    """(PNG, SVG) of every figure by file stem, given the analysis of each benchmark. Rows without complete
    runs are left out and named."""
    style: Any = {**matplotlib.rcParamsDefault, **_STYLE, "backend": "agg"}
    with matplotlib.rc_context(style):
        figures = {
            stem(name, analysis): make(analysis)
            for name, make in (("accuracy", accuracy), ("differences", differences), ("gains", gains))
            for analysis in analyses
        }
        figures |= {"spend": spend(analyses[0]), "frequency": frequency(analyses[0])}
        if len(cells_of(analyses)) >= _FEWEST_CELLS:
            figures["profiles"] = profiles(analyses)
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
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)  # once; `savefig` would do it, and draw everything, twice for each file
    figure.set_layout_engine("none")
    png, svg = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})
    # Matplotlib leaves spaces at line ends, which git would complain of in committed figures.
    return png.getvalue(), b"\n".join(line.rstrip() for line in svg.getvalue().split(b"\n"))


def accuracy(analysis: Analysis) -> Figure:
    """Score against spent FLOPs, a panel for each trained row, best first: its mean with the 95 % band, every
    training seed, and in grey the other rows. The base model is the line across."""
    study = analysis.study
    unit, name = flop_unit(study.top)
    lines: dict[str, np.ndarray] = {}
    for row in study.rows:
        points: list[list[float]] = []
        for budget in study.budgets:
            score, spent = analysis.accuracy(row.method, budget), study.spent(row.method, budget)
            if not isinstance(score, X) and not isinstance(spent, X):
                seeds = _seed_scores(analysis, row, budget)
                points.append([spent / unit, 100 * score.mean, 100 * score.low, 100 * score.high, *seeds])
        if points:
            lines[row.method] = np.array(points).T
    rows = [row for row in analysis.by_score if row.method in lines and row.role is not Role.BASE]
    base = next((row for row in study.rows if row.role is Role.BASE and row.method in lines), None)
    everyone = [np.pad(lines[row.method][:2], ((0, 0), (0, 1)), constant_values=np.nan) for row in rows]
    figure, panels = _multiples(rows, "accuracy (%)")
    for axes, row in zip(panels, rows, strict=False):
        if base is not None:
            _, y, low, high = lines[base.method][:4, -1]
            axes.axhspan(low, high, color="#777777", alpha=0.12, lw=0)
            axes.axhline(y, color="#777777", ls=(0, (5, 2)), lw=1)
        axes.plot(*np.hstack(everyone), color="#d5d5d5", lw=0.8)
        (x, y, low, high), seeds = lines[row.method][:4], lines[row.method][4:]
        colour = look_of(analysis, row)["color"]
        axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        axes.plot(x, y, color=colour, lw=1.8)
        for each in seeds:
            axes.plot(x, each, "o", ms=3.2, mfc="white", mec=colour, mew=0.8)
    _budget_ticks(panels[0], [budget / unit for budget in study.budgets])
    on = f" on {analysis.benchmark.title}" if len(study.benchmarks) > 1 else ""
    figure.suptitle(f"{study.title}: accuracy{on} at matched FLOPs", x=0.01, ha="left", weight="bold")
    note = f"Across: spent FLOPs ({name})."
    note += "  Circles: single training seeds.  Grey: the other rows."
    note += f"  Dashed: {base.title}." if base else ""
    _name_missing(figure, analysis, note)
    return figure


def _seed_scores(analysis: Analysis, row: Row, budget: int) -> np.ndarray:
    """[seed] Scores in percent."""
    study, benchmark = analysis.study, analysis.benchmark
    y = benchmark.scores["sampled"][study.index[row.method], :, study.budgets.index(budget)]
    return np.asarray(100 * macro_mean(y, benchmark.strata))


def gains(analysis: Analysis) -> Figure:
    """Paired differences at every budget with 95 % bands, a panel for each trained row, a line for each row
    that it is compared with."""
    study = analysis.study
    unit, name = flop_unit(study.top)
    against = list(zip(opponents(analysis), _AGAINST, strict=False))
    rows = [
        row
        for row in analysis.by_score
        if row.role is not Role.BASE and not isinstance(analysis.accuracy(row.method, study.top), X)
    ]
    figure, panels = _multiples(rows, "difference (percentage points)")
    for axes, row in zip(panels, rows, strict=False):
        axes.axhline(0, color="#555555", lw=1)
        for other, look in against:
            found = [
                (budget / unit, 100 * d.mean, 100 * d.low, 100 * d.high)
                for budget in study.budgets
                if row is not other
                and isinstance(d := analysis.difference(row.method, other.method, budget), Difference)
            ]
            if found:
                x, y, low, high = np.array(found).T
                axes.fill_between(x, low, high, color=look["color"], alpha=0.15, lw=0)
                axes.plot(x, y, **look)
        axes.yaxis.set_major_formatter(_SIGNED)
    _budget_ticks(panels[0], [budget / unit for budget in study.budgets])
    figure.legend(
        handles=[Line2D([], [], label=f"against {row.title}", **look) for row, look in against],
        loc="outside upper left", ncols=len(against) or 1, fontsize=8.5,
    )  # fmt: skip
    on = f"  On {analysis.benchmark.title}." if len(study.benchmarks) > 1 else ""
    _name_missing(figure, analysis, f"Across: budget ({name}).{on}")
    return figure


def profiles(analyses: Sequence[Analysis]) -> Figure:
    """Share of the cells of a study (a tier of a benchmark, in a training seed) in which a row scores more
    than so much, at the top budget: a panel for each row, with its 95 % band over seeds."""
    study = analyses[0].study
    above = np.linspace(0, 1, 41)
    found = {row.method: _profile(analyses, row, above) for row in study.rows}
    curves = {method: profile for method, profile in found.items() if profile is not None}
    rows = [row for row in analyses[0].by_score if row.method in curves]
    everyone = [np.append(curves[row.method][0], np.nan) for row in rows]
    figure, panels = _multiples(rows, "share of cells (%)")
    for axes, row in zip(panels, rows, strict=False):
        axes.plot(np.tile([*100 * above, np.nan], len(rows)), np.hstack(everyone), color="#d5d5d5", lw=0.8)
        share, low, high = curves[row.method]
        colour = look_of(analyses[0], row)["color"]
        axes.fill_between(100 * above, low, high, color=colour, alpha=0.18, lw=0, step="post")
        axes.plot(100 * above, share, color=colour, lw=1.8, drawstyle="steps-post")
    cells = f"{len(cells_of(analyses))} cells in {len(study.seeds)} training seeds"
    note = f"Across: score (%).  Of {cells}, at {flops(study.top)}.  Grey: the other rows."
    _name_missing(figure, analyses[0], note)
    return figure


def cells_of(analyses: Sequence[Analysis]) -> list[tuple[Analysis, int]]:
    """The cells of a performance profile: every tier of every benchmark."""
    return [(analysis, tier) for analysis in analyses for tier in range(len(analysis.benchmark.tiers))]


def _profile(analyses: Sequence[Analysis], row: Row, above: np.ndarray) -> np.ndarray | None:
    """[3, threshold] The profile of a row in percent, and its interval; None where the row is incomplete."""
    study = analyses[0].study
    if any(isinstance(analysis.accuracy(row.method, study.top), X) for analysis in analyses):
        return None
    at = study.index[row.method]
    scores = [
        a.benchmark.scores["sampled"][at, :, -1][:, a.benchmark.tier_of == tier].mean(-1)
        for a, tier in cells_of(analyses)
    ]
    each = score_distribution(np.stack(scores, -1), above)  # [seed, threshold]
    draws = seed_weights(len(study.seeds), DRAWS, at) @ each
    ends = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return 100 * np.stack([each.mean(0), *ends])


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
            colour = look_of(analysis, row)["color"]
            low, mean, high = 100 * np.array([difference.low, difference.mean, difference.high])
            axes.plot([low, high], [y, y], color=colour, lw=2.2, solid_capstyle="round")
            axes.plot(mean, y, "o", ms=7, mec=colour, mew=1.6, mfc=colour if p < ALPHA else "white")
        axes.set_title(f"against {reference.title}", pad=8)
        axes.set_xlabel("difference (percentage points)")
        axes.xaxis.set_major_formatter(_SIGNED)
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
    """What each row spent at the top budget, by account; the best row on top."""
    study = analysis.study
    unit, name = flop_unit(study.top)
    rows = [
        r
        for r in analysis.by_score[::-1]
        if r.role is not Role.BASE and not study.incomplete(r.method, study.top)
    ]
    figure, axes = _canvas(9.0, 1.7 + 0.34 * max(3, len(rows)))
    left = np.zeros(len(rows))
    means = [account_means(study, r.method, study.top) for r in rows]
    for account in INSIDE:
        width = np.array([m[account][0] / unit for m in means])
        if not width.any():
            continue
        bars = axes.barh(range(len(rows)), width, left=left, height=0.68, label=account,
                         color=ACCOUNTS[account], edgecolor="white", lw=0.6)  # fmt: skip
        shares = width / np.array([sum(m[a][0] for a in INSIDE) / unit or 1 for m in means])
        text = [f"{100 * s:.0f} %" if s >= 0.07 else "" for s in shares]
        dark = account in ("sample", "search", "reward")
        axes.bar_label(bars, text, label_type="center", color="black" if dark else "white", fontsize=8.5)
        left += width
    axes.axvline(study.top / unit, color="#555555", lw=1, ls=(0, (3, 2)))
    axes.set_yticks(range(len(rows)), [r.title for r in rows])
    axes.set_xlim(0, 1.02 * study.top / unit)
    axes.set_ylim(-0.6, max(3, len(rows)) - 0.4)
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
    rows = [r for r in analysis.by_score if r.method in visited and not study.incomplete(r.method, study.top)]
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
            look = look_of(analysis, row)
            if len(runs) > 1:
                for run in each:
                    axes.plot(*thinned(run.values()), color=look["color"], lw=0.5, alpha=0.35)
            both = [n for n in (each[0] if each else {}) if all(n in run for run in each)]
            if len(runs) == len(study.seeds) and both:
                mean = thinned(np.mean([[run[n] for run in each] for n in both], axis=1))
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
    handles = [Line2D([], [], label=row.title, **look_of(analysis, row)) for row in rows]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=_ACROSS, fontsize=8.5, handlelength=3)
    thin = "  Thin: single seeds." * (len(study.seeds) > 1)
    _name_missing(figure, analysis, f"Across: spent FLOPs ({name}), up to {flops(study.top)}.{thin}")
    return figure


# --------------------------------------------------------------------------------------------- helpers


def thinned(points: Iterable[Any]) -> Any:
    """The coordinates of at most some 50 points, the last among them: more cannot be told apart."""
    found = np.array(list(points))
    return found[:: -ceil(len(found) / 50)][::-1].T


def _canvas(width: float, height: float, panels: int = 0) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    if not panels:
        return figure, figure.subplots()
    return figure, figure.subplots(1, panels, sharey=True, squeeze=False)[0]


def _multiples(rows: Sequence[Row], label: str) -> tuple[Figure, Any]:
    """A panel for each row under its title, with common axes."""
    across = min(6, max(3, ceil(len(rows) ** 0.5)))
    down = max(1, ceil(len(rows) / across))
    figure = Figure(figsize=(max(9.0, 2.0 * across), 0.9 + 1.75 * down), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, row in zip(panels, rows, strict=False):
        axes.set_title(fill(row.title, 22), fontsize=9)
        axes.tick_params(labelsize=8, labelbottom=True)
    for axes in panels[max(1, len(rows)) :]:
        axes.remove()
    figure.supylabel(label, fontsize=9)
    return figure, panels


def _budget_ticks(axes: Axes, budgets: Sequence[float]) -> None:
    """Ticks at the budgets, in logarithms, of axes that all panels share."""
    margin = (budgets[-1] / budgets[0]) ** 0.05 if len(budgets) > 1 else 1.1
    axes.set_xlim(budgets[0] / margin, budgets[-1] * margin)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(budgets, [f"{budget:.3g}" for budget in budgets])


def look_of(analysis: Analysis, row: Row) -> dict[str, Any]:
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
