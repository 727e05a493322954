"""A corpus made of texts and text-to-speech engines, in the form that `prepare` reads: shards, manifest, speakers.

What is read by whom, how fast and where it lies is drawn from the seed and the id alone. Shards are made side by side,
each whole or not at all, so a run that was stopped goes on with the shards that are missing.
"""

from __future__ import annotations

import io
import os
import random
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import soundfile

from ...audio import SAMPLE_RATE
from ...errors import ConfigError, SpeechGPTGenError
from ..sources import TURN, rows_of
from .dialogues import dialogues, no_speech
from .engines import Engine, finish, open_engine
from .exercises import exercises
from .kokoro import (
    HELD_OUT,
    Kokoro,
    SpeakerRecipe,
    english_voices,
    mixtures,
    read_speakers,
    real_speaker,
    voices_file,
)
from .other_words import ways_of

_SHARD = 256
_SECOND_READING = 5
"""Each fifth question is read by a second speaker too."""
MANIFEST = ("id", "shard", "speaker", "speed", "seconds", "kind", "pair", "split", "text")
PAIRS = ("pair", "template", "phrasing", "split", "question", "answer", "history")


@dataclass(frozen=True)
class Job:
    """One recording to make; kind `nothing` takes the sound number `pair` of `no_speech` instead of a text."""

    id: str
    kind: str
    text: str
    pair: str = ""
    split: str = "train"
    speaker: str = ""
    speed: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What to build. texts: a folder with `pairs.tsv` and `sentences.tsv`, of which either may be missing, and perhaps
    `speakers.tsv`; mixtures: Kokoro speakers drawn besides; answerer: who reads all answers; most: recordings at most;
    turns: whether the dialogue templates of the package are added; exercises: how many of each rule are added as text,
    read by nobody (`exercises.py`); reworded: instead of the pairs as they are and of `nothing`, read so many training
    questions in other words (`other_words.py`), exercises among them: more to hear, beside the corpus of the pairs."""

    texts: Path | None
    engines: tuple[str, ...] = ("kokoro",)
    mixtures: int = 0
    answerer: str = "af_heart"
    seed: int = 0
    most: int | None = None
    turns: bool = True
    exercises: int = 0
    nothing: int = 70
    reworded: int = 0

    def speakers(self) -> list[str]:
        """Everybody who reads, those kept for judging left out."""
        found = [recipe.speaker for recipe in self.recipes()] if "kokoro" in self.engines else []
        for name in self.engines:
            if name != "kokoro":
                found += open_engine(name).speakers
        return found

    def recipes(self) -> list[SpeakerRecipe]:
        """Kokoro's speakers: those of `speakers.tsv`, else its English voices; and `mixtures` of all its voices."""
        table = self.texts / "speakers.tsv" if self.texts is not None else None
        listed = read_speakers(table) if table is not None and table.is_file() else None
        if listed is not None and not self.mixtures:
            return listed
        names = list(np.load(voices_file()).files)
        if listed is None:
            listed = [real_speaker(name) for name in english_voices(names) if name not in HELD_OUT]
        return listed + mixtures(names, self.mixtures, self.seed)


def pairs_of(plan: Plan) -> list[dict[str, str]]:
    """Rows of the corpus' `pairs.tsv`: those of the texts, then the package's dialogues."""
    table = plan.texts / "pairs.tsv" if plan.texts is not None else None
    rows = rows_of(table, ("question", "answer")) if table is not None and table.is_file() else []
    made = []
    for number, row in enumerate(rows):
        defaults = {"pair": f"p{number:05d}", "split": "train", "template": "", "phrasing": "", "history": ""}
        made.append({**defaults, **{k: v for k, v in row.items() if k in PAIRS and v}})
    for number, talk in enumerate(dialogues(plan.seed) if plan.turns else []):
        history = TURN.join(text for turn in talk.turns for text in turn)
        answer = talk.answers[number % len(talk.answers)]
        made.append(
            {"pair": f"d{number:05d}", "template": talk.template, "phrasing": talk.phrasing, "split": talk.split,
             "question": talk.question, "answer": answer, "history": history}
        )  # fmt: skip
    return made


def exercises_of(plan: Plan) -> list[dict[str, str]]:
    """Rows that are added to them as text alone."""
    return [
        {"pair": f"x{number:05d}", "template": made.template, "phrasing": "", "split": "train",
         "question": made.question, "answer": made.answer, "history": ""}
        for number, made in enumerate(exercises(plan.exercises, plan.seed))
    ]  # fmt: skip


def reworded_of(plan: Plan) -> list[tuple[str, str]]:
    """(pair, question) for `reworded` pairs that training may hear, each in one of its other words."""
    rng = random.Random(f"reworded {plan.seed}")
    recorded, unheard = pairs_of(plan), exercises_of(plan)
    made = [(row["pair"], rng.choice(ways)) for row, ways in zip(recorded, ways_of(recorded), strict=True) if ways]
    made += [(row["pair"], row["question"]) for row in unheard]  # asked in such words as they are
    if not made:
        raise ConfigError("no training question is known in other words: give --texts with templates, or --exercises")
    rng.shuffle(made)
    return made[: plan.reworded]


