"""The report in a browser: what its buttons do, that it fits a phone, that it asks nobody for anything."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from browser import CHROMIUM, Browser
from synthetic import ROWS, Made, write_records
from test_page import EVIL

from repro.reporting import page, page_data, site
from repro.reporting.results import load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium"),
]
EVERYTHING = (*ROWS, Made("evil", title=EVIL, gain=0.5))
ROW = "[...document.querySelectorAll('#leaderboard tbody tr:not([hidden])')]"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    page.build(write_records(folder / "records", EVERYTHING, per_tier=5), folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Browser]:
    """The page just opened; afterwards nothing was complained of, and nothing asked for but the page."""
    browser.errors.clear()
    browser.requests.clear()
    browser.open(report)
    yield browser
    assert browser.errors == [] and set(browser.requests) == {report.as_uri()}
    assert browser.run("document.querySelector('#trouble').hidden")


def scores(browser: Browser) -> list[str]:
    """Of the leaderboard as it stands: the first line of its column of the top budget."""
    cells = f"{ROW}.map(row => row.cells[7].firstChild.textContent)"
    return browser.run(cells)  # type: ignore[no-any-return]


def test_a_table_sorts_and_goes_back(opened: Browser) -> None:
    before = scores(opened)
    click = "document.querySelectorAll('#leaderboard th button')[7].click()"
    opened.run(click)
    numbers = [float(text) for text in scores(opened) if text != "X"]
    assert numbers == sorted(numbers, reverse=True) and scores(opened)[-2:] == ["X", "X"]
    opened.run(click)
    assert scores(opened) == [str(number) for number in sorted(numbers)] + ["X", "X"]
    assert opened.run("document.querySelectorAll('#leaderboard th')[7].ariaSort") == "ascending"
    opened.run(click)
    assert scores(opened) == before


def test_the_leaderboard_is_filtered_by_kind_and_text(opened: Browser) -> None:
    holder = "document.querySelector('[data-table=leaderboard]')"
    opened.run(
        f"const select = {holder}.querySelector('select'); select.value = 'ablation';"
        "select.dispatchEvent(new Event('change'))"
    )
    assert opened.run(f"{ROW}.map(row => row.cells[1].textContent)") == ["WEAK"]
    opened.run(
        "select.value = ''; select.dispatchEvent(new Event('change'));"
        f"const search = {holder}.querySelector('input'); search.value = 'TwIn';"
        "search.dispatchEvent(new Event('input'))"
    )
    assert opened.run(f"{ROW}.map(row => row.cells[1].textContent)") == ["TWIN"]
    assert opened.run(f"{holder}.querySelector('[role=status]').textContent") == "1 of 9 rows"


def test_the_leaderboard_is_filtered_by_objective(opened: Browser) -> None:
    opened.run(
        "const objective = document.querySelectorAll('[data-table=leaderboard] select')[1];"
        "objective.value = '\N{EN DASH}'; objective.dispatchEvent(new Event('change'))"
    )
    left = opened.run(f"{ROW}.map(row => row.cells[1].textContent)")
    assert left and "BASE" in left and "GOOD" not in left


def test_a_table_is_copied_as_its_files_are(opened: Browser, report: Path) -> None:
    opened.run("navigator.clipboard.writeText = async (text) => { window.copied = text }")
    for name, ending in (("LaTeX", "tex"), ("Markdown", "md"), ("CSV", "csv")):
        opened.run(
            "[...document.querySelectorAll('[data-table=costs] button')]"
            f".find(button => button.textContent === 'Copy {name}').click()"
        )
        opened.wait(
            f"document.querySelector('[data-table=costs] [role=status]').textContent === '{name} copied'"
        )
        assert opened.run("copied") == (report.parent / f"tables/costs.{ending}").read_text()


def test_a_chart_tells_of_its_points_and_draws_the_rows_chosen(opened: Browser) -> None:
    opened.run("document.querySelector('#chart-accuracy').scrollIntoView()")
    opened.wait("document.querySelector('#chart-accuracy .scatterlayer .point')")
    lines = "document.querySelectorAll('#chart-accuracy .scatterlayer .trace').length"
    drawn = opened.run(lines)
    assert drawn == 7  # base, continued, random; good, twin, evil; crashed, up to where it did
    x, y = opened.run(
        "(() => { const box = [...document.querySelectorAll('#chart-accuracy .scatterlayer .point')].at(-1)"
        ".getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2] })()"
    )
    opened.point(x - 30, y - 30)
    opened.point(x, y)
    opened.wait("document.querySelector('#chart-accuracy .hoverlayer .hovertext')")
    told = opened.run("document.querySelector('#chart-accuracy .hoverlayer').textContent")
    assert "GFLOP" in told and "seeds: " in told
    opened.run("document.querySelector('#chart-accuracy [data-row]').click()")
    opened.wait(f"{lines} === {drawn - 1}")
    assert opened.run("document.activeElement.getAttribute('aria-pressed')") in ("false", None)
    opened.run(
        "[...document.querySelectorAll('#chart-accuracy .rowkeys button')]"
        ".find(button => button.textContent === 'all').click()"
    )
    opened.wait(f"{lines} === 8")  # absent has no point
    for select, value in (("Axis", "linear"), ("95 % intervals", "bands"), ("Problems", "2")):
        opened.run(
            "(() => { const select = [...document.querySelectorAll('#chart-accuracy label')]"
            f".find(label => label.textContent.startsWith('{select}')).querySelector('select');"
            f"select.value = '{value}'; select.dispatchEvent(new Event('change')) }})()"
        )
    opened.wait(f"{lines} === 16")


@pytest.mark.parametrize("name", ["differences", "ratios", "spend", "monitors"])
def test_every_choice_of_a_chart_draws(opened: Browser, name: str) -> None:
    opened.run(f"document.querySelector('#chart-{name}').scrollIntoView()")
    opened.wait(f"document.querySelector('#chart-{name} .main-svg')")
    opened.run(
        f"for (const select of document.querySelectorAll('#chart-{name} select')) for (const option of"
        " [...select.options]) { select.value = option.value; select.dispatchEvent(new Event('change')) }"
    )
    opened.size(700)
    opened.wait(f"document.querySelector('#chart-{name} .main-svg').getBoundingClientRect().width < 700")
    assert (
        opened.run(f"document.querySelector('#chart-{name} .main-svg').getBoundingClientRect().height") > 100
    )
    opened.run("document.querySelector('#theme').click()")


def test_a_problem_opens_with_what_was_answered(opened: Browser, report: Path) -> None:
    opened.run("document.querySelector('#explorer tbody button').focus()")
    opened.press("Enter")
    opened.wait("document.querySelector('#problem').open")
    assert opened.run("document.querySelector('#problem h2').textContent") == "p0000"
    opened.run("for (const row of document.querySelectorAll('#problem details')) row.open = true")
    opened.wait("document.querySelectorAll('#problem .runs').length === 8")
    samples = pd.read_parquet(report.parent / "records/samples.parquet")
    shown = opened.run(
        "[...document.querySelectorAll('#problem .runs')].map("
        "runs => [...runs.querySelectorAll('.chips > *')].map(chip => chip.title))"
    )
    titles = opened.run(
        "[...document.querySelectorAll('#problem details summary')].map(one => one.textContent)"
    )
    place = next(i for i, title in enumerate(titles) if " GOOD " in title)
    of_good = samples.query("method == 'good' and problem == 'p0000'").assign(
        late=samples["mode"] == "sampled"
    )
    wanted = of_good.sort_values(["budget", "seed", "late", "sample"])["verdict"]
    assert shown[place] == list(wanted)
    opened.press("Escape")
    opened.wait("!document.querySelector('#problem').open")


def test_problems_are_searched_and_split_by_who_solved_them(opened: Browser, report: Path) -> None:
    said = "document.querySelector('#explorer [role=status]').textContent"
    opened.run(
        "const search = document.querySelector('#explorer input[type=search]'); search.value = 'P0007';"
        "search.dispatchEvent(new Event('input'))"
    )
    assert opened.run(said) == "1 of 15 problems"
    opened.run("search.value = ''; search.dispatchEvent(new Event('input'))")
    for label, row in (("Solved by", "GOOD"), ("and not by", "BASE")):
        opened.run(
            "(() => { const select = [...document.querySelectorAll('#explorer label')]"
            f".find(label => label.textContent.startsWith('{label}')).querySelector('select');"
            f"select.value = [...select.options].find(option => option.text === '{row}').value;"
            "select.dispatchEvent(new Event('change')) })()"
        )
    study = load(report.parent / "records")
    good, base = (
        study.benchmarks[0].scores["sampled"][study.index[name], :, -1].mean(0) >= 0.5
        for name in ("good", "base")
    )
    assert opened.run(said) == f"{(good & ~base).sum()} of 15 problems"


def test_questions_and_texts_are_shown_where_they_are_known(
    browser: Browser, report: Path, tmp_path: Path
) -> None:
    """Completions from the file beside the page, which a person picks."""
    study = load(report.parent / "records")
    hashes = study.benchmarks[0].samples["text_hash"].cat.categories
    analyses = [page.Analysis(study)]
    question = "What is <b>1</b> + 1?"
    questions = {(one.name, "p0000"): (question, "2") for one in study.benchmarks}
    text = page.render(analyses, page.all_tables(analyses), {}, questions, None)
    (tmp_path / "report.html").write_text(text)
    beside = tmp_path / page.DETAILS
    beside.write_bytes(page_data.details(study, {name: f"It is {EVIL}." for name in hashes}))
    browser.open(tmp_path / "report.html")
    assert browser.run("document.querySelector('#explorer td.question').textContent") == question
    document = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=document, selector="#explorer input[type=file]")["nodeId"]
    browser.call("DOM.setFileInputFiles", files=[str(beside)], nodeId=node)
    browser.wait("!document.querySelector('#explorer input[type=file]')")
    browser.run("document.querySelector('#explorer tbody button').click()")
    assert "Gold answer: 2" in browser.run("document.querySelector('#problem').textContent")
    browser.run("document.querySelector('#problem details').open = true")
    browser.wait("document.querySelector('#problem .chips pre')")
    assert browser.run("document.querySelector('#problem .chips pre').textContent") == f"It is {EVIL}."


def test_the_page_is_light_and_dark(opened: Browser) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    assert opened.run(paper) == "rgb(255, 255, 255)"
    opened.run("document.querySelector('#theme').click()")
    assert opened.run(paper) == "rgb(22, 24, 28)"
    assert opened.run("document.querySelector('#theme').textContent") == "Light"
    opened.run("document.querySelector('#theme').click()")
    assert opened.run(paper) == "rgb(255, 255, 255)"


def test_the_page_fits_a_phone(opened: Browser, report: Path) -> None:
    opened.open(report, width=400)
    opened.run("for (const one of document.querySelectorAll('main details')) one.open = true")
    for name in ("accuracy", "differences", "ratios", "spend", "monitors"):
        opened.run(f"document.querySelector('#chart-{name}').scrollIntoView()")
        opened.wait(f"document.querySelector('#chart-{name} .main-svg')")
    assert opened.run("document.documentElement.scrollWidth") == 400
    assert opened.run(
        "const scroll = document.querySelector('#leaderboard').parentElement; scroll.scrollLeft = 300;"
        "document.querySelector('#leaderboard td.frozen').getBoundingClientRect().x"
        " - scroll.getBoundingClientRect().x"
    ) == pytest.approx(1, abs=1)


def test_the_page_is_printed_with_all_its_tables(opened: Browser) -> None:
    """On white, however it is shown."""
    opened.run("document.documentElement.dataset.theme = 'dark'")
    opened.call("Emulation.setEmulatedMedia", media="print")
    assert opened.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    opened.call("Emulation.setEmulatedMedia", media="")
    assert opened.pdf().startswith(b"%PDF")
    opened.run("dispatchEvent(new Event('beforeprint'))")
    assert opened.run("document.querySelectorAll('main details:not([open])').length") == 0
    opened.run("dispatchEvent(new Event('afterprint'))")
    assert opened.run("document.querySelectorAll('main details:not([open])').length") > 0


def test_the_keyboard_reaches_what_can_be_pressed(opened: Browser) -> None:
    """By Tab, each with an outline."""
    seen = []
    for _ in range(25):
        opened.press("Tab")
        seen.append(opened.run(
            "[document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]"
        ))  # fmt: skip
    assert {"BUTTON", "SUMMARY", "SELECT"} <= {tag for tag, _ in seen}
    assert all(outline == "solid" for _, outline in seen)


def test_without_script_the_page_has_headline_tables_and_figures(browser: Browser, report: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.call("Page.navigate", url=report.as_uri())
        browser.wait("document.readyState === 'complete' && document.querySelector('#leaderboard')")
        assert browser.run("document.querySelectorAll('noscript img').length") == 2
        assert browser.run("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
        visible = "[...document.querySelectorAll('.scripted')].filter(one => one.offsetHeight).length"
        assert browser.run(visible) == 0
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.fixture(scope="module")
def all_studies(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    for name in ("one", "two"):
        shutil.copytree(report.parent / "records", results / name / "records")
    return site.build(results)


def test_the_site_sorts_and_filters_the_rows_of_all_studies(browser: Browser, all_studies: Path) -> None:
    """And asks nobody for anything."""
    browser.errors.clear()
    browser.requests.clear()
    browser.open(all_studies)
    rows = "[...document.querySelectorAll('#all-rows tbody tr:not([hidden])')]"
    count = browser.run(f"{rows}.length")
    assert count == 2 * len(EVERYTHING)
    heads = browser.run("[...document.querySelectorAll('#all-rows th')].map(head => head.textContent)")
    score = heads.index("Score")
    browser.run(f"document.querySelectorAll('#all-rows th button')[{score}].click()")
    found = browser.run(f"{rows}.map(row => row.cells[{score}].firstChild.textContent)")
    numbers = [float(text.rstrip("\u2020")) for text in found if text != "X"]
    assert numbers == sorted(numbers, reverse=True) and set(found[len(numbers) :]) == {"X"}
    browser.run(
        "(() => { const search = document.querySelector('input[type=search]'); search.value = 'TwIn';"
        "search.dispatchEvent(new Event('input')) })()"
    )
    assert browser.run(f"{rows}.length") == 2
    assert browser.run("document.querySelector('[role=status]').textContent") == f"2 of {count} rows"
    browser.run("document.querySelector('#theme').click()")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 28)"
    browser.press("Tab")
    assert browser.run("document.activeElement.matches('summary, a, button')")
    browser.open(all_studies, width=400)
    assert browser.run("document.documentElement.scrollWidth") == 400
    assert browser.errors == [] and set(browser.requests) == {all_studies.as_uri()}
