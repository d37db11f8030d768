"""Shapes of answers in great number: dress that must not matter, and words and signs that must."""

import json
import os
import re
from itertools import product
from pathlib import Path

import pytest

from repro.records import Verdict
from repro.verify import Verifier, extract, normalise
from repro.verify.answers import compare

CORRECT = Verdict.CORRECT
NOUNS = """
    cookies dollars eggs cents apples pencils books marbles miles hours minutes seconds days weeks
    months years pounds ounces gallons liters cups bags boxes cans bottles pieces slices pages stickers
    cards toys balls points games students children people men women boys girls teachers friends players
    cars buses trucks bikes trips laps steps feet inches yards meters kilometers acres squares cubes
    triangles sides edges vertices degrees units ways values integers digits numbers multiples solutions
    roots combinations times rounds tickets seats tables chairs rooms houses floors doors windows trees
    flowers roses plants seeds bushes rows birds chickens ducks cows pigs sheep horses dogs cats fish
    shrimp ants bees frogs rabbits monkeys bananas oranges pears peaches grapes cherries berries
    potatoes tomatoes carrots onions pizzas pies cakes cupcakes donuts muffins sandwiches burgers
    hotdogs chips candies chocolates lollipops jellybeans coins pennies nickels dimes quarters bills
    cents euros yen rupees pesos shirts pants shoes socks hats dresses skirts coats ties scarves
    necklaces beads rings crayons markers erasers notebooks folders letters words songs movies photos
    calories grams kilograms milligrams tons cm km kg lbs oz ft mph hrs mins
"""
UNITS = NOUNS.split()
PHRASES = [
    "square feet", "cubic inches", "sq units", "miles per hour", "hours a day", "cents each",
    "boxes of chocolates",
    "right triangles", "distinct integers", "dollars in total", "pieces of candy", "more cookies",
    "years old",
    "dollars/hour", "cm^2", "cm^3", "red balls", "hours per week",
]  # fmt: skip
SHAPES = [
    "12 {}",
    "12 {}.",
    "**12 {}**",
    r"12\text{{ {}}}",
    r"12~\text{{{}}}",
    r"12\ \mbox{{{}}}",
    r"$12$ {}",
    r"\(12\) {}",
    "12.0  {}",
    "\\$12 {}",
]
STATED = ["#### {}", r"\boxed{{{}}}", "The answer is {}."]


def stated_correct(text: str, gold: str) -> bool:
    return compare(normalise(extract(text) or ""), normalise(gold)) is CORRECT


def test_units_do_not_matter():
    cases = [
        wording.format(shape.format(unit))
        for unit, shape, wording in product(UNITS + PHRASES, SHAPES, STATED)
        if not (shape[-1] == "." and wording[-1] == ".") and "(" not in shape + wording
    ]
    assert len(cases) > 4000
    assert not [text for text in cases if not stated_correct(text, "12")]
    assert not [text for text in cases[::7] if stated_correct(text, "13")]


@pytest.mark.skipif("REPRO_DATA_DIR" not in os.environ, reason="REPRO_DATA_DIR is not set: no real questions")
def test_what_gsm8k_asks_for_is_a_unit():
    """The nouns behind "how many" and behind the results of solutions,
    and the share of them that are read."""
    nouns: dict[str, int] = {}
    for line in (Path(os.environ["REPRO_DATA_DIR"]) / "gsm8k/train.jsonl").read_text("utf-8").split("\n"):
        if line:
            row = json.loads(line)
            solution = re.sub(r"<<[^<>]*>>", "", row["answer"])
            found = re.findall(r"= ?\$?[0-9.,]+ ([a-z]+(?: [a-z]+)?)(?=[.\n,])", solution)
            for noun in re.findall(r"How many ([a-z]{4,}s)\b", row["question"]) + found:
                nouns[noun] = nouns.get(noun, 0) + 1
    read = {noun for noun in nouns if stated_correct(f"#### 12 {noun}", "12")}
    assert len(nouns) > 1500
    assert sum(nouns[noun] for noun in read) > 0.97 * sum(nouns.values())


SPACES = ["", " ", "  ", "\n", "\t", "~", r"\ ", r"\,", r"\;", r"\:", r"\!", r"\quad ", "\u00a0", " ~ "]
SPACED = [  # an answer, where « and » are white space, and the gold
    ("«5»", "5"), ("-«5»", "-5"), ("«5»\\%", "5%"), (r"«\frac»{1}{2}", "0.5"), (r"\frac{«1»}{2}", "1/2"),
    (r"3«\frac{1}»{2}", "3.5"), (r"«x«=»5", "5"), (r"5«\text{»cm}", "5"), (r"«\$»5", "5"), (r"1«/»2",
    r"\frac{1}{2}"),
    (r"«3»\times 10^2", "300"), (r"$«5»$", "5"),
]  # fmt: skip


def test_white_space_does_not_matter():
    cases = {
        (rf"\boxed{{{shape.replace('«', one).replace('»', other)}}}", gold)
        for (shape, gold), one, other in product(SPACED, SPACES, SPACES)
    }
    missed = [case for case in cases if not stated_correct(*case)]
    assert len(cases) > 2000
    assert not missed


