"""The ``repro`` command: one subcommand per rule of the Snakefile, each usable by hand."""

from __future__ import annotations

import gc
import logging
import os
import sys
import traceback
import unicodedata
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

# ruff: noqa: E402  (the environment is set before anything that reads it is imported)
from repro.numerics import THREADS, settle

# One thread per process: results are then bit-identical, and two processes on two cores do not fight.
for _variable, _number in THREADS.items():
    os.environ.setdefault(_variable, _number)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import typer
from typer.core import TyperGroup

from repro import __version__
from repro.errors import UserError, out_of_memory
from repro.gpus import claim

if TYPE_CHECKING:
    from repro.config import Study as StudyConfig


def load_study(path: Path) -> StudyConfig:
    """:func:`repro.config.load_study`, imported when it is needed: that takes longer than `--help`."""
    from repro.config import load_study as load

    return load(path)


def shown(text: str) -> str:
    """``text`` without what a terminal would obey: escapes, and marks that turn the direction of a line, are
    written out. Titles, names of files and texts of models may hold them."""
    return "".join(
        ascii(c)[1:-1] if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t" else c for c in text
    )


def _say(text: str, err: bool = False) -> None:
    typer.echo(shown(text), err=err)


class Shown(logging.Formatter):
    """Of the log on the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


class Stopped(Exception):
    """The command ended before its time; what it printed is a sentence, and ``status`` its exit status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class Commands(TyperGroup):
    """The subcommands. What ends them from outside, on which typer keeps silent, is said by :func:`main`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            raise Stopped("interrupted; the same command goes on where this one was", 130) from None
        except BrokenPipeError:
            # What is left to print would fail again at the end of the process.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Stopped("nobody reads the output any more; run the command without that pipe", 1) from None


app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False
)


def _version(asked: bool) -> None:
    if asked:
        _say(f"repro {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the suite's version.")
    ] = False,
) -> None:
    pass


StudyFile = Annotated[Path, typer.Argument(help="A study file, such as benchmarks/studies/pocket.yaml.")]
MethodName = Annotated[str, typer.Option("--method", help="A row of the study, by its name.")]
OneSeed = Annotated[int | None, typer.Option("--seed", help="One of the study's seeds; default: all.")]


def _layout(study: StudyConfig) -> Any:
    from repro.layout import Layout

    return Layout(Path.cwd(), study.name)


def _seeds(config: StudyConfig, study: Path, method: str, seed: int | None) -> list[int]:
    """The seeds of the row that are asked for. Raises UserError where the study has no such run."""
    from repro.discovery import method_ids

    known = method_ids(config)
    if method not in known:
        raise UserError(f"{study} does not run the method `{method}`; it runs {', '.join(known)}")
    if seed is None:
        return config.seeds
    if seed not in config.seeds:
        seeds = ", ".join(map(str, config.seeds))
        raise UserError(f"{study} has no seed {seed}; name one of its seeds ({seeds}) with --seed")
    return [seed]


def _settle() -> None:
    """After the heavy imports: no progress bars but ours, and no garbage collection of what stays anyway
    (each training call would otherwise spend a third of a second on it)."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    gc.collect()
    gc.freeze()


@app.command()
def methods(study: Annotated[Path | None, typer.Argument(help="A study file.")] = None) -> None:
    """List the rows of a study with their methods and hyper-parameters; without one, describe all methods as
    Markdown."""
    from repro.discovery import load_methods, rows

    if study is None:
        from repro.planning import catalogue

        _say(catalogue.page())
        return
    config = load_study(study)
    named = rows(config)
    for name, method in load_methods(config).items():
        of = "" if named[name].method == name else f"{named[name].method}: "
        _say(f"{name}  ({of}{method.title}, {method.role})")
        for field, value in method.model_dump(mode="json").items():
            _say(f"    {field}: {value}")


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="Small letters, digits and underscores.")],
    folder: Annotated[Path | None, typer.Option(help="Where to write it; default: baselines/.")] = None,
) -> None:
    """Write the file of a method to begin with: the simplest there is, which runs."""
    from repro.discovery import BASELINES
    from repro.planning import contract

    path = contract.new(name, folder or BASELINES)
    row = f"a study has it as a row by `methods: {{{name}: {{method: {path}}}}}`"
    _say(
        f"{path} is written. Next:\n"
        "  1. make it yours: its docstring, its hyper-parameters, its round\n"
        f"  2. repro check-method {path}\n"
        f"  3. {row if folder else 'every study whose `methods` is `all` has it as a row'}"
    )


