"""All studies on one page: each with what it found, none ranked against another."""

from __future__ import annotations

import html
import re
import shutil
from datetime import date
from pathlib import Path
from urllib.parse import unquote

import pytest
from synthetic import FAILED, Made, seal, write_records
from test_page import EVIL, packs
from test_publish import quick  # noqa: F401 (a fixture)

from repro.errors import UserError
from repro.files import read_json
from repro.records import Role
from repro.reporting import bundle, site
from repro.reporting.deposit import Author
from repro.reporting.results import load
from repro.reporting.tables import headline

ROWS = (
    Made("base", Role.BASE), Made("good", gain=1.2), Made("evil", title=EVIL), Made("crashed", broken=FAILED)
)  # fmt: skip


@pytest.fixture
def results(tmp_path: Path, quick: None) -> Path:  # noqa: F811
    results = tmp_path / "results"
    one = write_records(results / "a study" / "records", ROWS, per_tier=2, k=2)
    facts = read_json(one / "study.json")
    five = write_records(
        results / "b" / "records", ROWS[:2], seeds=(0, 1, 2, 3, 4), per_tier=2, k=2, benchmarks=("x", "y")
    )
    seal(five, read_json(five / "study.json") | {"title": "Five seeds"})
    sent = Path(shutil.copytree(one, tmp_path / "sent"))
    seal(sent, facts | {"title": f"Sent {EVIL}"})
    bundle.publish(sent, results / "contributed" / "c", [Author(name="Eve <i>")], None, date(2026, 1, 2))
    return results


def test_the_page_has_every_study_and_every_row(results: Path) -> None:
    text = site.build(results).read_text()
    assert "<script>alert" not in text and "Eve &lt;i&gt;" in text
    titles = [html.unescape(title) for title in re.findall(r'<h3><a href="[^"]*">(.*?)</a>', text)]
    assert titles == ["Made-up study", "Five seeds", f"Sent {EVIL}"]
    assert len(re.findall(r"</a> \(preliminary\)</h3>", text)) == 2
    for folder in ("a study", "b", "contributed/c"):
        study = load(results / folder / "records")
        for one in study.benchmarks:
            assert html.escape(headline(site.Analysis(study, one.name))) in text.replace("&#34;", "&quot;")
        assert study.facts.digest in text
    for address in re.findall(r'href="([^#"][^"]*)"', text):
        top = unquote(address).split("/")[0]
        assert top in ("a study", "b", "contributed") and "://" not in address
    assert (results / unquote(re.findall(r'href="(contributed[^"]*report[^"]*)"', text)[0])).is_file()

    board = packs(text)["copies"][0]["all-rows"][2].splitlines()
    assert [line.split(",")[0] for line in board[1:]] == ["a study"] * 4 + ["b"] * 4 + ["contributed/c"] * 4
    good = next(line.split(",") for line in board if ",good," in line)
    study = load(results / "a study" / "records")
    score = site.Analysis(study).accuracy("good", study.top)
    assert float(good[6]) == pytest.approx(score.mean, rel=1e-5)  # type: ignore[union-attr]
    assert float(good[10]) == pytest.approx(study.spent("good", study.top))  # type: ignore[arg-type]
    assert "<b>" not in re.findall(r"<tbody>(.*)</tbody>", text, re.S)[0]  # nothing is best
    assert text.count("are not comparable") >= 2


def test_the_page_is_the_same_bytes_every_time(results: Path) -> None:
    first = site.build(results).read_bytes()
    shutil.copytree(results, results.parent / "other" / "place")
    assert site.build(results.parent / "other" / "place").read_bytes() == first


def test_what_is_no_study_is_refused(results: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no study"):
        site.build(tmp_path / "empty")
    (results / "contributed" / "c" / ".zenodo.json").unlink()
    with pytest.raises(UserError, match=r"contributed/c is no bundle, it has no \.zenodo\.json"):
        site.build(results)
