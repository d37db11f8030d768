"""Rebuild everything that is shown of a study from its records: tables, figures and one HTML page.

No torch, no accelerator, no network: seconds on one core, and the same bytes every time.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path

from repro.files import write_bytes, write_text
from repro.reporting.analysis import Analysis
from repro.reporting.document import document
from repro.reporting.figures import all_figures
from repro.reporting.results import Benchmark, Study, load
from repro.reporting.table import Table, flops
from repro.reporting.tables import all_tables, headline, summary

_CAPTIONS = {
    "accuracy": "Accuracy against spent FLOPs, with 95 % intervals and every training seed.",
    "differences": "Paired differences at the top budget, with 95 % intervals.",
    "gains": "Paired differences at every budget, with 95 % intervals.",
    "profiles": "Share of the cells of the study in which a row scores more than so much.",
    "spend": "Spent FLOPs by account at the top budget.",
    "frequency": "What was trained on, by difficulty tier.",
    "monitors": "What can be seen of every method, round by round.",
    "logged": "What the methods say of themselves, each under the names it logs.",
}
_CURVES = ("flops_to_target", "iso_accuracy", "improvement", "scaling", "papers", "seeds", "differences")


def build(records: Path, out: Path) -> None:
    """Write ``out/tables``, ``out/figures`` and ``out/report.html`` from a records folder.

    Raises UserError naming the file and the column when the records are malformed.
    """
    study = load(records)
    analyses = [Analysis(study, benchmark.name) for benchmark in study.benchmarks]
    tables, figures = all_tables(analyses), all_figures(analyses)
    headlines = [headline(analysis) for analysis in analyses]
    page = render(study, headlines, tables, {name: svg for name, (_, svg) in figures.items()})
    for folder in (out / "tables", out / "figures"):
        folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        write_text(out / "tables" / f"{table.name}.md", table.markdown())
        write_text(out / "tables" / f"{table.name}.csv", table.csv())
        write_text(out / "tables" / f"{table.name}.tex", table.latex())
    for name, (png, svg) in figures.items():
        write_bytes(out / "figures" / f"{name}.png", png)
        write_bytes(out / "figures" / f"{name}.svg", svg)
    write_text(out / "summary.md", summary(analyses))
    write_text(out / "report.html", page)


def render(study: Study, headlines: list[str], tables: list[Table], figures: dict[str, bytes]) -> str:
    """The report as one self-contained page; ``headlines`` are of its benchmarks, ``figures`` are SVG."""
    facts = study.facts
    single = len(study.benchmarks) == 1
    about = {
        "Score" if single else f"Score, {one.title}": f"{one.metric}, at most {one.max_tokens:,} tokens"
        for one in study.benchmarks
    }
    about |= {
        "Model": f"{facts.model.description} ({facts.model.parameters:,} parameters)",
        "Budgets": ", ".join(map(flops, study.budgets)),
        "Training seeds": ", ".join(map(str, study.seeds)),
    }
    about |= {
        "Test problems" if single else f"Test problems, {one.title}": _counts(one) for one in study.benchmarks
    }
    if watched := study.forgetting:
        about["Forgetting"] = f"{watched.title}: {watched.metric}; documents: {_split(watched)}"
    about |= {
        title: ", ".join(f"{name} {value}" for name, value in (found or {}).items())
        for title, found in (
            ("Engine", facts.evaluation.engine),
            ("Prompt", facts.evaluation.prompt),
            ("Task versions", facts.evaluation.tasks),
        )
    }
    about |= {
        "Numerics": facts.numerics,
        "Statistics": "two-way layout of problems and training seeds; sign flips counted exactly",
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(facts.versions.items())),
        "Records": f"digest {facts.digest}; repro verify counts every FLOP in them anew",
    }
    papers = {row.title: row.paper for row in study.rows if row.paper}
    shown = {table.name: f"<section>\n{table.html()}</section>\n" for table in tables}
    pictures = {name: _figure(name, svg) for name, svg in figures.items()}

    def take(found: dict[str, str], name: str) -> str:
        """All of that kind: of each benchmark, where there are several."""
        return "".join([found.pop(key) for key in list(found) if key == name or key.startswith(f"{name}_")])

    of_papers = take(shown, "claims") + take(shown, "published")
    looked_at = take(pictures, "monitors") + take(pictures, "logged")
    banner = ' class="banner" role="note"' * study.preliminary
    said = "".join(f"<p{banner}>{html.escape(sentence)}</p>\n" for sentence in headlines)
    body = (
        '<p class="lead">Self-taught reasoners compared at matched FLOP budgets. A row that is incomplete '
        "shows X and says why; no mean is taken over what happens to exist.</p>\n"
        f"{said}{_definitions(about)}"
        "<h2>Result</h2>\n"
        + take(pictures, "accuracy")
        + take(shown, "leaderboard")
        + take(pictures, "differences")
        + "<h2>Over the budgets</h2>\n"
        + take(pictures, "gains")
        + "".join(take(shown, name) for name in _CURVES)
        + take(pictures, "profiles")
        + (f"<h2>What the papers say</h2>\n{of_papers}" if of_papers else "")
        + "<h2>Details</h2>\n"
        f"{take(shown, 'tiers')}{pictures['spend']}{shown.pop('costs')}"
        f"{shown.pop('stranded')}{pictures['frequency']}{''.join(shown.values())}"
        + (f"<h2>What the methods looked at</h2>\n{looked_at}" if looked_at else "")
        + (f"<h2>Papers</h2>\n{_definitions(papers)}" if papers else "")
        + f"<h2>Regenerate</h2>\n<pre>{html.escape(facts.command)}</pre>\n"
    )
    return document(study.title, body)


def _counts(benchmark: Benchmark) -> str:
    return f"{_split(benchmark)}; {benchmark.k} samples each"


def _split(benchmark: Benchmark) -> str:
    each = [f"{tier}: {int((benchmark.tier_of == i).sum())}" for i, tier in enumerate(benchmark.tiers)]
    split = f" ({', '.join(each)})" if len(each) > 1 else ""
    return f"{len(benchmark.tier_of):,}{split}"


def _definitions(entries: dict[str, str]) -> str:
    lines = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>\n" for k, v in entries.items())
    return f"<dl>\n{lines}</dl>\n"


def _figure(name: str, svg: bytes) -> str:
    # As an image, not inline: the ids inside one SVG would clash with those of another.
    data = base64.b64encode(svg).decode()
    kind, _, benchmark = name.partition("_")
    caption = html.escape(_CAPTIONS[kind] + (f" On {benchmark}." if benchmark else ""))
    return (
        f'<figure id="{name}">\n<img alt="{caption}" src="data:image/svg+xml;base64,{data}">\n'
        f"<figcaption>{caption}</figcaption>\n</figure>\n"
    )
