"""Rebuild everything that is shown of a study from its records: tables, figures and one HTML page.

No torch, no accelerator, no network: seconds on one core, and the same bytes every time.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from repro.files import write_bytes, write_text
from repro.reporting import page_data
from repro.reporting.analysis import Analysis
from repro.reporting.figures import all_figures
from repro.reporting.results import Benchmark, Study, load
from repro.reporting.table import Table, flops
from repro.reporting.tables import all_tables, headline, summary
from repro.schema import Facts, Process

LIMIT = 10_000_000  # bytes of a page
DETAILS = "report-details.gz"  # beside a page that cannot hold every completion
_ASSETS = Path(__file__).parent / "assets"
# Figures that the page shows: the first two where no script draws charts.
_CAPTIONS = {
    "accuracy": "Accuracy against spent FLOPs, with 95 % intervals and every training seed.",
    "differences": "Paired differences at the top budget, with 95 % intervals.",
    "profiles": "Share of the cells of the study in which a row scores more than so much.",
    "frequency": "What was trained on, by difficulty tier.",
}
_INLINED = {
    "report.html": {
        "style": ["report.css"],
        "plotly": ["plotly-basic.min.js"],
        "script": ["report.js", "charts.js", "problems.js"],
    },
    "site.html": {"style": ["report.css"], "script": ["report.js", "site.js"]},
}
_CURVES = ("flops_to_target", "iso_accuracy", "improvement", "scaling", "papers", "seeds", "differences")


def build(records: Path, out: Path) -> list[Analysis]:
    """Write ``out/tables``, ``out/figures`` and ``out/report.html`` from a records folder, and beside the
    page the completions where it cannot hold them. Returns the analysis of each benchmark.

    Raises UserError naming the file and the column when the records are malformed.
    """
    study = load(records)
    analyses = [Analysis(study, benchmark.name) for benchmark in study.benchmarks]
    tables, figures = all_tables(analyses), all_figures(analyses)
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

    details = page_data.details(study, study.texts)
    pictures = {name: svg for name, (_, svg) in figures.items()}
    page = render(analyses, tables, pictures, study.questions, details)
    (out / DETAILS).unlink(missing_ok=True)
    if len(page.encode()) > LIMIT:
        page = render(analyses, tables, pictures, study.questions, None)
        write_bytes(out / DETAILS, details)
    write_text(out / "report.html", page)
    return analyses


def render(
    analyses: list[Analysis],
    tables: list[Table],
    figures: Mapping[str, bytes],
    questions: page_data.Questions,
    details: bytes | None,
) -> str:
    """The report as one self-contained page; ``figures`` are SVG. Without ``details`` it asks for their
    file."""
    study = analyses[0].study
    packs = {
        "charts": page_data.charts(analyses, tables),
        "copies": page_data.copies(tables),
        "monitors": page_data.monitors(study),
        "counts": page_data.counts(study, questions),
    } | ({"details": details} if details else {})
    left = {table.name: table for table in tables}

    def taken(names: Iterable[str] | None) -> list[Table]:
        """The tables of these names, of each benchmark where there are several; or all that are left."""
        chosen = [
            key for name in names for key in left if key == name or key.startswith(f"{name}_")
        ] if names else list(left)  # fmt: skip
        return [left.pop(key) for key in chosen]

    return template("report.html").render(
        study=study,
        headlines=[headline(analysis) for analysis in analyses],
        about=about(study),
        provenance=provenance(study),
        settings=_settings(study.facts),
        papers={row.title: row.paper for row in study.rows if row.paper},
        curves=_CURVES,
        taken=taken,
        figures=[_figure(name, svg) for name, svg in figures.items() if name.partition("_")[0] in _CAPTIONS],
        monitored=bool(study.monitors),
        packs={name: base64.b64encode(content).decode() for name, content in packs.items()},
    )


@cache
def template(page: str) -> jinja2.Template:
    """Of a page, with what it needs inside it."""
    loader = jinja2.FileSystemLoader(_ASSETS)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for name, files in _INLINED[page].items():
        texts = [(_ASSETS / file).read_text(encoding="utf-8") for file in files]
        environment.globals[name] = Markup("\n".join(texts).strip())
    return environment.get_template(page)


def about(study: Study) -> dict[str, str]:
    """What was measured, with what."""
    facts = study.facts
    single = len(study.benchmarks) == 1
    told = {
        "Score" if single else f"Score, {one.title}": f"{one.metric}, at most {one.max_tokens:,} tokens"
        for one in study.benchmarks
    }
    told |= {
        "Model": f"{facts.model.description} ({facts.model.parameters:,} parameters)",
        "Budgets": ", ".join(map(flops, study.budgets)),
        "Training seeds": ", ".join(map(str, study.seeds)),
    }
    told |= {
        "Test problems" if single else f"Test problems, {one.title}": _counts(one) for one in study.benchmarks
    }
    if watched := study.forgetting:
        told["Forgetting"] = f"{watched.title}: {watched.metric}; documents: {_split(watched)}"
    told |= {
        title: ", ".join(f"{name} {value}" for name, value in (found or {}).items())
        for title, found in (
            ("Engine", facts.evaluation.engine),
            ("Prompt", facts.evaluation.prompt),
            ("Task versions", facts.evaluation.tasks),
        )
    }
    return told | {
        "Numerics": facts.numerics,
        "Statistics": "two-way layout of problems and training seeds; sign flips counted exactly",
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(facts.versions.items())),
        "Records": f"digest {facts.digest}; repro verify counts every FLOP in them anew",
    }


def provenance(study: Study) -> dict[str, str]:
    """What computed the records."""
    processes = study.provenance.processes
    ended = sorted(job.ended for process in processes for job in process.jobs)

    def of(tell: Callable[[Process], str]) -> str:
        """What is told of all processes; where they differ, of which kinds of jobs."""
        kinds: dict[str, dict[str, None]] = {}
        for process in processes:
            kinds.setdefault(tell(process), {}).update(dict.fromkeys(job.kind for job in process.jobs))
        if len(kinds) < 2:
            return "".join(kinds) or "not recorded"
        return "; ".join(f"{text} ({', '.join(which)})" for text, which in kinds.items())

    return {
        "Commit": of(lambda one: (one.commit or "unknown") + ", with changes" * bool(one.changed)),
        "Jobs ended": " to ".join(dict.fromkeys([ended[0], ended[-1]])) if ended else "not recorded",
        "Hardware": of(lambda one: f"{one.gpus + ', ' if one.gpus else ''}{one.cores} cores of {one.cpu}"),
        "System": of(lambda one: f"Python {one.python}, {one.platform}"),
        "Libraries": of(lambda one: ", ".join(f"{name} {v}" for name, v in sorted(one.libraries.items()))),
    }


def _settings(facts: Facts) -> dict[str, str]:
    """From what the records were computed, as YAML."""
    told = {
        "Settings of the study": facts.settings,
        "How its work was split up": facts.split,
        "Hyper-parameters of every row": facts.rows,
    }
    return {title: yaml.safe_dump(values) for title, values in told.items() if values}


def _counts(benchmark: Benchmark) -> str:
    return f"{_split(benchmark)}; {benchmark.k} samples each"


def _split(benchmark: Benchmark) -> str:
    each = [f"{tier}: {int((benchmark.tier_of == i).sum())}" for i, tier in enumerate(benchmark.tiers)]
    split = f" ({', '.join(each)})" if len(each) > 1 else ""
    return f"{len(benchmark.tier_of):,}{split}"


def _figure(name: str, svg: bytes) -> dict[str, Any]:
    # As an image, not inline: the ids inside one SVG would clash with those of another.
    kind, _, benchmark = name.partition("_")
    return {
        "name": name,
        "kind": kind,
        "caption": _CAPTIONS[kind] + (f" On {benchmark}." if benchmark else ""),
        "source": f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}",
    }
