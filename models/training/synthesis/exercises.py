"""What a corpus asks of some numbers and words, asked of others: unlimited sums, spellings and sequences as text.

A corpus holds each of its sums a few times and is soon known by heart. These are new ones for the same templates, in
the wordings of `other_words.toml`, with the corpus' forms of answers: what is to be learnt is the rule.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from num2words import num2words

from .other_words import templates, wordings

Slots = dict[str, str]
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PEOPLE: Final = ("Anna", "Ben", "Emma", "Jack", "Maria", "Nina", "Peter", "Sam", "Tom", "Lucy", "Paul", "Kate")
_THINGS: Final = ("apples", "balls", "books", "cards", "cookies", "coins", "eggs", "marbles", "pencils", "stamps")
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_FRACTIONS: Final = {"a third": 3, "a quarter": 4, "a fifth": 5, "a tenth": 10}
_UNITS: Final = (
    ("feet", "inches", 12), ("yards", "feet", 3), ("meters", "centimeters", 100), ("kilometers", "meters", 1000),
    ("kilograms", "grams", 1000), ("days", "hours", 24), ("hours", "minutes", 60), ("minutes", "seconds", 60),
    ("weeks", "days", 7), ("years", "months", 12), ("decades", "years", 10), ("centuries", "years", 100),
    ("dollars", "cents", 100), ("dollars", "quarters", 4), ("dollars", "dimes", 10),
)  # fmt: skip


@dataclass(frozen=True)
class Exercise:
    """A question of a template and its answer."""

    template: str
    question: str
    answer: str


def _number(value: int) -> str:
    return str(num2words(value)).replace(",", "")


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(_number, values))


def _letters(word: str) -> str:
    return ", ".join(word.upper())


def _plus(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    a, b = rng.randint(1, 60), rng.randint(1, 40)
    x, y, made = map(_number, (a, b, a + b))
    return {"x": x, "y": y}, (
        f"{x} plus {y} is {made}.",
        f"{x} plus {y} equals {made}.",
        f"The sum of {x} and {y} is {made}.",
    )


def _minus(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    a = rng.randint(3, 100)
    b = rng.randint(1, min(a - 1, 40))
    x, y, made = map(_number, (a, b, a - b))
    return {"x": x, "y": y}, (
        f"{x} minus {y} is {made}.",
        f"{x} minus {y} equals {made}.",
        f"If you take {y} from {x}, you get {made}.",
    )


def _times(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    x, y, made = map(_number, (a, b, a * b))
    return {"x": x, "y": y}, (
        f"{x} times {y} is {made}.",
        f"{x} times {y} equals {made}.",
        f"If you multiply {x} by {y}, you get {made}.",
    )


def _divide(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    b, made = rng.randint(2, 12), rng.randint(1, 12)
    x, y, result = map(_number, (b * made, b, made))
    return {"x": x, "y": y}, (f"{x} divided by {y} is {result}.", f"{x} divided by {y} equals {result}.")


def _three(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    parts = [rng.randint(1, 9) for _ in range(3)]
    x, y, z = map(_number, parts)
    made = _number(sum(parts))
    return {"x": x, "y": y, "z": z}, (f"{x} plus {y} plus {z} is {made}.", f"Together they make {made}.")


def _double(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    value = rng.randint(1, 50)
    x, made = _number(value), _number(2 * value)
    return {"x": x}, (f"Double {x} is {made}.", f"Twice {x} is {made}.")


def _half(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    value = rng.randint(1, 50)
    x, made = _number(2 * value), _number(value)
    return {"x": x}, (f"Half of {x} is {made}.", f"One half of {x} is {made}.")


def _square(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    value = rng.randint(1, 12)
    x, made = _number(value), _number(value**2)
    return {"x": x}, (f"{x} squared is {made}.", f"The square of {x} is {made}.")


def _fraction(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    name, parts = rng.choice(list(_FRACTIONS.items()))
    value = rng.randint(1, 20)
    x, made = _number(value * parts), _number(value)
    return {"f": name, "x": x}, (f"{name} of {x} is {made}.",)


def _percent(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    share, whole = rng.choice([(10, 10), (20, 5), (25, 4), (50, 2)])
    value = rng.choice([10, 20, 30, 40, 50, 60, 80, 100, 200, 300])
    y = value if value % whole == 0 else value * 2
    x, of, made = _number(share), _number(y), _number(y * share // 100)
    return {"x": x, "y": of}, (f"{x} percent of {of} is {made}.",)


def _after(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    value = rng.randint(0, 120)
    x, made = _number(value), _number(value + 1)
    return {"x": x}, (f"The number after {x} is {made}.", f"After {x} comes {made}.")


def _before(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    value = rng.randint(1, 120)
    x, made = _number(value), _number(value - 1)
    return {"x": x}, (f"The number before {x} is {made}.", f"Before {x} comes {made}.")


def _bigger(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    x, y = pair = rng.sample(range(1, 121), 2)
    more, less = _number(max(pair)), _number(min(pair))
    return {"x": _number(x), "y": _number(y)}, (f"{more} is bigger than {less}.", f"{more} is more than {less}.")


def _evenodd(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    value = rng.randint(1, 120)
    x, kind = _number(value), "an odd" if value % 2 else "an even"
    return {"x": x}, (f"{x} is {kind} number.", f"The number {x} is {kind} number.")


def _count(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    first, length = rng.randint(1, 90), rng.randint(4, 9)
    said = range(first, first + length)
    return {"x": _number(said[0]), "y": _number(said[-1])}, (f"{_numbers(said)}.",)


def _countdown(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    last, length = rng.randint(1, 14), rng.randint(4, 8)
    said = range(last + length - 1, last - 1, -1)
    return {"x": _number(said[0]), "y": _number(said[-1])}, (f"{_numbers(said)}.",)


def _sequence(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    step = rng.choice([1, 2, 2, 3, 4, 5, 5, 10, 10])
    first = rng.randint(1, 50)
    made = _number(first + 4 * step)
    return {"x": _numbers(range(first, first + 4 * step, step))}, (
        f"The next number is {made}.",
        f"After that comes {made}.",
    )


def _story_plus(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    a, b, thing = rng.randint(2, 30), rng.randint(1, 20), rng.choice(_THINGS)
    slots = {"n": rng.choice(_PEOPLE), "a": f"{_number(a)} {thing}", "b": _number(b)}
    return slots, (f"That makes {_number(a + b)} {thing}.", f"Now there are {_number(a + b)} {thing}.")


def _story_minus(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    n, thing = rng.randint(4, 30), rng.choice(_THINGS)
    k = rng.randint(1, n - 2)
    slots = {"p": rng.choice(_PEOPLE), "n": _number(n), "t": thing, "k": _number(k)}
    return slots, (f"There are {_number(n - k)} {thing} left.",)


def _convert(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    unit, small, factor = rng.choice(_UNITS)
    count = rng.randint(2, 12)
    x, made = f"{_number(count)} {unit}", f"{_number(count * factor)} {small}"
    return {"x": x, "u": small}, (f"{x} are {made}.", f"There are {made} in {x}.")


def _dozen(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    count = rng.randint(2, 12)
    x = _number(count)
    return {"x": x}, (f"There are {_number(12 * count)} eggs in {x} dozen.",)


def _celsius(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    value = rng.randrange(0, 105, 5)
    x, made = _number(value), _number(value * 9 // 5 + 32)
    return {"x": x}, (f"{x} degrees Celsius is {made} degrees Fahrenheit.",)


def _letter_after(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    at = rng.randrange(25)
    x, made = _ALPHABET[at], _ALPHABET[at + 1]
    return {"x": x}, (f"The letter after {x} is {made}.", f"{made} comes after {x} in the alphabet.")


def _letter_before(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    at = rng.randrange(1, 26)
    x, made = _ALPHABET[at], _ALPHABET[at - 1]
    return {"x": x}, (f"The letter before {x} is {made}.", f"{made} comes before {x} in the alphabet.")


def _position(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    at = rng.randrange(26)
    return {"x": _ALPHABET[at]}, (f"{_ALPHABET[at]} is the {num2words(at + 1, to='ordinal')} letter of the alphabet.",)


def _day_in(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    at, days = rng.randrange(7), rng.randint(2, 6)
    n, day = f"{_number(days)} days", _DAYS[at]
    return {"x": day, "n": n}, (f"{n} after {day} it is {_DAYS[(at + days) % 7]}.",)


def _digits(rng: random.Random) -> tuple[Slots, Sequence[str]]:
    x = _numbers([rng.randrange(10) for _ in range(rng.randint(3, 6))])
    return {"x": x}, (f"You said {x}.", f"I heard {x}.")


_OF_NUMBERS: Final[dict[str, Callable[[random.Random], tuple[Slots, Sequence[str]]]]] = {
    "math.plus": _plus, "math.minus": _minus, "math.times": _times, "math.divide": _divide, "math.three": _three,
    "math.double": _double, "math.half": _half, "math.square": _square, "math.fraction": _fraction,
    "math.percent": _percent, "math.after": _after, "math.before": _before, "math.bigger": _bigger,
    "math.evenodd": _evenodd, "math.count": _count, "math.countdown": _countdown, "math.sequence": _sequence,
    "math.story_plus": _story_plus, "math.story_minus": _story_minus, "unit.convert": _convert, "unit.dozen": _dozen,
    "unit.temp": _celsius, "abc.after": _letter_after, "abc.before": _letter_before, "abc.position": _position,
    "cal.day_in": _day_in, "repeat.digits": _digits,
}  # fmt: skip

_OF_WORDS: Final[dict[str, Callable[[str], Sequence[str]]]] = {
    "spell.word": lambda w: (f"{w} is spelled {_letters(w)}.", f"You spell {w} like this: {_letters(w)}."),
    "spell.backwards": lambda w: (f"{w} backwards is {_letters(w[::-1])}.",),
    "spell.first": lambda w: (
        f"The first letter of {w} is {w[0].upper()}.",
        f"{w} starts with the letter {w[0].upper()}.",
    ),
    "spell.last": lambda w: (
        f"The last letter of {w} is {w[-1].upper()}.",
        f"{w} ends with the letter {w[-1].upper()}.",
    ),
    "spell.count": lambda w: (f"The word {w} has {_number(len(w))} letters.",),
}


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]


@cache
def _words() -> tuple[list[str], list[str]]:
    """Words to spell, and sentences to say after: those of which the wordings are made."""
    ways = sorted({way for template in templates() for way in wordings(template)})
    plain = [way for way in ways if "{" not in way]
    words = {word.strip(".,?!").lower() for way in ways for word in way.split()}
    return sorted(w for w in words if w.isalpha() and 3 <= len(w) <= 9), plain


def exercises(each: int, seed: int = 0) -> Iterator[Exercise]:
    """`each` exercises of every template that has a rule, in a fixed order."""
    rng = random.Random(f"exercises {seed}")
    words, sentences = _words()

    def ask(template: str, slots: Slots, answers: Sequence[str]) -> Exercise:
        question = rng.choice(wordings(template)).format(**slots)
        return Exercise(template, _start(question), _start(rng.choice(answers)))

    for _ in range(each):
        for template, numbers in _OF_NUMBERS.items():
            yield ask(template, *numbers(rng))
        for template, answers in _OF_WORDS.items():
            word = rng.choice(words)
            yield ask(template, {"x": word}, answers(word))
        first, then = sorted(x_y := rng.sample(words, 2))
        x, y = x_y
        yield ask(
            "abc.order", {"x": x, "y": y}, (f"{first} comes before {then}.", f"First comes {first}, then {then}.")
        )
        said = rng.choice(sentences)
        yield ask("repeat", {"x": said}, (said,))
