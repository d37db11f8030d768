"""A bundle as an RO-Crate 1.1: its files with their hashes, who gives them under which licence, and where the
records know what ran, a Process Run Crate 0.5, which is made for that version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from repro.files import digest
from repro.reporting.deposit import KEYWORDS, SUITE, File, Subject, spans
from repro.reporting.results import one_line
from repro.schema import Process

CRATE = "ro-crate-metadata.json"
_RUNS = "https://w3id.org/ro/wfrun/process/0.5"


def crate(subject: Subject, files: Mapping[str, File]) -> dict[str, Any]:
    """``files`` by their paths. It is written as plain JSON: the library rocrate puts
    the time of the call into it, and the same bundle shall be the same bytes."""
    said, processes = subject.deposit, subject.study.provenance.processes
    authors = [
        {
            "@id": f"https://orcid.org/{one.orcid}" if one.orcid else f"#author-{number}",
            "@type": "Person",
            "name": one.name,
            **({"affiliation": {"@id": f"#affiliation-{number}"}} if one.affiliation else {}),
        }
        for number, one in enumerate(said.creators, 1)
    ]
    affiliations = [
        {"@id": f"#affiliation-{number}", "@type": "Organization", "name": one.affiliation}
        for number, one in enumerate(said.creators, 1)
        if one.affiliation
    ]
    papers = [
        {"@id": address, "@type": "ScholarlyArticle", "name": paper}
        for address, paper in subject.papers.items()
    ]
    records = [{"@id": path} for path in files if path.startswith("records/")]
    actions = [_action(number, one, records) for number, one in enumerate(processes, 1)]
    software = {one["@id"]: one for one in map(_software, processes)}
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": subject.title,
        "description": subject.description,
        "datePublished": said.publication_date.isoformat(),
        "version": subject.version,
        "keywords": ", ".join(KEYWORDS),
        "license": {"@id": subject.licence_url},
        "author": _references(authors),
        "citation": _references(papers),
        "hasPart": [{"@id": path} for path in files],
        **({"mentions": _references(actions), "conformsTo": {"@id": _RUNS}} if actions else {}),
    }
    profile = {"@id": _RUNS, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    return {
        "@context": ["https://w3id.org/ro/crate/1.1/context", {"sha256": "http://schema.org/sha256"}],
        "@graph": [
            {
                "@id": CRATE,
                "@type": "CreativeWork",
                "about": {"@id": "./"},
                "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
            },
            root,
            *[
                {"@id": path, "@type": "File", "name": path, "description": one.about,
                 "contentSize": str(one.size), "encodingFormat": one.kind, "sha256": one.sha256}
                for path, one in files.items()
            ],
            {
                "@id": subject.licence_url,
                "@type": "CreativeWork",
                "name": said.license,
                "description": f"The licence that SPDX lists as {said.license}.",
            },
            *authors, *affiliations, *papers, *software.values(), *actions, *[profile] * bool(actions),
        ],
    }  # fmt: skip


def _references(entities: list[dict[str, Any]]) -> list[dict[str, str]] | dict[str, str]:
    found = [{"@id": one["@id"]} for one in entities]
    return found[0] if len(found) == 1 else found  # as JSON-LD is compacted


def _software(process: Process) -> dict[str, Any]:
    """The suite as it ran in a process."""
    commit = one_line(process.commit or "unknown commit")
    version = commit + ", with uncommitted changes" * bool(process.changed)
    return {"@id": f"#suite-{digest(version)}", "@type": "SoftwareSourceCode", "name": SUITE,
            "version": version}  # fmt: skip


def _action(number: int, process: Process, records: list[dict[str, str]]) -> dict[str, Any]:
    begun, ended = spans(process)
    jobs = Counter(job.kind for job in process.jobs)
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(process.libraries.items()))
    machine = f"{process.gpus + ', ' if process.gpus else ''}{process.cores} cores of {process.cpu}"
    return {
        "@id": f"#jobs-{number}",
        "@type": "CreateAction",
        "name": ", ".join(f"{kind}: {count}" for kind, count in jobs.items()),
        "description": one_line(f"{machine}; Python {process.python}, {process.platform}; {libraries}"),
        "startTime": begun,
        "endTime": ended,
        "instrument": {"@id": _software(process)["@id"]},
        "result": records,
    }
