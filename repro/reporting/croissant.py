"""The records of a bundle as a Croissant 1.1 data set, with what its extension for responsible AI asks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from repro.reporting.deposit import KEYWORDS, File, Subject, spans
from repro.reporting.results import one_line
from repro.schema import CSV, PARQUET, SAMPLES, UNKNOWN

# The standard's own, as its examples have it.
_CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "arrayShape": "cr:arrayShape", "citeAs": "cr:citeAs",
    "column": "cr:column", "conformsTo": "dct:conformsTo", "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/", "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty", "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract", "field": "cr:field", "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject", "fileSet": "cr:fileSet", "format": "cr:format", "includes": "cr:includes",
    "isArray": "cr:isArray", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key",
    "md5": "cr:md5", "name": {"@container": "@language"}, "parentField": "cr:parentField", "path": "cr:path",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex",
    "repeated": "cr:repeated", "replace": "cr:replace", "samplingRate": "cr:samplingRate", "sc": "https://schema.org/",
    "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField",
    "transform": "cr:transform",
}  # fmt: skip
_TYPES = {str: "sc:Text", int: "sc:Integer", float: "sc:Float"}
_SAMPLES = {"seed": int, "budget": int, "sample": int, "tokens": int}  # whose type is not text, but for
_VERDICT = "correct"  # a truth value


def croissant(subject: Subject, files: Mapping[str, File]) -> dict[str, Any]:
    """``files`` by their paths. It is written as plain JSON: mlcroissant, which checks it in the tests, would
    come with etils, absl and rdflib to everybody who makes a table."""
    said = subject.deposit
    columns: dict[str, dict[str, str]] = {
        name: {column: _TYPES[_read_as(name, column, kind)] for column, kind in kinds.items()}
        for name, kinds in CSV.items()
    }
    columns["samples.parquet"] = {
        column: "sc:Boolean" if column == _VERDICT else _TYPES[_SAMPLES.get(column, str)]
        for column in SAMPLES
    }
    columns |= {name: dict.fromkeys(texts, "sc:Text") for name, texts in PARQUET.items()}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": subject.title,
        "description": subject.description,
        "license": subject.licence_url,
        "creator": [_person(one.model_dump()) for one in said.creators],
        "datePublished": said.publication_date.isoformat(),
        "version": subject.version,
        "keywords": list(KEYWORDS),
        "citeAs": subject.bibtex(),
        "isLiveDataset": False,
        **_responsible(subject),
        "distribution": [
            {
                "@type": "cr:FileObject", "@id": path, "name": path, "description": one.about,
                "contentUrl": path, "contentSize": f"{one.size} B", "encodingFormat": one.kind,
                "sha256": one.sha256,
            }
            for path, one in files.items() if path.startswith("records/")
        ],
        "recordSet": [_record_set(f"records/{name}", kinds, files) for name, kinds in columns.items()],
    }  # fmt: skip


def _read_as(name: str, column: str, kind: type) -> type:
    """An integer that may be blank is read as a float."""
    return float if name == "machine.csv" and column in UNKNOWN else kind


def _record_set(path: str, columns: Mapping[str, str], files: Mapping[str, File]) -> dict[str, Any]:
    stem = PurePosixPath(path).stem
    return {
        "@type": "cr:RecordSet",
        "@id": stem,
        "name": stem,
        "description": files[path].about,
        "field": [
            {
                "@type": "cr:Field", "@id": f"{stem}/{column}", "name": column, "dataType": kind,
                "source": {"fileObject": {"@id": path}, "extract": {"column": column}},
            }
            for column, kind in columns.items()
        ],
    }  # fmt: skip


def _person(told: Mapping[str, Any]) -> dict[str, Any]:
    person: dict[str, Any] = {"@type": "sc:Person", "name": told["name"]}
    if told["orcid"]:
        person["url"] = f"https://orcid.org/{told['orcid']}"
    if told["affiliation"]:
        person["affiliation"] = {"@type": "sc:Organization", "name": told["affiliation"]}
    return person


def _responsible(subject: Subject) -> dict[str, Any]:
    """What the records answer; what nobody looked into is said not to be."""
    study = subject.study
    facts = study.facts
    tools = [
        f"{name} {facts.versions[name]}" for name in ("math-verify", "lm-eval") if name in facts.versions
    ]
    missing = [one for one in subject.limitations if "incomplete" in one]
    times = [time for process in study.provenance.processes for time in spans(process)]
    return {
        "rai:dataCollection": "Language models trained at matched budgets, each row by another method, "
        "and every checkpoint answered the same problems. What was spent, sampled and answered was recorded.",
        "rai:dataCollectionType": ["Experiments", "Software Collection"],
        "rai:dataCollectionMissingData": " ".join(missing) or "No row is incomplete.",
        "rai:dataCollectionRawData": f"{len(study.texts):,} texts of completions are in texts.parquet; the "
        "others are there by verdict, answer, length and hash.",
        **({"rai:dataCollectionTimeFrame": [min(times), max(times)]} if times else {}),
        "rai:dataAnnotationProtocol": "A verdict comes from rules that compare a completion's answer with "
        "the gold answer; no person judged one.",
        **({"rai:machineAnnotationTools": tools} if tools else {}),
        "rai:dataLimitations": subject.limitations,
        "rai:dataBiases": "Not assessed: the records hold nothing to assess them by.",
        "rai:dataUseCases": "Comparing the rows with each other on "
        f"{', '.join(one.title for one in study.benchmarks)} at the budgets of the study; counting its FLOPs "
        f"anew. The model is {one_line(facts.model.description)}; nothing was measured on another.",
        "rai:dataSocialImpact": "Not assessed.",
        "rai:personalSensitiveInformation": "Not screened for. The records hold problems and completions of "
        "models, and nothing that is meant to be about a person.",
    }
