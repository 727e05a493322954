"""Whether an answer holds what was asked for, whatever words it is wrapped in.

The expected answer's content words are those that carry meaning and were not in the question. An answer is right when
it holds three quarters of them and every number. Where nothing is left (which of two things said, say after me), three
quarters of the answer's words have to come in their order, or those that carry meaning and no others. Spelled letters
are one word, however they were written. Form words (`take` in "if you take fourteen from fifty-four, you get forty")
may be lacking beside words that say more; where they are all that is expected (`sun`), they are wanted like any other.
Which of two words comes before the other is compared as such, in either form that the corpus has for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path


def _words(name: str) -> frozenset[str]:
    return frozenset((Path(__file__).parent / "texts" / f"{name}.txt").read_text(encoding="utf-8").split())


_FRAME_WORDS, _FORM_WORDS = _words("frame_words"), _words("form_words")
_ONE_HALF = re.compile(r"\b1 half\b|\b1/2\b")  # half and one half are the same answer
_HUNDREDS = re.compile(r"\b([1-9])00 and ([1-9]\d?)\b")  # how Whisper may write "one hundred and twenty"
_ORDERS = tuple(map(re.compile, (r"\b(?:1st|first) comes (\w+) then (\w+)", r"\b(\w+) comes before (\w+)")))
_ADMISSIONS = re.compile(
    r"\b(do not|cannot|can not|could not|have no|am not able|not able|unable|no idea|not sure|nobody (can|could)|"
    r"no (map|clock|way)|not (know|see|look|follow|remember)|do not have|only answer)\b"
)

Normalise = Callable[[str], str]


def _tokens(text: str, normalise: Normalise) -> list[str]:
    """Normalised words; runs of single letters joined with a mark, so that F, L, O, W spells `~flow`."""
    made: list[str] = []
    run = ""
    plain = _HUNDREDS.sub(lambda hit: f"{int(hit[1]) * 100 + int(hit[2])}", _ONE_HALF.sub("half", normalise(text)))
    for word in [*plain.split(), ""]:
        # The normaliser reads a lone letter O as the digit.
        letter = "o" if word == "0" and run else word
        if len(letter) == 1 and letter.isalpha() and (run or letter not in "ai"):
            run += letter
            continue
        if run:
            made.append(f"~{run}" if len(run) > 1 else run)
            run = ""
        if word:
            made.append(word)
    return made


def content_words(question: str, answer: str, normalise: Normalise) -> list[str]:
    """What the answer must hold: its words that are neither frame words nor said in the question, nor form words if any
    others are left; maybe none."""
    asked = set(_tokens(question, normalise))
    words = dict.fromkeys(_tokens(answer, normalise))
    new = [w for w in words if w not in _FRAME_WORDS and (w.startswith("~") or w not in asked)]
    return [w for w in new if w not in _FORM_WORDS] or new


def _holds(wanted: Sequence[str], tokens: Sequence[str]) -> bool:
    there = set(tokens)
    counted = Counter(tokens)
    found = 0
    for word in wanted:
        if word.startswith("~"):
            plain = word[1:]
            # Whisper may write F-L-O-W as FLOW: then the word stands there once more than its mention.
            hit = word in there or counted[plain] >= 2 or (counted[plain] == 1 and len(tokens) <= 2)
        else:
            hit = word in there or _near(word, there)
        if not hit and any(c.isdigit() for c in word):
            return False
        found += hit
    return found >= 0.75 * len(wanted)


def _says_again(wanted: Sequence[str], tokens: Sequence[str]) -> bool:
    """Whether three quarters of the wanted words are a common subsequence, or all that carries meaning is the same."""
    meant, said = ([word for word in words if word not in _FRAME_WORDS | _FORM_WORDS] for words in (wanted, tokens))
    if meant and meant == said:
        return True
    longest = [0] * (len(tokens) + 1)
    for word in wanted:
        last = 0
        for i, token in enumerate(tokens, 1):
            last, longest[i] = longest[i], (last + 1 if word == token else max(longest[i], longest[i - 1]))
    return bool(wanted) and longest[-1] >= 0.75 * len(wanted)


def _near(word: str, there: set[str]) -> bool:
    """The plural or singular of a word counts."""
    return not word.isdigit() and (f"{word}s" in there or (word.endswith("s") and word[:-1] in there))


def _order(text: str, normalise: Normalise) -> tuple[str, ...] | None:
    """Which two words a text puts in order, the first of them first."""
    found = next((hit for form in _ORDERS if (hit := form.search(normalise(text)))), None)
    return None if found is None else found.groups()


def right(question: str, accepted: Sequence[str], heard: str, normalise: Normalise) -> bool:
    """Whether what was heard holds the content of any accepted answer."""
    tokens, order = _tokens(heard, normalise), _order(heard, normalise)
    for answer in accepted:
        expected = _order(answer, normalise)
        if order is not None and expected is not None and set(order) == set(expected):
            held = order == expected
        else:
            wanted = content_words(question, answer, normalise)
            held = _holds(wanted, tokens) if wanted else _says_again(_tokens(answer, normalise), tokens)
        if held:
            return True
    return False


def admits(heard: str, normalise: Normalise) -> bool:
    """Whether an answer says that it cannot know or do what was asked."""
    return bool(_ADMISSIONS.search(normalise(heard)))