@app.command("check-method")
def check_method(
    method: Annotated[str, typer.Argument(help="The path of a method's file, or what a study calls it.")],
) -> None:
    """Play a method on a scripted model in memory, and say where it breaks the contract of methods."""
    from repro.planning import contract

    checks = contract.check(method)
    _say(contract.render(checks))
    if any(one.fault for one in checks):
        raise typer.Exit(1)


@app.command()
def plan(
    study: StudyFile,
    gpu: Annotated[str | None, typer.Option(help="A GPU, such as A100-80; default: all known.")] = None,
    mfu: Annotated[float, typer.Option(min=0.001, max=1, help="Share of the peak in training.")] = 0.3,
    sampling_utilisation: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the peak in sampling and evaluation.")
    ] = 0.1,
    as_json: Annotated[bool, typer.Option("--json", help="FLOPs, bytes and hours for machines.")] = False,
) -> None:
    """Print what a study costs and what it can see, before it costs anything."""
    from repro.planning import plan as planning
    from repro.planning.hardware import gpu_names

    config = load_study(study)
    made = planning.make(config, _layout(config), study)
    write = planning.to_json if as_json else planning.render
    _say(write(made, gpu_names(gpu), mfu, sampling_utilisation))


@app.command()
def flops(
    model: Annotated[str, typer.Argument(help="A well-known model, a model folder or a config.json.")],
    prompt: Annotated[float, typer.Option(help="Mean tokens of a prompt.")],
    completion: Annotated[float, typer.Option(help="Mean tokens of a completion.")],
    sampled: Annotated[int, typer.Option(help="Completions that were sampled.")] = 0,
    samples: Annotated[int, typer.Option(help="Completions of each prompt that was asked.")] = 1,
    trained: Annotated[int, typer.Option(help="Sequences (DPO: pairs) trained on, over all epochs.")] = 0,
    objective: Annotated[str, typer.Option(help="SFT, DPO or PolicyGradient.")] = "SFT",
    references: Annotated[
        int | None, typer.Option(help="Forward passes of frozen models; default: 1 for DPO, else 0.")
    ] = None,
    lora: Annotated[int, typer.Option(help="Rank of the adapters that alone are trained.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Tallies and FLOPs for machines.")] = False,
) -> None:
    """Count the FLOPs of anybody's run, from the counts in its log."""
    from repro.planning import calculator

    shape = calculator.model_shape(model)
    costs = calculator.run_cost(
        shape, prompt=prompt, completion=completion, sampled=sampled, samples=samples, trained=trained,
        objective=objective, references=references, lora=lora,
    )  # fmt: skip
    _say((calculator.to_json if as_json else calculator.render)(model, shape, costs))


@app.command()
def doctor(study: StudyFile) -> None:
    """Check that this machine can run a study, and say what to do where it cannot."""
    from repro.planning.doctor import diagnose, render

    findings = diagnose(study, Path.cwd())
    _say(render(findings))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def fetch(study: StudyFile) -> None:
    """Download what a study needs (data sets, models), so that all else runs without a network."""
    # Read when huggingface_hub is first imported, which nothing above does.
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "0"
    os.environ["HF_DATASETS_OFFLINE"] = "0"
    from repro import fetch as hub
    from repro import forgetting
    from repro.problems import sources

    config = load_study(study)
    sources.fetch(config)
    forgetting.fetch(config)
    hub.models(config)


