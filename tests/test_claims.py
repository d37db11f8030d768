"""The papers' claims and figures: how they are judged and shown, and whether those shipped are right."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import ttest_rel
from synthetic import ABSENT, ONE_TIER, Made, facts_of, run_line, seal, solved, write, write_records

from repro.errors import UserError
from repro.records import Role
from repro.reporting import results
from repro.reporting.analysis import Analysis, Difference
from repro.reporting.claims import Claim, Finding, Judgement, claims_table, judge, read_claims
from repro.reporting.comparisons import curves_of
from repro.reporting.page import build
from repro.reporting.published import PUBLISHED, Figure, published_table, read_published
from repro.reporting.results import X
from repro.reporting.statistics import DRAWS
from repro.reporting.tables import all_tables

ROOT = Path(__file__).resolve().parent.parent
ATLAS = ROOT / "benchmarks" / "studies" / "atlas.yaml"  # has every row
PAPER = "Nobody 2026, arXiv:2601.00001"
FIVE = (0, 1, 2, 3, 4)
ROWS = (
    Made("base", Role.BASE),
    Made("strong", gain=2.5),
    Made("equal", gain=2.5, title="Strong's equal"),
    Made("middle", gain=1.3),
    Made("weak", gain=0.4),
    Made("none", gain=-0.1),
    Made("absent", broken={(s, b): why for s in FIVE for (t, b), why in ABSENT.items() if t == 0}),
)


def claim(row: str, over: Any, direction: str = "higher", metric: str = "accuracy", **more: Any) -> Claim:
    ratio, up = metric == "flop_ratio", direction == "higher"
    size = (2.0 if up else 0.25) if ratio else (2.0 if up else -2.0)
    unit = "times" if ratio else "points"
    values = {
        "claim": f"{row} over {over}", "paper": PAPER, "place": "Table 1", "row": row,
        "test": {"metric": metric, "direction": direction, "over": [over] if isinstance(over, str) else over},
        "published": {"values": [size], "unit": unit, "model": "M", "benchmark": "B"},
    }  # fmt: skip
    return Claim.model_validate(values | more)


UNTESTABLE = {"test": None, "untestable": "Nobody wrote it down."}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("claims") / "records", ROWS, seeds=FIVE, per_tier=40)


@pytest.fixture(scope="module")
def analysis(records: Path) -> Analysis:
    return Analysis(results.load(records))


def findings(analysis: Analysis, **claims: Claim) -> dict[str, str]:
    return {name: str(one.finding) for name, one in judge(curves_of(analysis), claims).items()}


def one(analysis: Analysis, claim: Claim) -> Judgement:
    return judge(curves_of(analysis), {"it": claim})["it"]


def test_each_finding(analysis: Analysis) -> None:
    assert findings(
        analysis,
        better=claim("strong", "weak"),
        worse=claim("weak", "strong"),
        lower=claim("weak", "strong", "lower"),
        alike=claim("equal", "strong"),
        lame=claim("strong", "absent"),
        unknown=claim("strong", "nowhere"),
        silent=claim("strong", "weak", **UNTESTABLE),
    ) == {
        "better": "supported", "worse": "contradicted", "lower": "supported", "alike": "undecided",
        "lame": "not tested", "unknown": "not tested", "silent": "not testable",
    }  # fmt: skip


def test_a_judgement_says_what_it_rests_on(analysis: Analysis) -> None:
    found, effect = one(analysis, claim("strong", "weak")), analysis.difference("strong", "weak", 8 * 10**9)
    assert isinstance(effect, Difference) and found.effect
    assert (found.effect.mean, found.effect.low, found.p_holm) == (effect.mean, effect.low, effect.p)
    assert (found.against, found.reason, found.covers) == ("weak", "", False)
    assert one(analysis, claim("strong", "nowhere")).reason == "the study lacks nowhere"
    lack = one(analysis, claim("strong", "absent"))
    assert lack.reason == "ABSENT at 8.00 GFLOP: unavailable: the study has no process scorer"
    assert lack.effect is None and lack.covers is None


def test_of_several_rows_each_is_to_be_surpassed(analysis: Analysis) -> None:
    """The one that is surpassed least is shown. To fall short of one is enough to be contradicted."""
    each = one(analysis, claim("strong", ["weak", "middle"]))
    assert (each.finding, each.against) == (Finding.SUPPORTED, "middle")
    assert one(analysis, claim("strong", ["weak", "equal"])).finding is Finding.UNDECIDED
    short = one(analysis, claim("middle", ["weak", "strong", "none"]))
    assert (short.finding, short.against) == (Finding.CONTRADICTED, "strong")
    lower = one(analysis, claim("weak", ["none", "strong"], "lower"))
    assert (lower.finding, lower.against) == (Finding.CONTRADICTED, "none")


def made_up(monkeypatch: pytest.MonkeyPatch, **effects: tuple[float, float, float, float]) -> None:
    """Differences of whatever row over those named: (mean, low, high, p)."""
    found = {name: Difference(*numbers) for name, numbers in effects.items()}
    monkeypatch.setattr(Analysis, "difference", lambda self, row, other, budget: found[other])


def test_p_values_are_corrected_over_all_claims(analysis: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, weak=(0.02, 0.001, 0.039, 0.03), middle=(0.02, 0.001, 0.039, 0.02))
    first, second = claim("strong", "weak"), claim("strong", "middle")
    assert findings(analysis, first=first) == {"first": "supported"}
    both = judge(curves_of(analysis), {"first": first, "second": second})
    assert [each.p_holm for each in both.values()] == [0.04, 0.04]
    lame, third = claim("strong", "absent"), claim("equal", "weak")
    three = judge(curves_of(analysis), {"first": first, "second": second, "third": third, "lame": lame})
    assert {each.finding for each in three.values()} == {Finding.UNDECIDED, Finding.NOT_TESTED}
    assert three["second"].p_holm == 0.06  # of the three that were tested, not of four


def test_p_value_of_a_claim_over_several_rows(analysis: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, weak=(0.02, 0.01, 0.03, 0.03), middle=(0.05, 0.04, 0.06, 0.001),
            none=(-0.03, -0.05, -0.01, 0.004))  # fmt: skip
    assert one(analysis, claim("strong", ["weak", "middle"])).p_holm == 0.03
    assert one(analysis, claim("strong", ["weak", "middle", "none"])).p_holm == pytest.approx(0.012)
    assert one(analysis, claim("strong", ["none", "weak"], "lower")).p_holm == 0.06


def test_interval_and_p_value_must_agree(analysis: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, weak=(0.02, -0.001, 0.04, 0.001), middle=(-0.02, -0.04, 0.001, 0.001),
            none=(0.02, 0.001, 0.04, 0.051))  # fmt: skip
    for other in ("weak", "middle", "none"):
        assert one(analysis, claim("strong", other)).finding is Finding.UNDECIDED


@pytest.mark.parametrize(
    ("values", "reached"),
    [([2.0], True), ([1.0, 1.9], True), ([0.5, 0.9], False), ([3.1, 4.0], False), ([0.0, 9.0], True)],
)
def test_whether_the_interval_reaches_the_published_size(
    analysis: Analysis, monkeypatch: pytest.MonkeyPatch, values: list[float], reached: bool
) -> None:
    made_up(monkeypatch, weak=(0.02, 0.01, 0.03, 0.001))
    published = {"values": values, "unit": "points", "model": "M", "benchmark": "B"}
    assert one(analysis, claim("strong", "weak", published=published)).covers is reached


def test_few_seeds_decide_nothing(tmp_path: Path) -> None:
    write_records(tmp_path / "records", ROWS[:5], seeds=FIVE[:4], per_tier=20)
    analysis = Analysis(results.load(tmp_path / "records"))
    for test in (claim("strong", "weak"), claim("weak", "strong")):
        found = one(analysis, test)
        assert found.finding is Finding.UNDECIDED and found.reason.startswith("preliminary")
        assert found.effect and found.p_holm < 0.01
    file = claims_file(tmp_path, it=claim("strong", "weak"))
    table = claims_table([curves_of(analysis)], file)
    assert table and "undecided<br>(preliminary)" in table.markdown()


def test_a_row_that_never_trained_is_not_tested(tmp_path: Path) -> None:
    runs = [
        run_line(name, seed, 1000, steps=int(name != "idle")) for name in ("idle", "busy") for seed in FIVE
    ]
    samples = [
        s
        for name, n in (("idle", 2), ("busy", 3))
        for seed in FIVE
        for s in solved(name, seed, 1000, [n] * 4)
    ]
    facts = facts_of(budgets=[1000], seeds=list(FIVE), benchmarks=[ONE_TIER])
    analysis = Analysis(results.load(write(tmp_path / "records", facts, runs=runs, samples=samples)))
    for test in (claim("idle", "busy"), claim("busy", "idle")):
        found = one(analysis, test)
        assert found.finding is Finding.NOT_TESTED and "no optimizer step" in found.reason


def curves(folder: Path, **scores: tuple[int, int, int]) -> Analysis:
    """Rows that solve so many of 4 samples of every problem at 1,000, 2,000 and 4,000 FLOPs."""
    budgets = (1000, 2000, 4000)
    runs, samples = [], []
    for name, counts in scores.items():
        for seed in FIVE:
            for budget, count in zip(budgets, counts, strict=True):
                role = "base" if name == "base" else "method"
                runs.append(run_line(name, seed, budget, role=role))
                samples += solved(name, seed, budget, [count] * 8)
    facts = facts_of(budgets=list(budgets), seeds=list(FIVE), benchmarks=[ONE_TIER])
    return Analysis(results.load(write(folder / "records", facts, runs=runs, samples=samples)))


def test_ratio_of_flops(tmp_path: Path) -> None:
    """Fast has what slow has at 4,000 FLOPs, 3 of 4, at 2,000 already: half. What early has at 4,000, fast
    has at the lowest budget or before."""
    analysis = curves(
        tmp_path, base=(0, 0, 0), fast=(2, 3, 4), slow=(1, 2, 3), early=(1, 1, 2), idle=(0, 0, 0)
    )

    def ratio(row: str, other: str, direction: str = "lower") -> Judgement:
        return one(analysis, claim(row, other, direction, "flop_ratio"))

    found = ratio("fast", "slow")
    assert found.effect and (found.effect.mean, found.effect.bound) == (0.5, "")
    assert found.finding is Finding.SUPPORTED and found.covers is False
    assert found.p_holm == pytest.approx(2 / (1 + DRAWS))  # every draw is on that side
    assert ratio("slow", "fast").finding is Finding.CONTRADICTED
    assert ratio("slow", "fast", "higher").finding is Finding.SUPPORTED
    below, above = ratio("fast", "early").effect, ratio("early", "fast").effect
    assert below and (below.mean, below.low, below.bound) == (0.25, 0.0, "<")
    assert above and (above.mean, above.high, above.bound) == (4.0, np.inf, ">")
    none = ratio("fast", "idle")
    assert none.finding is Finding.NOT_TESTED and "not surely above the base model's" in none.reason


def test_ratio_of_measured_curves(analysis: Analysis) -> None:
    cheaper = claim("strong", "weak", "lower", "flop_ratio")
    found = judge(
        curves_of(analysis), {"cheaper": cheaper, "alike": claim("strong", "equal", "lower", "flop_ratio")}
    )
    assert found["cheaper"].finding is Finding.SUPPORTED and found["alike"].finding is Finding.UNDECIDED
    assert found["alike"].p_holm > 0.05
    effect = found["cheaper"].effect
    assert effect and effect.low <= effect.mean <= effect.high < 1
    lame = claim("strong", "absent", "lower", "flop_ratio")
    assert "ABSENT at 1.00 GFLOP" in one(analysis, lame).reason  # each budget is wanted


def test_difference_of_a_monitor(tmp_path: Path) -> None:
    """Of the last round, paired by seed."""
    values = {"even": (1.0, 1.2, 0.9, 1.4, 1.1), "uneven": (1.6, 1.7, 1.2, 2.1, 1.5)}
    monitors = [
        {"method": name, "seed": seed, "budget": 1000, "round": round, "spent": round,
         "monitor": "training_frequency_sd", "value": value if round == 2 else 9.0}
        for name, each in values.items() for seed, value in enumerate(each) for round in (1, 2)
    ]  # fmt: skip
    runs = [run_line(name, seed, 1000) for name in values for seed in FIVE]
    samples = [s for name in values for seed in FIVE for s in solved(name, seed, 1000, [2] * 4)]
    facts = facts_of(budgets=[1000], seeds=list(FIVE), benchmarks=[ONE_TIER])
    records = write(tmp_path / "records", facts, runs=runs, samples=samples, monitors=monitors)
    analysis = Analysis(results.load(records))
    found = one(analysis, claim("even", "uneven", "lower", "training_frequency_sd"))
    due = ttest_rel(values["even"], values["uneven"])
    assert found.effect and found.finding is Finding.SUPPORTED
    assert found.effect.mean == pytest.approx(-0.5) and found.p_holm == pytest.approx(due.pvalue, rel=1e-5)
    assert (found.effect.low, found.effect.high) == pytest.approx(tuple(due.confidence_interval(0.95)))
    other = one(analysis, claim("even", "uneven", "lower", "kl"))
    assert other.reason == "Even has no monitor kl"


# ----------------------------------------------------------------------------------------------- tables


def claims_file(folder: Path, **claims: Claim) -> Path:
    file = folder / "claims.yaml"
    file.write_text(
        yaml.safe_dump(
            {n: c.model_dump(mode="json", exclude_defaults=True) for n, c in claims.items()}, sort_keys=False
        )
    )
    return file


def test_table_has_the_claims_about_the_studys_rows(analysis: Analysis, tmp_path: Path) -> None:
    file = claims_file(
        tmp_path,
        better=claim("strong", "weak", caveat="Not quite the paper's."),
        silent=claim("strong", "weak", **UNTESTABLE),
        lame=claim("strong", "absent"),
        elsewhere=claim("strong", "nowhere"),
        foreign=claim("nowhere", "strong"),
    )
    table = claims_table([curves_of(analysis)], file)
    assert table and list(table.data["claim"]) == ["better", "silent", "lame"]
    assert list(table.data["verdict"]) == ["supported", "not testable", "not tested"]
    notes = "\n".join(table.notes)
    assert "800,000 parameters, 5 training seeds" in notes and "better: Not quite the paper's." in notes
    assert "silent, not testable: Nobody wrote it down.\n" in notes
    assert "Claims that want rows which the study has not: elsewhere." in notes and "foreign" not in notes
    line = next(csv.DictReader(table.csv().splitlines()))
    effect = analysis.difference("strong", "weak", 8 * 10**9)
    assert isinstance(effect, Difference) and float(line["effect"]) == pytest.approx(effect.mean, rel=1e-5)
    assert (line["published_least"], line["top_budget"], line["seeds"]) == ("2", "8000000000", "5")
    assert f"+{100 * effect.mean:.1f}<br>[" in table.markdown() and "over WEAK" in table.markdown()
    assert r"\toprule" in table.latex() and '<table id="claims">' in table.html()


def test_no_table_where_no_claim_could_be_tested(analysis: Analysis, tmp_path: Path) -> None:
    curves = curves_of(analysis)
    silent = claim("strong", "weak", **UNTESTABLE)
    for nothing in (claim("nowhere", "strong"), claim("strong", "nowhere"), silent):
        assert claims_table([curves], claims_file(tmp_path, it=nothing)) is None
    assert claims_table([curves]) is None and published_table([analysis]) is None


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of rows that papers have figures of."""
    rows = (
        Made("control_base", Role.BASE, title="Base model"), Made("adastar", gain=2.0),
        Made("star_acc", gain=1.0), Made("star_acc_lazy", gain=1.8),
        Made("grpo", gain=0.5), Made("raft", gain=0.9),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("papers") / "records"
    return write_records(folder, rows, seeds=FIVE, per_tier=20, benchmarks=("gsm8k", "math500"))


def test_published_figures_stand_beside_the_studys(papers: Path, tmp_path: Path) -> None:
    study = results.load(papers)
    analyses = [Analysis(study, name) for name in ("gsm8k", "math500")]
    table = published_table(analyses)
    assert table is not None
    found = {(line["Benchmark"], line["row"]): line for line in table.data.to_dict("records")}
    line = found["GSM8K", "raft"]
    assert (line["published"], line["control"], line["published_vs_control"]) == (0.774, "grpo", -0.039)
    ours, over = analyses[0].accuracy("raft", study.top), analyses[0].difference("raft", "grpo", study.top)
    base = analyses[0].difference("raft", "control_base", study.top)
    assert not isinstance(ours, X) and isinstance(over, Difference) and isinstance(base, Difference)
    assert (line["accuracy"], line["vs_control"], line["vs_base"]) == (ours.mean, over.mean, base.mean)
    assert (line["same_model"], line["same_data"]) == (0, 0)
    assert found["MATH500", "raft"]["same_data"] == 1  # the paper's MATH-500
    assert found["GSM8K", "star_acc"]["vs_control"] is None  # it is the control itself
    assert any("compare signs and orders" in note for note in table.notes)


def test_the_same_model_and_data_are_said_to_be(papers: Path, tmp_path: Path) -> None:
    facts = results.load(papers).facts.model_dump(mode="json")
    facts["model"]["description"] = "Qwen/Qwen2.5-Math-7B@b101308"
    (tmp_path / "records").mkdir()
    for path in papers.iterdir():
        (tmp_path / "records" / path.name).write_bytes(path.read_bytes())
    study = results.load(seal(tmp_path / "records", facts))
    table = published_table([Analysis(study, "math500")])
    assert table and any("can be compared" in note for note in table.notes)
    alike = {line["row"]: line["same_model"] for line in table.data.to_dict("records")}
    assert alike == {"star_acc": 0, "adastar": 0, "raft": 1, "grpo": 1}


# ------------------------------------------------------------------------------------------- malformed files

GOOD: dict[str, Any] = {
    "claim": "A beats B.", "paper": PAPER, "place": "Table 1", "row": "a",
    "test": {"metric": "accuracy", "direction": "higher", "over": ["b"]},
    "published": {"values": [1.0], "unit": "points", "model": "M", "benchmark": "B"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"row": ...}, "it: key `row` is missing; add it"),
        ({"rows": "a"}, "it: unknown key `rows`; known here: claim, paper"),
        ({"test": ...}, "it: a claim has either a `test`, or why it is `untestable`"),
        ({"untestable": "Both."}, "it: a claim has either a `test`, or why it is `untestable`"),
        ({"paper": "Nobody 2026"}, "it: `paper`: "),
        (
            {"test": GOOD["test"] | {"metric": "accuracies"}},
            "it: `test.metric`: there is no such metric; there are",
        ),
        ({"test": GOOD["test"] | {"direction": "up"}}, "it: `test.direction`: "),
        ({"test": GOOD["test"] | {"over": []}}, "it: `test.over`: "),
        ({"published": GOOD["published"] | {"values": [2.0, 1.0]}}, "`values` are the least and the most"),
        ({"published": GOOD["published"] | {"values": []}}, "it: `published.values`: "),
        ({"published": GOOD["published"] | {"unit": "percent"}}, "it: `published.unit`: "),
        ({"published": GOOD["published"] | {"unit": "times"}}, "values of accuracy are in points"),
        ({"published": GOOD["published"] | {"values": [-2.0, 0.0]}}, "no published value is higher than 0"),
        ({"test": GOOD["test"] | {"direction": "lower"}}, "no published value is lower than 0"),
        ({"test": GOOD["test"] | {"over": ["b", "b"]}}, "a row is compared with others, each once"),
        ({"test": GOOD["test"] | {"over": [GOOD["row"]]}}, "a row is compared with others, each once"),
    ],
)
def test_malformed_claims_give_one_sentence(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    values = {key: value for key, value in (GOOD | change).items() if value is not ...}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"it": values}))
    with pytest.raises(UserError) as error:
        read_claims(tmp_path / "claims.yaml")
    assert f"{tmp_path / 'claims.yaml'}, " in str(error.value) and sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a\n", "claims are a mapping from names, and not a list"),
        ("it: nothing\n", "`it` is a mapping of keys"),
        ("it: {claim: a}\nit: {claim: b}\n", "line 2: the key `it` is there twice"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_holds_no_claims_gives_one_sentence(
    tmp_path: Path, text: str | None, sentence: str
) -> None:
    if text is not None:
        (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(UserError, match=r"claims\.yaml") as error:
        read_claims(tmp_path / "claims.yaml")
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (",77.4,", ",much,", "line 2: `value`: "),
        (",grpo\n", "\n", "fields where 13 are due"),
        (",grpo\n", ",grpo,more\n", "fields where 13 are due"),
        ("value", "values", "lacks the column 'value'"),
        ("arXiv:2504.11343", "arXiv", "line 2: `paper`: "),
    ],
)
def test_malformed_figures_give_one_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    head, *lines = PUBLISHED.read_text().splitlines(keepends=True)
    raft = next(line for line in lines if ",77.4," in line)
    (tmp_path / "published.csv").write_text((head + raft).replace(old, new))
    with pytest.raises(UserError) as error:
        read_published(tmp_path / "published.csv")
    assert sentence in str(error.value) and "\n" not in str(error.value)


