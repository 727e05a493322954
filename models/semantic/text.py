"""Text as it is spoken: numbers, money, times, abbreviations and signs in words; what can't be spoken is dropped."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from ..errors import TextError
from .vocabulary import to_ascii

MAX_CHARACTERS: Final = 2000
_SENTENCE: Final = 160  # characters of one sentence that is spoken at a stretch: about ten seconds
_LONGEST_NUMBER: Final = 15  # digits; longer ones are read digit by digit

_CURRENCIES: Final = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "\u20ac": ("euro", "euros", "cent", "cents"),
    "\u00a3": ("pound", "pounds", "penny", "pence"),
    "\u00a5": ("yen", "yen", "sen", "sen"),
}
_UNITS: Final = {
    "km/h": "kilometers per hour",
    "mph": "miles per hour",
    "km": "kilometers",
    "cm": "centimeters",
    "mm": "millimeters",
    "kg": "kilograms",
    "mg": "milligrams",
    "lb": "pounds",
    "lbs": "pounds",
    "oz": "ounces",
    "ft": "feet",
    "GB": "gigabytes",
    "MB": "megabytes",
    "GHz": "gigahertz",
    "Hz": "hertz",
    "ms": "milliseconds",
    "\u00b0C": "degrees Celsius",
    "\u00b0F": "degrees Fahrenheit",
    "\u00b0": "degrees",
}
_ABBREVIATIONS: Final = {
    "Mr.": "Mister",
    "Mrs.": "Missus",
    "Ms.": "Miss",
    "Dr.": "Doctor",
    "Prof.": "Professor",
    "St.": "Saint",
    "Jr.": "Junior",
    "Sr.": "Senior",
    "vs.": "versus",
    "etc.": "et cetera",
    "e.g.": "for example",
    "i.e.": "that is",
    "approx.": "approximately",
}
_SIGNS: Final = {
    "\u00d7": " times ",
    "\u00f7": " divided by ",
    "\u2026": ". ",
    "\u00b2": " squared ",
    "\u00b3": " cubed ",
    "\u00bd": " 1/2 ",
    "\u00bc": " 1/4 ",
    "\u00be": " 3/4 ",
}
_ASCII_SIGNS: Final = {
    "&": " and ",
    "+": " plus ",
    "=": " equals ",
    "@": " at ",
    "%": " percent ",
}
_FRACTIONS: Final = {
    "1/2": "one half",
    "1/3": "one third",
    "2/3": "two thirds",
    "1/4": "one quarter",
    "3/4": "three quarters",
}

_NUMBER: Final = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_MAGNITUDE: Final = r"(?:\s+(?P<magnitude>hundred|thousand|million|billion|trillion))?"
_SCHEME: Final = re.compile(r"\bhttps?://(?:www\.)?|\bwww\.", re.IGNORECASE)
_DOTTED: Final = re.compile(r"(?<=[A-Za-z])\.(?=[a-z]{2,})")
_LINK: Final = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")
_FRACTION: Final = re.compile("|".join(r"(?<![\d/.])" + re.escape(f) + r"(?![\d/])" for f in _FRACTIONS))
_MONEY: Final = re.compile(
    rf"(?P<minus>-?)(?P<currency>[{re.escape(''.join(_CURRENCIES))}])\s?(?P<number>{_NUMBER}){_MAGNITUDE}(?!\w)"
)
_TIME: Final = re.compile(
    r"(?<![\d:])(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?![\d:])(?:\s?(?P<half>[ap]m\b|[ap]\.m\.))?", re.IGNORECASE
)
_ORDINAL: Final = re.compile(r"(?<![\w.])(\d{1,6})(?:st|nd|rd|th)\b", re.IGNORECASE)
_DECADE: Final = re.compile(r"(?<![\w.])(1[1-9]\d0|20\d0)s\b")
_YEAR: Final = re.compile(r"(?<![\w.,$-])(1[1-9]\d\d|20\d\d)(?![\w%]|[.,]\d)")
_MEASURE: Final = re.compile(
    rf"(?<=\d)\s?(?P<unit>{'|'.join(re.escape(u) for u in sorted(_UNITS, key=len, reverse=True))})(?![\w/])"
)
_PLAIN: Final = re.compile(rf"(?P<minus>(?<![\w)])-)?(?P<number>{_NUMBER})")
_RANGE: Final = re.compile(r"(?<=\d)\s?[-\u2013]\s?(?=\d)")
_UNSPOKEN: Final = re.compile(r"[^A-Za-z0-9'.,!?;:\s-]")


def normalise(text: str) -> str:
    """The words of `text` as they are spoken, in ASCII, with the punctuation . , ! ? ; : that gives them pauses.

    Raises TextError for more than MAX_CHARACTERS characters, or when no letter or digit is left to speak.
    """
    if len(text) > MAX_CHARACTERS:
        raise TextError(f"the text has {len(text)} characters: give at most {MAX_CHARACTERS} at a time")
    for sign, spoken in _SIGNS.items():
        text = text.replace(sign, spoken)
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/")
    text = _LINK.sub(r"\1", text)
    text = _SCHEME.sub("", text)
    text = re.sub(r"\s*\u2014\s*|\s+[\u2013-]+\s+", ", ", text)
    for written, spoken in _ABBREVIATIONS.items():
        text = re.sub(rf"(?<!\w){re.escape(written)}", spoken, text)
    text = re.sub(r"\b(?:No\.\s?|#)(?=\d)", "number ", text)
    text = _DOTTED.sub(" dot ", text)
    text = _FRACTION.sub(lambda m: f" {_FRACTIONS[m[0]]} ", text)
    text = _MONEY.sub(_money, text)
    text = _TIME.sub(_time, text)
    text = _ORDINAL.sub(lambda m: _words(m[1], "ordinal"), text)
    text = _DECADE.sub(lambda m: _plural(_words(m[1], "year")), text)
    text = _MEASURE.sub(lambda m: f" {_UNITS[m['unit']]}", text)
    text = _RANGE.sub(" to ", text)
    text = _YEAR.sub(lambda m: _words(m[1], "year"), text)
    text = _PLAIN.sub(_number, text)
    for sign, spoken in _ASCII_SIGNS.items():
        text = text.replace(sign, spoken)
    text = re.sub(r"(?<=\w)/(?=\w)", " ", text)
    text = _UNSPOKEN.sub(" ", to_ascii(text))
    text = re.sub(r"\s+(?=[.,!?;:])", "", text)
    text = re.sub(r"([.,!?;:])[.,!?;:]+", r"\1", text)
    text = re.sub(r"(?<=[A-Za-z]{2}[.,!?;:])(?=[A-Za-z]{2})", " ", text)
    words = [word for word in text.split() if any(c.isalnum() for c in word)]
    if not words:
        raise TextError("the text has nothing that can be spoken: give at least one letter or digit")
    return " ".join(word.lstrip("-.,!?;:") for word in words)


def sentences(text: str) -> list[str]:
    """Normalised text in pieces that are spoken at a stretch: sentences; long ones are cut at a comma or a space."""
    pieces: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", text.strip()):
        rest = sentence
        while len(rest) > _SENTENCE:
            room = rest[:_SENTENCE]
            at = max(room.rfind(", "), room.rfind("; "), room.rfind(": ")) + 1
            if at < _SENTENCE // 3:
                at = room.rfind(" ")
            if at <= 0:
                at = _SENTENCE
            pieces.append(rest[:at].strip())
            rest = rest[at:].strip()
        if rest:
            pieces.append(rest)
    return pieces


def _money(match: re.Match[str]) -> str:
    one, many, cent, cents = _CURRENCIES[match["currency"]]
    minus = "minus " if match["minus"] else ""
    whole, _, fraction = match["number"].replace(",", "").partition(".")
    if match["magnitude"]:
        return f"{minus}{_decimal(whole, fraction)} {match['magnitude']} {many}"
    spoken = f"{minus}{_words(whole)} {one if int(whole) == 1 else many}"
    if fraction and len(fraction) <= 2 and int(fraction):
        small = int(fraction.ljust(2, "0"))
        spoken += f" and {_words(str(small))} {cent if small == 1 else cents}"
    return spoken


def _time(match: re.Match[str]) -> str:
    hour, minute = int(match["hour"]), int(match["minute"])
    half = f" {match['half'][0].upper()} M" if match["half"] else ""
    if minute == 0:
        return _words(str(hour)) + (half or " o'clock")
    return f"{_words(str(hour))} {'oh ' if minute < 10 else ''}{_words(str(minute))}{half}"


def _number(match: re.Match[str]) -> str:
    before = " " if match.start() and match.string[match.start() - 1] not in " -'\"([" else ""
    after = " " if match.end() < len(match.string) and match.string[match.end()].isalpha() else ""
    whole, _, fraction = match["number"].replace(",", "").partition(".")
    minus = "minus " if match["minus"] else ""
    return f"{before}{minus}{_decimal(whole, fraction)}{after}"


def _decimal(whole: str, fraction: str) -> str:
    if not fraction:
        return _words(whole)
    return f"{_words(whole)} point {' '.join(_words(digit) for digit in fraction)}"


def _words(digits: str, to: str = "cardinal") -> str:
    """A number in words; one that is too long or starts with a zero is read digit by digit."""
    from num2words import num2words  # here, because training runs where it is not installed

    if to == "cardinal" and (len(digits) > _LONGEST_NUMBER or (len(digits) > 1 and digits[0] == "0")):
        return " ".join(num2words(int(digit)) for digit in digits)
    spoken: str = num2words(int(digits), to=to)
    return spoken.replace(",", "")


def _plural(word: str) -> str:
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