@app.command()
def problems(study: StudyFile) -> None:
    """Write the problem files of a study."""
    from repro.problems import prepare

    config = load_study(study)
    prepare(config, _layout(config).problems)


@app.command("base-model")
def base_model(study: StudyFile) -> None:
    """Make the base model of a study."""
    config = load_study(study)
    settle(config.numerics)
    from tqdm import tqdm

    from repro import base_model as base
    from repro.files import fingerprint, write_checked
    from repro.shapes import shape_of

    layout = _layout(config)
    _settle()
    with tqdm(desc="warm start", unit="step", disable=None) as bar:

        def progress(step: int, steps: int, loss: float) -> None:
            bar.total = steps
            bar.update()
            if step % 100 == 0:
                logging.getLogger("repro").info("warm start: step %d of %d, loss %.3f", step, steps, loss)

        facts = base.prepare(config, layout.problems, layout.base, progress)
    more = {"shape": shape_of(layout.base).to_json(), "fingerprint": fingerprint(layout.base)}
    write_checked(layout.base_manifest, {**facts, **more})


@app.command()
def train(study: StudyFile, method: MethodName, seed: OneSeed = None) -> None:
    """Train a row's runs to every budget (a killed run goes on where it was)."""
    config = load_study(study)
    settle(config.numerics)
    seeds = _seeds(config, study, method, seed)
    with claim(config.gpus):
        from repro.run import train as run

        _settle()
        for one in seeds:
            run(config, method, one, _layout(config))


@app.command()
def evaluate(study: StudyFile, method: MethodName, seed: OneSeed = None) -> None:
    """Evaluate the checkpoints of a row's runs on the study's benchmarks with lm-eval."""
    config = load_study(study)
    settle(config.numerics)
    seeds = _seeds(config, study, method, seed)
    with claim(config.gpus):
        from repro.evaluation import evaluate_run

        _settle()
        for one in seeds:
            evaluate_run(config, method, one, _layout(config))


@app.command()
def collect(study: StudyFile) -> None:
    """Write the records of a study from its runs and evaluations."""
    from repro.collect import collect as write
    from repro.discovery import load_methods

    config = load_study(study)
    write(config, list(load_methods(config)), _layout(config), study)


@app.command()
def tune(study: StudyFile) -> None:
    """Choose the hyper-parameters of every row from the trials of a study, once they are run."""
    from repro import files
    from repro.planning import tuning
    from repro.trials import write

    config = load_study(study)
    layout = _layout(config)
    trials = tuning.write(config, layout)
    named = load_study(trials)
    records = layout.root / "results" / named.name / "records"
    if not (records / "study.json").is_file():
        raise UserError(
            f"{records} holds no trials of {study} yet; run them, and this command after them, by "
            f"`snakemake --config study={quote(str(study))} tune=yes`"
        )
    found = tuning.choose(config, records, _layout(named))
    path = layout.results / "tuning.csv"
    write(path, found)
    _say("\n".join(tuning.render(found)))
    name = path.relative_to(layout.root)
    _say(f"\nTo use them, put into the study:\n\ntuned: {{file: {name}, digest: {files.sha256(path)}}}")