# ------------------------------------------------------------------------------------------- not correct

HOSTILE = [
    (r"5", [
        r"5\text{ or 6}", r"5\text{ million}", r"5\text{ times 2}", r"5\text{ hours and 30 minutes}",
        "5 or 6", "5 million", "5 dozen", "5 thousand", "5 hundred", "5 hours and 30 minutes", "5 or more",
        "5 times 2", "5 is wrong", "5 squared", "5 halves", "5 plus 2", "half", "5 and a half",
        "5 per cent of 10", "5 percentage points less", "5 k", "5k", "5K", "5M", "5 M", "5m", "5B", "5bn",
        "5 bn", "5 billion dollars", "5 million dollars", "5 hundred cookies", "5 dozen eggs",
        "5 dozens of eggs", "5 score years", "5 gross", "5 tens", "5 lakh", "5 crore rupees", "5-6",
        "5 - 6", "5 to 6", "5 through 7", "5 to six", "5 or six", "5 and six", "5 minus two", "5 over two",
        "5/2", "5 divided by two", "5 times two", "5 times as many", "5 times x", "5 x", "5x", "5xy",
        "5 xy", "5ab", "5 i", "5i", "5e", r"5\pi", "5 pi", "5 sin", "5 root two", "5 sqrt 2", "5 cubed",
        "5 factorial", "5!", "5^2", "5²", "5₂", "5_2", "5 base two", "5 base 7", "5 in base 7",
        "5 (base 7)", "5 thirds", "5 fifths", "5 twelfths", "5 hundredths", "5 quarter", "5 tenfold",
        "5 point five", "5 negative", "5 below zero", "5 at least", "5 at most", "5 less", "5 more",
        "5 more than six", "5 not", "5, not", "5 no 6", "5, no, 6", "5; 6", "5 6", "5,6", "5 maybe",
        "5 perhaps", "5 if x is positive", "5 unless", "5 except", "5 versus 6", "5 hours 30 minutes",
        "5 feet 3 inches", "5 feet, 3 inches", "5 feet three inches", "5 dollars and 30 cents",
        "5 hours, 30 minutes", "5:30", "5 is not right", "5 was wrong", "5 equals six", "5 doubled",
        "5 twice", "5 infinity", "5 degrees or six", r"5\text{ dozen}", r"5\text{ thousand}",
        r"5\text{ hundred}", r"5\text{k}", r"5\text{K}", r"5\text{M}", r"5\text{x}", r"5\text{i}",
        r"5\text{ to }6", r"5\text{ plus }2", r"5\text{ or }6", r"5\text{ and }5", r"5\text{ or }5",
        r"5\mathrm{i}", r"5\mathrm{e}", r"5\mathrm{ million}", r"5\text{ squared}", r"5\text{ halves}",
        r"5\text{ and a half}", r"5\text{ is incorrect}", r"5\textbf{ or 6}", r"5\mbox{ or more}", "5 th",
        "5+0", r"\sqrt{9+16}", r"5\text{ or}", "5 o'clock or six", "5 and", "5 twenty", "5 twenty-one",
        "5 half-dozen", "5E3", "5e3", r"5 \times 10^3", r"5 \cdot 10", "5,000", "+-5", "5'6", "5 a",
        "5 of six", "5 in six", "5 per dozen", "5 per two", "five", r"\text{five}", r"\text{not 5}",
        r"\neg 5", r"\neq 5", r"\ne 5", r"x \ne 5", r"\not= 5", r"x \not = 5",
        r"x \not{=} 5", "not = 5", "x =\u0338 5", "x>5", r"x \ge 5", ">5", "<5", r"\ge 5", "≥5",
        r"\sim 5", r"5\ldots", r"5\dots", r"5\overline{3}", r"\overline{5}", r"5\text{ fives}", "5 fives",
        "5 tens and five", "5 mm or 6", r"5\bmod 7", r"5 \pmod 7", "5 mod 7", r"\sqrt{25}+0",
        r"5\%\text{ of }100", "5 choose 2", "5 pick one", r"\infty", r"5\text{ to the power }2",
        "5 point 2",
    ]),
    (r"3", [r"3\text{ is wrong}", "4=3", "1+1=3", "2=1+1=3"]),
    (r"2", ["5 mod 3"]),
    (r"7", [
        "(3)+4", "14*3/6", "x = 3+4", "3\u00d74-5", "{3}+4", "3 + 4 dollars", "3{4}", "3+4=", "x=y=3+4",
        "3+4 = x", "2^3-1", r"\sqrt{9}+4", "|-3|+4", r"\frac{3+4}{1}", r"\frac{3}{1}+\frac{4}{1}",
        r"7\times 1", "7-0", "-(-7)+0", "[3]+4", r"\{3\}+4", r"3\,+\,4", r"3 \text{ apples} + 4",
        r"3+4\text{ apples}", "$3+4$",
    ]),
    (r"3.5", [r"\frac{1}{2}+3"]),
    (r"\frac{7}{2}", [r"\frac{1}{2}+3"]),
    (r"12", [
        "(3)(4)", "3(4)", "3{4}", "3·4", r"3\cdot4", r"1\;2", r"1\,2", r"1\ 2", "1~2", "1 2",
    ]),
    (r"6", ["12÷2", "12/2/1"]),
    (r"15", ["10%+5", "1{,}5"]),
    (r"385_9", ["385_8", r"385_{\text{eight}}"]),
    (r"204_5", ["204"]),
    (r"204", ["204_5", "204_{5}", "204₅"]),
    (r"\frac{1}{2004!}", [r"\frac{1}{2006!}"]),
    (r"\frac{1}{46656}", ["0.000021"]),
    (r"\frac{1}{3}", ["0.33", "0.333"]),
    (r"\frac{2}{3}", ["0.6666"]),
    (r"\pi", ["3.14", "3.1416", "22/7"]),
    (r"\sqrt{2}", [r"\sqrt{2+10^{-60}}", "1.41", r"\sqrt{2.0000000000001}"]),
    (r"\frac{1}{8}", ["0.12", "0.13"]),
    (r"\frac{1}{64}", ["0.0156"]),
    (r"0", ["10^{-7}", "10^{-20}", r"\frac{1}{10^{20}}", r"0.\overline{3}"]),
    (r"1", ["1+10^{-20}"]),
    (r"x", ["x+10^{-20}", "1.0000000001x", "X"]),
    (r"(1,2)", ["(1,2.0000000001)", "-(1,2)"]),
    (r"[1,2]", ["[1,2.0000001]", "-[1,2]"]),
    (r"1.5", ["1{,}5"]),
    (r"(-1,2)", ["-(1,2)"]),
    (r"\{1,2\}", [r"-\{1,2\}"]),
    (r"x=2, y=1", ["(1,2)", "1,2", "x=1, y=2"]),
    (r"10", ["10,10", "10;10", "10 and 10", "10 or 10", r"\{10,10\}"]),
    (r"e", ["E"]),
    (r"E", ["e"]),
    (r"a+b", ["A+b"]),
    (r"2x", ["2X"]),
    (r"x^2+y", ["x^2+Y"]),
    (r"f(x)", ["f'(x)"]),
    (r"9\text{ p.m.}", ["9 a.m."]),
    (r"-9", ["9"]),
    (r"9", ["-9", r"\pm 9", r"9\pm 0", "9%%"]),
    (r"0.9", [r"9\%"]),
    (r"0.005", ["5 milli"]),
    (r"5.5", ["5..."]),
    (r"0.3", [r"0.\overline{3}"]),
    (r"\infty", [r"-\infty"]),
    (r"(3,\infty)", ["(\u2212∞,3)"]),
]  # fmt: skip
JOINED = [
    "or", "and", "to", "through", "plus", "minus", "times", "over", "not", "but", "versus", "divided by",
    "multiplied by",
    "is not", "or maybe", "instead of", "and a half of", "million", "thousand and", "dozen or",
    "squared plus", "mod",
    "choose", "less than", "more than", "at most", "of the", "hours and", "feet", "out of", "point", "per",
    "if not",
]  # fmt: skip
JOINTS = [
    "5 {} 6",
    r"5\text{{ {} }}6",
    r"5\text{{ {} 6}}",
    r"5 \mbox{{{} six}}",
    "$5$ {} $6$",
    r"5~\text{{{}}}~6",
    "5 {} six",
    "6 {} 5",
    r"6\text{{ {} }}5",
]