def jobs_of(plan: Plan, speakers: Sequence[str]) -> list[Job]:
    """Every recording, in a fixed shuffled order; `most` keeps the first ones."""
    if not speakers:
        raise ConfigError("no engine has a speaker: install one of them")
    answerer = plan.answerer if plan.answerer in speakers else speakers[0]
    made = []

    def job(name: str, kind: str, text: str, pair: str, split: str) -> Job:
        rng = random.Random(f"{plan.seed} {name}")
        speaker, speed = rng.choice(speakers), round(rng.uniform(0.85, 1.2), 2)
        return Job(name, kind, text, pair, split, *((answerer, 1.0) if kind == "answer" else (speaker, speed)))

    if plan.reworded:
        made += [job(f"{pair}w", "question", text, pair, "train") for pair, text in reworded_of(plan)]
    for number, row in enumerate([] if plan.reworded else pairs_of(plan)):
        pair, split = row["pair"], row["split"]
        made.append(job(f"{pair}q", "question", row["question"], pair, split))
        made.append(job(f"{pair}a", "answer", row["answer"], pair, split))
        if number % _SECOND_READING == 0:
            made.append(job(f"{pair}r", "question", row["question"], pair, split))
    table = plan.texts / "sentences.tsv" if plan.texts is not None else None
    for number, row in enumerate(rows_of(table, ("text",)) if table is not None and table.is_file() else []):
        made.append(job(row.get("id") or f"s{number:05d}", "sentence", row["text"], "", row.get("split") or "train"))
    sounds = range(0 if plan.reworded else plan.nothing)
    made += [Job(f"n{n:05d}", "nothing", "", split="valid" if n % 20 == 19 else "train") for n in sounds]
    random.Random(plan.seed).shuffle(made)
    return made[: plan.most]


def build(plan: Plan, folder: Path, pool: Executor | None = None, progress: bool = True) -> tuple[int, int]:
    """Make the corpus in `folder`, or what is missing of it; recordings made and left out.

    Raises ConfigError for texts that cannot be read or reworded, or a folder made with another plan,
    ModelNotFoundError for an engine that is not installed.
    """
    speakers = plan.speakers()
    jobs = jobs_of(plan, speakers)
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    _check_plan(plan, jobs, folder)
    groups = [(f"S{n // _SHARD:04d}", jobs[n : n + _SHARD]) for n in range(0, len(jobs), _SHARD)]
    try:
        work = partial(_build_shard, plan, shards)
        for number, _ in enumerate((pool.map if pool else map)(work, groups), 1):
            if progress:
                print(f"made {number}/{len(groups)} shards", flush=True)
        lines = [line for name, _ in groups for line in (shards / f"{name}.tsv").read_text().splitlines()]
        _write(folder / "manifest.tsv", MANIFEST, (line.split("\t") for line in lines))
        _write(folder / "pairs.tsv", PAIRS, ([row[k] for k in PAIRS] for row in (*pairs_of(plan), *exercises_of(plan))))
        _write_speakers(plan, speakers, folder / "speakers.tsv")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}; run the command again") from None
    return len(lines), len(jobs) - len(lines)


def _check_plan(plan: Plan, jobs: list[Job], folder: Path) -> None:
    """Shards of another plan would be taken for this one's."""
    stamp = f"{plan}\n{len(jobs)} recordings\n"
    note = folder / "plan.txt"
    if note.is_file() and note.read_text() != stamp:
        raise ConfigError(f"{folder} was made with another plan (see plan.txt): choose another folder")
    note.write_text(stamp)


@cache
def _engines(plan: Plan) -> dict[str, Engine]:
    """Speaker -> engine; opened once in each process."""
    opened: list[Engine] = [Kokoro(plan.recipes()) if name == "kokoro" else open_engine(name) for name in plan.engines]
    return {speaker: engine for engine in opened for speaker in engine.speakers}


def _build_shard(plan: Plan, shards: Path, group: tuple[str, list[Job]]) -> None:
    name, jobs = group
    table = shards / f"{name}.tsv"
    if table.is_file():
        return
    rows, failed = [], []
    tar = shards / f"{name}.tar"
    with tarfile.open(tar.with_suffix(".part"), "w") as archive:
        for job in jobs:
            try:
                data, seconds = _recording(plan, job)
            except SpeechGPTGenError as error:
                failed.append(f"{job.id}\t{error}")
                continue
            info = tarfile.TarInfo(f"{job.id}.ogg")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            how = (job.speaker or "nobody", f"{job.speed:.2f}", f"{seconds:.3f}")
            rows.append((job.id, tar.name, *how, job.kind, job.pair, job.split, job.text))
    os.replace(tar.with_suffix(".part"), tar)
    if failed:
        (shards / f"{name}.failed").write_text("".join(f"{line}\n" for line in failed))
    unfinished = table.with_suffix(".tsv.part")
    unfinished.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(unfinished, table)


def _recording(plan: Plan, job: Job) -> tuple[bytes, float]:
    """Ogg/Opus, 16 kHz, and its seconds."""
    if job.kind == "nothing":
        rng = random.Random(f"{plan.seed} {job.id}")
        pcm = rng.choice(list(no_speech(rng.randrange(2**32), rng.uniform(1, 4))))[1]
    else:
        pcm = finish(*_engines(plan)[job.speaker].speak(job.text, job.speaker, job.speed))
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, SAMPLE_RATE, format="OGG", subtype="OPUS")
    return buffer.getvalue(), len(pcm) / SAMPLE_RATE


def _write(path: Path, columns: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    body = "".join("\t".join(" ".join(str(cell).split()) for cell in row) + "\n" for row in rows)
    path.write_text("\t".join(columns) + "\n" + body, encoding="utf-8")


def _write_speakers(plan: Plan, speakers: Sequence[str], path: Path) -> None:
    recipes = {r.speaker: r for r in plan.recipes()} if "kokoro" in plan.engines else {}
    made = [recipes.get(name, SpeakerRecipe(name, voice_a=name)) for name in speakers]
    columns = ("speaker", "kind", "voice_a", "voice_b", "t", "resample", "phonemes")
    _write(
        path, columns,
        ((r.speaker, r.kind, r.voice_a, r.voice_b or "-", str(r.t), str(r.resample), r.phonemes) for r in made),
    )  # fmt: skip
