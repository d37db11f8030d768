"""Where a study keeps its state: heavy things in ``work/``, committed ones in ``results/``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    root: Path
    study: str

    @property
    def work(self) -> Path:
        return self.root / "work" / self.study

    @property
    def problems(self) -> Path:
        return self.work / "problems"

    @property
    def base(self) -> Path:
        return self.work / "base"

    @property
    def base_manifest(self) -> Path:
        return self.work / "base.json"

    @property
    def results(self) -> Path:
        return self.root / "results" / self.study

    @property
    def runs(self) -> Path:
        return self.work / "runs"

    @property
    def evaluations(self) -> Path:
        return self.work / "evaluations"

    def test(self, benchmark: str) -> Path:
        return self.problems / "test" / f"{benchmark}.jsonl"

    def run(self, method: str, seed: int) -> Path:
        return self.runs / f"{method}-{seed}.json"

    def samples(self, method: str, seed: int) -> Path:
        return self.evaluations / f"{method}-{seed}.parquet"