@app.command()
def clean(
    study: StudyFile,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """List old state of a study (runs of other settings, evaluations of other tasks), and remove it."""
    from repro import cleaning

    config = load_study(study)
    layout = _layout(config)
    found = cleaning.stale(config, layout)
    for one in found:
        _say(f"{one.bytes / 1e6:10.1f} MB  {one.path.relative_to(layout.root)}")
    total = sum(one.bytes for one in found) / 1e6
    if not found:
        _say(f"nothing in {layout.work.relative_to(layout.root)} is old")
    elif yes or typer.confirm(f"remove these {len(found)} ({total:.1f} MB)?"):
        cleaning.remove(found)
        _say(f"removed {total:.1f} MB")


@app.command()
def tables(
    records: Annotated[Path, typer.Argument(help="A records folder, such as results/pocket/records.")],
    readme: Annotated[
        Path | None, typer.Option(help="Put headline and leaderboard between its leaderboard marks.")
    ] = None,
) -> None:
    """Rebuild tables, figures and report from records, beside their folder. Needs neither torch nor a GPU."""
    from repro.files import read_text, write_text
    from repro.reporting.page import build

    build(records, records.parent)
    summary = (records.parent / "summary.md").read_text()
    if readme is not None:
        begin, end = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"
        before, found, rest = read_text(readme, "name a file that has a leaderboard").partition(begin)
        _, closed, after = rest.rpartition(end)
        if not found or not closed:
            raise UserError(f"{readme} has no lines `{begin}` and `{end}`; add them for the leaderboard")
        write_text(readme, f"{before}{begin}\n\n{summary}\n{end}{after}")
    _say(summary)
    _say(f"report: {records.parent / 'report.html'}")


@app.command()
def verify(
    records: Annotated[
        Path, typer.Argument(help="A records folder, such as results/pocket/records, or a bundle.")
    ],
    fresh: Annotated[
        Path | None,
        typer.Argument(help="Records of the same study from another machine, or with other seeds."),
    ] = None,
) -> None:
    """Count every FLOP of a study anew from its records, and say whether fresh ones reproduce them: bit for
    bit, within intervals, or not. Of a bundle, say too which files are not as they were published, or not
    what its records give. Needs neither torch nor a GPU."""
    from repro.reporting import bundle
    from repro.reporting.recount import recount
    from repro.reporting.replication import replicate

    folders = [records, fresh] if fresh else [records]
    inner = [bundle.records_of(folder) for folder in folders]
    for folder, held in zip(folders, inner, strict=True):
        found = recount(held)
        _say(found.table())
        differences = found.differences or ([] if held == folder else bundle.differences(folder))
        if differences:
            _say("\n" + "\n".join(differences))
            raise typer.Exit(1)
        _say(f"{folder}: verified\n" if fresh else f"{folder}: verified")
    if fresh is not None:
        compared = replicate(*inner)
        _say("\n".join([compared.table(), *compared.left_out]))
        if compared.failed:
            raise typer.Exit(1)


@app.command()
def publish(
    records: Annotated[Path, typer.Argument(help="A records folder, such as results/pocket/records.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder to write; default: the bundle that has RECORDS, or `bundle` beside them."
        ),
    ] = None,
    author: Annotated[
        list[str] | None,
        typer.Option(
            help='"Name; affiliation; ORCID", of which the last two may be left out; once for each.'
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="An identifier of SPDX; default: CC-BY-4.0.")
    ] = None,
    date: Annotated[
        str | None,
        typer.Option(help="Day of publication, 2026-12-31; default: when the study's last job ended."),
    ] = None,
) -> None:
    """Make a bundle of a study to give away: records, tables, figures and report, described for people
    and machines (RO-Crate, Croissant, Zenodo, NeurIPS checklist). Records that do not verify are refused. A
    bundle that is there is made anew, and says what it said. Needs neither torch nor a GPU."""
    from repro.reporting import bundle, deposit

    where = out or (records.parent if bundle.is_bundle(records.parent) else records.parent / "bundle")
    made = bundle.publish(
        records, where, [deposit.author(text) for text in author or []],
        deposit.spdx(licence) if licence else None, deposit.day(date) if date else None,
    )  # fmt: skip
    for doubt in made.doubts:
        _say(f"warning: {doubt}", err=True)
    _say(f"{made.folder}: {made.files} files, {made.size / 1e6:.1f} MB; check it by")
    _say(f"repro verify {quote(str(made.folder))}")


@app.command()
def site(
    results: Annotated[Path, typer.Argument(help="A folder that holds NAME/records.")] = Path("results"),
) -> None:
    """Make one page of all studies below a folder, its index.html: what each found, and one table of all
    their rows. Needs neither torch nor a GPU."""
    from repro.reporting.site import build

    _say(str(build(results)))


@app.command()
def merge(
    out: Annotated[Path, typer.Argument(help="A folder to write, such as results/merged/records.")],
    records: Annotated[list[Path], typer.Argument(help="Two or more records folders of one study.")],
) -> None:
    """Make one records folder of several of one study, whose seeds or rows were shared out between machines.
    A run that several have is taken once. Needs neither torch nor a GPU."""
    from repro.reporting.merging import merge as write

    found = write(out, records)
    seeds = ", ".join(map(str, found.study.seeds))
    _say(
        f"{out} {'is written' if found.new else 'was there already, the same'}: "
        f"{len(found.study.rows)} rows, seeds {seeds}; {found.runs} runs, {found.shared} of them in several "
        "records"
    )
    for method, seed in found.lacking:
        _say(f"no records have {method} with seed {seed}: the row is incomplete")
    _say(f"next: repro tables {out}")


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A records folder, such as results/pocket/records.")],
    b: Annotated[
        Path | None, typer.Argument(help="Another one; default: A itself, for two of its rows.")
    ] = None,
    row: Annotated[str | None, typer.Option(help="Only this row of A; default: all that both have.")] = None,
    against: Annotated[
        str | None, typer.Option(help="The row of B to compare it with; default: the same.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--html", help="Write it as a page that needs no other file.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Differences, settings and costs for machines.")
    ] = False,
) -> None:
    """Say how two studies (or one from two machines, or two of its rows) differ: in scores, paired by
    problem, in settings and in cost. Needs neither torch nor a GPU."""
    from repro.files import write_text
    from repro.reporting import compare as comparing

    found = comparing.compare(a, b, row, against)
    if page is not None:
        write_text(page, found.html())
    _say(found.to_json() if as_json else found.text())


