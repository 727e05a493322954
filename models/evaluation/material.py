"""What is judged: held-out speakers reading held-out texts.

A corpus that holds speakers out gives their recordings. One that does not (every speaker of ours reads in both splits)
gives its held-out texts, which released Kokoro voices that its `speakers.tsv` does not name then read, once, into the
cache; or, asked for `seen` speakers, its held-out recordings. Item k is the same however many are asked for.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import soundfile
from numpy.typing import NDArray

from ..audio import SAMPLE_RATE, load_audio
from ..errors import AudioError, ConfigError
from ..packages import cache_folder
from ..semantic.pieces import Message
from ..training.sources import Recording, held_out, read_source, rows_of
from ..training.synthesis.dialogues import Dialogue, several_turns
from ..training.synthesis.engines import Engine, finish
from ..training.synthesis.kokoro import Kokoro, english_voices, read_speakers, voices_file

Pcm = NDArray[np.float32]
Progress = Callable[[str], None]
T = TypeVar("T")

_TEXTS = Path(__file__).parent / "texts"
_PROMPT_SECONDS = 3.0
_LONGEST = 20.0


def shipped(name: str) -> list[str]:
    """Lines of a text list that comes with the package: open_domain, unknowable, prompts."""
    return (_TEXTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()


@dataclass(frozen=True, eq=False)
class Clip:
    """Somebody held out, reading a text; `answers` are those accepted when it is a question, after `history`, whose
    user's turns they read as `turns`."""

    speaker: str
    text: str
    pcm: Pcm
    answers: tuple[str, ...] = ()
    history: tuple[Message, ...] = ()
    turns: tuple[Pcm, ...] = ()


@dataclass(frozen=True, eq=False)
class HeldOutVoice:
    """A speaker's prompt (what a voice is made of) and another recording, which says how alike one person sounds."""

    speaker: str
    prompt: Pcm
    other: Pcm


@dataclass(frozen=True)
class Question:
    """A question's text, the answers that are right, and what was said before."""

    text: str
    answers: tuple[str, ...] = ()
    history: tuple[Message, ...] = ()


@dataclass
class Material:
    """Everything that tasks judge with; parts that a corpus cannot give are empty."""

    sentences: list[Clip] = field(default_factory=list)
    questions: list[Clip] = field(default_factory=list)
    unknowable: list[Clip] = field(default_factory=list)
    dialogues: list[Clip] = field(default_factory=list)
    voices: list[HeldOutVoice] = field(default_factory=list)
    source: str = ""
    speakers: Literal["unseen", "seen"] = "unseen"
    """Whether training heard those who speak."""


def questions_of(pairs: Path, split: str = "valid") -> list[Question]:
    """Questions of a `pairs.tsv` (question, answer [, split, template, phrasing]) with every accepted answer.

    In a template without a slot (as many questions as phrasings, more pairs than answers) its answers are as good as
    each other: a greeting may be answered by any greeting.
    """
    rows = rows_of(pairs, ("question", "answer"))
    templates: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        templates[row.get("template") or row["question"]].append(row)
    made: dict[str, dict[str, None]] = defaultdict(dict)
    for group in templates.values():
        answers = dict.fromkeys(row["answer"] for row in group)
        phrasings = {row.get("phrasing", "") for row in group}
        slotless = len({row["question"] for row in group}) == len(phrasings) and len(answers) < len(group) / 2
        for row in group:
            if row.get("split", split) == split:
                made[row["question"]] |= answers if slotless else {row["answer"]: None}
    return [Question(text, tuple(answers)) for text, answers in made.items()]


def shuffled(items: Sequence[T], seed: int, name: str) -> list[T]:
    """A fixed order of a seed: the first k are the same whatever k."""
    order = list(items)
    random.Random(f"{name} {seed}").shuffle(order)
    return order


def gather(
    corpus: Path | None, items: int, seed: int, needs: set[str], *, unseen: bool | None = None, say: Progress = print
) -> Material:
    """Material for `items` per task. needs: the fields of Material that are wanted.

    unseen: whether no speaker of the corpus was trained on (True: all of it judges) or all were (False: what it holds
    out judges); None: its split says. Raises ConfigError, ModelNotFoundError.
    """
    if corpus is None:
        if unseen is False:
            raise ConfigError("whose recordings? give --corpus with --seen")
        return _spoken(shipped("open_domain"), [], None, items=items, seed=seed, needs=needs, say=say)
    recordings = read_source(corpus) if (corpus / "manifest.tsv").is_file() or not _texts_only(corpus) else []
    pairs = corpus / "pairs.tsv"
    questions = questions_of(pairs) if pairs.is_file() else []
    if unseen is False:
        judging, source = [r for r in recordings if r.split == "valid"], f"held-out recordings of {corpus}"
        if not judging:
            raise ConfigError(f"{corpus} holds no recording out (split `valid`): leave out --seen")
    else:
        judging = [replace(r, split="valid") for r in recordings] if unseen else held_out(recordings)
        source = f"held-out speakers of {corpus}"
    if judging:
        made = _recorded(judging, questions, items=items, seed=seed, needs=needs, source=source)
        return replace(made, speakers="seen" if unseen is False else "unseen")
    table = corpus / "sentences.tsv"
    if table.is_file():
        sentences = [row["text"] for row in rows_of(table, ("text",)) if row.get("split", "valid") == "valid"]
    else:
        sentences = [r.text for r in recordings if r.split == "valid" and r.kind == "sentence"]
    return _spoken(sentences, questions, corpus / "speakers.tsv", items=items, seed=seed, needs=needs, say=say)