# ------------------------------------------------------------------------------------- what is shipped


@pytest.fixture(scope="module")
def rows() -> set[str]:
    """The rows of the study that has all of them."""
    return set(yaml.safe_load(ATLAS.read_text())["methods"])


def test_shipped_claims_are_about_rows_that_there_are(rows: set[str]) -> None:
    claims = read_claims()
    assert len(claims) > 20
    for name, each in claims.items():
        assert set(each.rows) <= rows, name
        assert each.row not in each.rows[1:], name
        if each.test:
            unit = {"accuracy": "points", "flop_ratio": "times"}.get(each.test.metric, "trainings")
            assert each.published.unit == unit, name
            sign = 1 if each.test.direction == "higher" else -1
            assert all(sign * (value - (unit == "times")) >= 0 for value in each.published.values), name


def test_shipped_figures_are_of_rows_that_there_are(rows: set[str]) -> None:
    figures = read_published()
    assert len(figures) == len({(*figure.setting, figure.table, figure.method) for figure in figures})
    of = {(figure.setting, figure.row) for figure in figures}
    for figure in figures:
        assert {figure.row, figure.control} - {""} <= rows, figure
        if figure.control:
            assert figure.unit == "%" and (figure.setting, figure.control) in of, figure


def value(method: str, model: str, benchmark: str, paper: str, metric: str = "") -> float:
    """The one figure that is so."""
    found = [
        f.value for f in read_published()
        if (f.method, f.model, f.benchmark) == (method, model, benchmark) and f.paper.startswith(paper)
        and metric in ("", f.metric)
    ]  # fmt: skip
    assert len(set(found)) == 1, (method, model, benchmark, found)
    return found[0]