@app.command()
def status(
    study: StudyFile,
    as_json: Annotated[bool, typer.Option("--json", help="Runs and totals for machines.")] = False,
    watch: Annotated[
        float | None, typer.Option(min=1, help="Look again every so many seconds, until all is over.")
    ] = None,
    serve: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Show it as a live page on this port of localhost.")
    ] = None,
) -> None:
    """Say how far a study is, while it runs or after: the state of each run, what it has spent, how fast it
    is and what is left. Only looks: takes no lock and writes nothing."""
    from time import sleep

    from repro.planning.serving import LOOPBACK, server
    from repro.planning.status import Watch

    config = load_study(study)
    looker = Watch(config, _layout(config))
    if serve is not None:
        with server(looker, serve) as page:
            _say(f"http://{LOOPBACK}:{serve}/ until it is interrupted")
            page.serve_forever()
    while True:
        found = looker.look()
        if watch is not None and not as_json and sys.stdout.isatty():
            typer.echo("\033[H\033[2J", nl=False)  # a clear screen
        _say(found.to_json() if as_json else found.table().text())
        if watch is None or found.over:
            return
        sleep(watch)


def main() -> None:
    terminal = logging.StreamHandler()
    terminal.setFormatter(Shown("%(asctime)s  %(message)s", "%H:%M:%S"))
    logging.basicConfig(handlers=[terminal])
    logging.getLogger("repro").setLevel(logging.INFO)
    try:
        app()
    except Stopped as error:
        _end(str(error), error.status)
    except UserError as error:
        _end(str(error), 2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        _end(f"{where}{error.strerror or error}; check the path, its permissions and the disk", 2)
    except RecursionError:
        _end("something in the input is nested too deeply; make it flatter", 2)
    except Exception as error:
        if out_of_memory(error):
            _end(
                "the memory is full; ask for less at once (sampling.batch_size, training.micro_batch), or "
                "use a machine that has more",
                2,
            )
        traceback.print_exc()
        _end("this is a bug; report it with the lines above and the study", 1)


def _end(sentence: str, status: int) -> NoReturn:
    print("repro:", *(shown(line.strip()) for line in sentence.splitlines()), file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
