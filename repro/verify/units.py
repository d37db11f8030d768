"""Which words behind a number are its unit: ``12 cookies`` is 12, but ``12 dozen`` and ``12 or 13`` are not.

Any noun can be a unit, so that words are taken for one unless they are known to change the number.
"""

from __future__ import annotations

import re

MAX_WORDS = 6
_CHANGE = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety once
    twice thrice ones twos threes fours fives sixes sevens eights nines tens elevens twelves
    twenties thirties fifties hundred thousand hundreds thousands mil mln mio bln bn grand lakh
    lakhs crore crores myriad dozen dozens score gross googol half halves halved third thirds fourth
    fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths
    eleventh elevenths quarter fraction reciprocal inverse plus minus time multiplied divided added
    subtracted over by mod modulo modulus remainder rem power exponent squared cubed doubled tripled
    quadrupled double triple quadruple treble factorial root sum product quotient difference log ln
    lg sin cos tan cot csc exp sqrt cbrt pi infinity inf infinite nan choose increased decreased
    reduced raised rounded truncated repeating recurring negated negative imaginary to through thru
    until till or and nor but not no never none nothing neither either xor if unless except
    excluding without versus vs instead rather maybe perhaps possibly probably otherwise else as is
    are was were be been being am pm has have had does do did will would should can't could may
    might must equals equal equalled exceeds becomes false error mistake invalid impossible
    undefined unknown wait hmm actually sorry greater smaller larger bigger higher lower least most
    than at above below under beyond between within up down about around approximately approx
    roughly nearly almost percent percents percentage pct permille basis base binary ternary octal
    decimal hex hexadecimal radix debt deficit owed owing due overdrawn so then therefore because
    since thus hence that which where when
"""
_NEED_A_NOUN = "more less fewer wrong incorrect"  # 12 more cookies, but not 12 or more
_SHORT = """
    cm km kg mg ml cl dl kl mm ft lb lbs oz hr hrs min mins sec secs yr yrs wk wks mph kph kmh gm
    gms gal qt pt yd yds mi sq cu usd us eur gbp hz kw kwh bit gb mb tb in mpg rpm psi kcal cal cc
    ha mol amp day men man egg cat dog cow pig hen bee ant bat rat fox ape owl cup bag box bus car
    van pen pie can jar hat cap toy tub pan pot mug bin key map tie bed rug bow gem gum ice oil tea
    ham nut bun yen kid boy son fan guy ear eye leg arm toe row set lot way bar cut job fee tip age
    ton pet lab sub sun dad mom kgs ads old new red hot big off now ago of per a an the all for on
    out
"""  # units of less than four letters; other such words may be products of variables
_LETTERS = "m g s h L l V W J N C F"
_CHANGES, _NOT_LAST, _UNITS, _SYMBOLS = (
    frozenset(words.split()) for words in (_CHANGE, _NEED_A_NOUN, _SHORT, _LETTERS)
)
_CHANGING = re.compile(".*(?:fold|illions?|(?:teen|tie|lf|dred|sand|lion)ths?)")  # tenfold, fiftieths
_INITIALS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]?")
_WORD = re.compile(r"([A-Za-z]+)\.?(?:\^(?:[23]|\{[23]\}))?")
_VOWEL = re.compile(r"[aeiouy]", re.I)


def is_unit(words: str, marked: bool) -> bool:
    r"""Whether ``words``, found behind a number, are its unit and no more.

    ``marked`` tells that they stood in ``\text{}`` or the like. Elsewhere few letters may be variables.
    """
    parts = re.split(r"[\s/'\u2019-]+", words.strip(" .,;"))
    if len(parts) > MAX_WORDS:
        return False
    for place, part in enumerate(parts, 1):
        if _INITIALS.fullmatch(part):
            part = part.replace(".", "")
        match = _WORD.fullmatch(part)
        word, last = match[1].lower() if match else "", place == len(parts)
        if not match or word in _CHANGES or _CHANGING.fullmatch(word):
            return False
        if word in _NOT_LAST if last else word == "times":  # 5 times is a count, unlike 5 times as many
            return False
        if len(word) == 1:
            known = (word == "a" and not last) or (marked and match[1] in _SYMBOLS)
        else:
            known = marked or word in _UNITS or (len(word) > 3 and bool(_VOWEL.search(word)))
        if not known:
            return False
    return True
