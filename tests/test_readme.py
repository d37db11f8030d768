"""README tells the truth: what it shows is what the committed records give."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.promise("Records and report", "The leaderboard of the README is the committed one.")
def test_the_leaderboard_is_the_committed_one() -> None:
    shown = README.split("<!-- leaderboard:begin -->")[1].split("<!-- leaderboard:end -->")[0]
    assert shown.strip() == (ROOT / "results/atlas/summary.md").read_text().strip()


def test_every_relative_link_and_path_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    studies = re.findall(r"benchmarks/studies/[\w.-]+\.yaml", README)
    assert links and studies
    for path in (*links, *studies):
        assert (ROOT / path).exists(), path