@pytest.mark.promise("Right answers", "What changes an answer makes it wrong, whatever stands around it.")
def test_what_changes_an_answer_matters():
    """Words behind a number, further formulas, arithmetic, bases, cases of letters, and tiny differences."""
    cases = [(answer, gold) for gold, answers in HOSTILE for answer in answers]
    cases += [(joint.format(words), "5") for joint, words in product(JOINTS, JOINED)]
    assert len(cases) > 550
    texts, golds = [], []
    for answer, gold in cases:
        texts += [rf"\boxed{{{answer}}}", f"The answer is {answer}.", f"#### {answer}"]
        golds += [gold] * 3
    with Verifier() as verifier:
        verdicts = verifier.verify(texts, golds)
    passed = [(t, g) for t, g, verdict in zip(texts, golds, verdicts, strict=True) if verdict is CORRECT]
    assert not passed


def test_further_formulas_matter():
    shapes = ["$5${}$6$", r"\(5\){}\(6\)", "$$5$${}$$6$$", r"\[5\]{}\[6\]"]
    between = [
        " or ",
        ", no, ",
        " and ",
        "/",
        ", ",
        " to ",
        "; ",
        " vs ",
        " + ",
        ", not ",
        "^",
        "_",
        " (or ",
        "!",
    ]
    texts = [f"The answer is {s.format(b)}." for s, b in product(shapes, between)]
    with Verifier() as verifier:
        verdicts = verifier.verify(texts * 2, ["5"] * len(texts) + ["6"] * len(texts))
    assert CORRECT not in verdicts