def test_claims_and_figures_agree() -> None:
    """What claims say of sizes is what the figures give."""
    claims = read_claims()
    sizes = {name: list(each.published.values) for name, each in claims.items()}
    six = "Llama-3.2-3B; GSM8K Qwen2.5-3B", "mean of six data sets", "AdaSTaR"
    for name, other in (
        ("adastar_curriculum", "AdaSTaR w/o AdaC"), ("adastar_wins", "AdaSTaR w/o win rates"),
        ("adastar_order", "AdaSTaR-PF"),
    ):  # fmt: skip
        gain = value("AdaSTaR", *six, "accuracy") - value(other, *six, "accuracy")
        assert sizes[name] == [pytest.approx(gain)], name
    spread = value("AdaSTaR", *six, "SD of training frequency") - value(
        "STaR-Acc", *six, "SD of training frequency"
    )
    assert sizes["adastar_diversity"] == [pytest.approx(spread)]

    main = [f for f in read_published() if f.paper.startswith("AdaSTaR") and f.table == "Table 1"]
    margins, savings = [], []
    for data in {f.benchmark for f in main}:
        family = {f.method: f for f in main if f.benchmark == data and not f.method.startswith("SFT")}
        ours = family.pop("AdaSTaR")
        most = max(figure.value for figure in family.values())
        margins.append(round(ours.value - most, 6))
        # Of equally accurate rows the paper takes the cheapest.
        cost = min(float(f.train_pflops) for f in family.values() if f.value == most)
        savings.append(float(ours.train_pflops) / cost)
    assert len(savings) == 6 and sizes["adastar_best"] == [min(margins), max(margins)]

    mistral = "Mistral-7B", "B-STaR"
    for name, ours, theirs in (
        ("b_star_online_rft", "B-STaR", "Online RFT w/ RM"),
        ("b_star_both", "B-STaR", "B-STaR, temperature only"),
        ("inheriting", "Iterative RFT w/o RM", "ReST-EM w/o RM"),
    ):
        gains = [
            value(ours, mistral[0], data, mistral[1], "pass@1")
            - value(theirs, mistral[0], data, mistral[1], "pass@1")
            for data in ("GSM8K", "MATH")
        ]
        assert sizes[name] == [pytest.approx(min(gains)), pytest.approx(max(gains))], name

    three = "mean of MATH-500, Minerva Math, OlympiadBench", "Reinforce-Rej"
    qwen, llama = "Qwen2.5-Math-7B", "Llama-3.2-3B-Instruct"
    over_raft = [value("GRPO", model, *three) - value("RAFT", model, *three) for model in (llama, qwen)]
    assert sizes["grpo_over_raft"] == [pytest.approx(gain) for gain in over_raft]
    for name, ours in (("grpo_over_dpo", "GRPO"), ("raft_over_dpo", "RAFT")):
        assert sizes[name] == [
            pytest.approx(value(ours, qwen, *three) - value("Iterative DPO", qwen, *three))
        ]
    dart = [
        value("DART (Prop2Diff)", model, "MATH", "DART") - value("DART (Uniform)", model, "MATH", "DART")
        for model in ("Mistral-7B", "Llama-3-8B", "DeepSeekMath-7B", "Llama-3-70B")
    ]
    assert sizes["dart_difficulty"] == [pytest.approx(min(dart)), pytest.approx(max(dart))]
    rft = [
        value("RFT k=100", model, "GSM8K", "RFT", "maj1@1") - value("SFT", model, "GSM8K", "RFT", "maj1@1")
        for model in ("LLaMA-7B", "LLaMA2-7B", "LLaMA-13B", "LLaMA2-13B", "LLaMA-33B")
    ]
    assert sizes["rft_paths"] == [pytest.approx(min(rft)), pytest.approx(max(rft))]
    outcome = [
        value("B-STaR", model, data, "B-STaR", "pass@1")
        - value("Online RFT w/o RM", model, data, "B-STaR", "pass@1")
        for model, data in (("Mistral-7B-Instruct", "ARC-C"), ("Llama-3-8B", "APPS"))
    ]
    assert sizes["b_star_outcome"] == [pytest.approx(gain) for gain in outcome]
    hints = [
        value("STaR", "GPT-J-6B", data, "STaR")
        - value("STaR without rationalization", "GPT-J-6B", data, "STaR")
        for data in ("GSM8K", "CQA dev")
    ]
    assert sizes["star_hints"] == [pytest.approx(gain) for gain in hints]
    llama2 = "Llama-2-70B-Chat", "GSM8K", "Iterative RPO"
    once = value("Iterative RPO, iteration 1", *llama2) - value("STaR (1 iteration)", *llama2)
    assert sizes["pairs_over_star"] == [pytest.approx(once)]
    assert sizes["adastar_flops"] == [pytest.approx(float(np.mean(savings)), abs=0.0006)]