def _texts_only(corpus: Path) -> bool:
    return (corpus / "pairs.tsv").is_file() or (corpus / "sentences.tsv").is_file()


class Reader:
    """A text-to-speech engine behind a folder of what it has read before."""

    def __init__(self, engine: Callable[[], Engine], folder: Path, say: Progress) -> None:
        self._open, self._folder, self._say = engine, folder, say
        self._engine: Engine | None = None

    def read(self, text: str, speaker: str) -> Pcm:
        """The text read aloud, 16 kHz (N,)."""
        name = hashlib.sha256(f"{speaker}\t{text}".encode()).hexdigest()[:24]
        path = self._folder / f"{name}.flac"
        if not path.is_file():
            if self._engine is None:
                self._engine = self._open()
            self._say(f"{speaker} reads: {text}")
            pcm = finish(*self._engine.speak(text, speaker))
            self._folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            soundfile.write(part, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            part.replace(path)
        return load_audio(path)


def _spoken(
    sentences: list[str],
    questions: list[Question],
    speakers: Path | None,
    *,
    items: int,
    seed: int,
    needs: set[str],
    say: Progress,
) -> Material:
    """Texts read by Kokoro voices that training did not hear."""
    used = {v for r in read_speakers(speakers) for v in r.voices} if speakers and speakers.is_file() else set()
    voices = [name for name in english_voices(list(np.load(voices_file()).files)) if name not in used]
    if not voices:
        raise ConfigError("no voice is left that training did not hear: give --corpus with held-out speakers")
    reader = Reader(Kokoro, cache_folder() / "judging", say)

    def clips(texts: Sequence[Question]) -> list[Clip]:
        made = []
        for number, q in enumerate(texts):
            speaker = voices[number % len(voices)]
            turns = tuple(reader.read(m.text, speaker) for m in q.history if m.role == "user")
            made.append(Clip(speaker, q.text, reader.read(q.text, speaker), q.answers, q.history, turns))
        return made

    made = Material(source=f"Kokoro voices {', '.join(voices)}, texts held out")
    if "sentences" in needs:
        made.sentences = clips([Question(t) for t in shuffled(sentences, seed, "sentences")[:items]])
    if "questions" in needs:
        made.questions = clips(shuffled(questions, seed, "questions")[:items])
    if "unknowable" in needs:
        made.unknowable = clips([Question(t) for t in shuffled(shipped("unknowable"), seed, "unknowable")[:items]])
    if "dialogues" in needs:
        talks = [Question(d.question, d.answers, _history(d)) for d in several_turns("valid")]
        made.dialogues = clips(shuffled(talks, seed, "dialogues")[:items])
    if "voices" in needs:
        prompt, other = shipped("prompts")
        made.voices = [HeldOutVoice(v, reader.read(prompt, v), reader.read(other, v)) for v in voices]
    return made


def _history(talk: Dialogue) -> tuple[Message, ...]:
    return tuple(m for u, a in talk.turns for m in (Message("user", u), Message("assistant", a)))


def _recorded(
    recordings: list[Recording], questions: list[Question], *, items: int, seed: int, needs: set[str], source: str
) -> Material:
    """Recordings as they are; what cannot be used is passed over."""
    made = Material(source=source)
    accepted = {q.text: q.answers for q in questions}
    answers = {r.pair: r.text for r in recordings if r.kind == "answer"}

    def clips(wanted: list[Recording], name: str) -> list[Clip]:
        found: list[Clip] = []
        for r in shuffled(wanted, seed, name):
            if len(found) == items:
                break
            try:
                pcm = r.load(_LONGEST)
            except AudioError:
                continue
            own = (answers[r.pair],) if r.pair in answers else ()
            found.append(Clip(r.speaker, r.text, pcm, accepted.get(r.text, own)))
        return found

    if "sentences" in needs:
        made.sentences = clips([r for r in recordings if r.kind != "question" and r.text], "sentences")
    if "questions" in needs:
        asked = [r for r in recordings if r.kind == "question" and (r.text in accepted or r.pair in answers)]
        made.questions = clips(asked, "questions")
    if "voices" in needs:
        made.voices = _voices(shuffled(recordings, seed, "voices"), items)
    return made


def _voices(recordings: list[Recording], items: int) -> list[HeldOutVoice]:
    """Two recordings of three seconds or more of each speaker, as the paper's protocol prompts."""
    long: dict[str, list[Pcm]] = defaultdict(list)
    done: list[HeldOutVoice] = []
    for r in recordings:
        if len(done) == items:
            break
        if len(long[r.speaker]) >= 2:
            continue
        try:
            pcm = r.load(_LONGEST)
        except AudioError:
            continue
        if len(pcm) >= _PROMPT_SECONDS * SAMPLE_RATE:
            long[r.speaker].append(pcm)
            if len(long[r.speaker]) == 2:
                done.append(HeldOutVoice(r.speaker, *long[r.speaker]))
    return done
