"""The NeurIPS paper checklist, answered as far as records answer it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from repro.reporting.deposit import Subject, devices
from repro.reporting.results import one_line
from repro.reporting.table import flops, markdown_text, paragraph, settings_note, significant
from repro.schema import INSIDE, Account

YES, NO, AUTHOR = "Yes", "No", "For the author"
_LEAD = (
    "Yes and No are answered from the records, for a paper that says what this bundle says and refers to it. "
    "What only an author can answer is marked so, with what the records know of it."
)


class Item(NamedTuple):
    title: str
    asks: str
    answer: str
    known: list[str]  # sentences, plain text


def checklist(subject: Subject) -> str:
    """As Markdown."""
    parts = [f"# NeurIPS paper checklist: {markdown_text(subject.study.title)}", _LEAD]
    for number, item in enumerate(_items(subject), 1):
        parts += [f"## {number}. {item.title}", item.asks, f"**{item.answer}**"]
        parts += ["\n".join(f"- {paragraph(sentence)}" for sentence in item.known)] * bool(item.known)
    return "\n\n".join(parts) + "\n"


def _items(subject: Subject) -> Iterator[Item]:
    study, licence = subject.study, subject.deposit.license
    untold = [row.title for row in study.rows if row.method not in study.facts.rows]
    lacks = [f"The hyper-parameters of {', '.join(untold)} are not recorded."] * bool(untold)
    papers = dict.fromkeys(row.paper for row in study.rows if row.paper)
    yield Item(
        "Claims", "Do the claims of abstract and introduction match what was found?", AUTHOR,
        [*subject.headlines, "More is in tables/leaderboard.md and report.html."],
    )  # fmt: skip
    yield Item("Limitations", "Are the limitations discussed?", AUTHOR, subject.limitations)
    yield Item("Theory", "Has every theoretical result its assumptions and a proof?", AUTHOR, [])
    yield Item(
        "Reproducibility", "Is all told that is needed to reproduce the main results?",
        NO if subject.doubts or lacks else YES,
        [*subject.doubts, *lacks, "Command and settings are in records/study.json; commits, libraries and "
         f"machines, where they are known, in records/provenance.json. Numerics: {study.facts.numerics}."],
    )  # fmt: skip
    yield Item(
        "Data and code", "Are both open, with instructions that suffice?", AUTHOR,
        [f"This bundle holds the records under {licence}, and README.md the commands. Where the bundle, and "
         "the code that ran, can be had is for you to say."],
    )  # fmt: skip
    yield Item(
        "Experimental setting", "Are the details of training and evaluation told?", NO if lacks else YES,
        [*lacks, "records/study.json has data, splits, optimizers and evaluation under settings, and the "
         "hyper-parameters under rows; report.html shows them under Provenance.", settings_note(study)],
    )  # fmt: skip
    yield _significance(subject)
    yield _compute(subject)
    yield Item("Code of ethics", "Does the research conform with the NeurIPS code of ethics?", AUTHOR, [])
    yield Item("Broader impacts", "Are good and bad effects on society discussed?", AUTHOR, [])
    yield Item(
        "Safeguards", "Are there any, where data or models could be misused?", AUTHOR,
        ["This bundle holds no weights of a model."],
    )  # fmt: skip
    yield Item(
        "Licences of assets", "Are the makers of what was used credited, and its licences respected?", AUTHOR,
        ["The records name what was used, and not under which licence.",
         f"Model: {one_line(study.facts.model.description)}.",
         f"Benchmarks: {', '.join(one.title for one in study.benchmarks)}.",
         f"Papers: {'; '.join(papers) or 'none is named'}."],
    )  # fmt: skip
    yield Item(
        "New assets", "Are they documented, and is that given with them?", YES,
        [f"The records are under {licence}; README.md, croissant.json (every column) and "
         "ro-crate-metadata.json (every file) describe them."],
    )  # fmt: skip
    yield Item(
        "Crowdsourcing and human subjects", "Is told what people were asked to do, and paid?", AUTHOR,
        ["The records hold what models answered; who wrote the problems, they do not know."],
    )  # fmt: skip
    yield Item("Review boards", "Was research with people approved?", AUTHOR, [])
    yield Item(
        "Use of language models", "Is their use in the research told, where it matters?", AUTHOR,
        ["Language models are what was studied. Whether others helped, the records do not know."],
    )  # fmt: skip


def _significance(subject: Subject) -> Item:
    study = subject.study
    alone = len(study.seeds) == 1
    known = [
        "Every score and difference has a 95 % interval over problems, samples"
        + (
            " and training seeds"
            if not alone
            else "; one training seed says nothing of the spread of training"
        )
        + ". Differences are paired by problem, tested by sign flips, and corrected by Holm.",
        f"Each table says below it what its intervals cover. Training seeds: {len(study.seeds)}.",
    ]
    known += [one for one in subject.limitations if study.preliminary and one.startswith("Preliminary")]
    asks = "Are there error bars, rightly defined, or the like?"
    return Item("Statistical significance", asks, NO if alone else YES, known)


def _compute(subject: Subject) -> Item:
    study = subject.study
    found = list(dict.fromkeys([
        *(f"{one.gpus + ', ' if one.gpus else ''}{one.cores} cores of {one.cpu}"
          for one in study.provenance.processes), *devices(study),
    ]))  # fmt: skip
    seconds = sum(line["seconds"] for line in study.machine if line["seconds"] is not None)
    spent = {
        "training, with what was sampled and rewarded for it": _spent(subject, *INSIDE),
        "evaluation": _spent(subject, Account.EVALUATE),
        "the warm start of the base model": _spent(subject, Account.WARM_START),
        "trials that chose hyper-parameters": sum(trial.flops for trial in study.tuning),
    }
    known = [f"FLOPs of {what}: {flops(count)}." for what, count in spent.items() if count]
    known.append(f"Machines: {'; '.join(found) or 'not recorded'}.")
    known.append(
        f"Time of execution, all runs together: {significant(seconds / 3600)} hours; of each row, "
        "tables/machine.md." if seconds else "The time of execution was not recorded."
    )  # fmt: skip
    known.append("Memory is not recorded, and neither is what was tried before and is in no records.")
    asks = "Is told which machines were needed, and for how long?"
    return Item("Compute resources", asks, YES if found and seconds else NO, known)


def _spent(subject: Subject, *accounts: Account) -> int:
    return sum(line["flops"] for line in subject.study.ledger if line["account"] in accounts)