def test_a_figure_is_what_it_is() -> None:
    """A sample, against the papers' tables."""
    assert value("AdaSTaR", "Qwen2.5-3B", "GSM8K", "AdaSTaR", "accuracy") == 77.0
    assert value("B-STaR", "Mistral-7B", "MATH", "B-STaR", "pass@32-4") == 42.2
    assert value("RFT k=100", "LLaMA2-13B", "GSM8K", "RFT", "maj1@1") == 54.8
    assert value("STaR", "GPT-J-6B", "CQA dev", "STaR") == 72.5
    assert Figure.model_fields.keys() == set(PUBLISHED.read_text().splitlines()[0].split(","))


def test_the_tables_of_a_study_have_them_after_its_leaderboard(papers: Path) -> None:
    names = [table.name for table in all_tables([Analysis(results.load(papers), "gsm8k")])]
    assert names[1:3] == ["claims", "published"]


def test_report_shows_what_the_papers_say(papers: Path) -> None:
    build(papers, papers.parent / "out")
    page = (papers.parent / "out" / "report.html").read_text()
    shown = page.partition("<h2>What the papers say</h2>")[2].partition("<h2>Problems</h2>")[0]
    assert '<table id="claims">' in shown and '<table id="published">' in shown
    tables = {path.stem for path in (papers.parent / "out" / "tables").glob("*.tex")}
    assert {"claims", "published"} <= tables
    claims = (papers.parent / "out" / "tables" / "claims.csv").read_text().splitlines()
    tested = [(line["benchmark"], line["claim"]) for line in csv.DictReader(claims)]
    names = ("adastar_flops", "adastar_flops_lazy", "adastar_diversity", "grpo_over_raft")
    assert tested == [(benchmark, name) for benchmark in ("gsm8k", "math500") for name in names]
