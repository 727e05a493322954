"""Prompts that the published language models were tuned on, and what their answers mean.

Sources: SpeechGPT (Zhang et al. 2023, arXiv 2305.11000, cli_infer.py), AnyGPT (Zhan et al. 2024, arXiv 2402.12226,
prompter.py and conversation.py). SpeechGPT-Gen's own language model and prompt were never published; SpeechGPT's chain
of modality is their nearest relative.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_SPEAKING_HEAD: Final = "\U0001f5e3"  # AnyGPT's mark of speech units, usually with a variation selector
UNIT: Final = re.compile(rf"<(?:{_SPEAKING_HEAD}\ufe0f?)?(\d+)>")
_SPEECH: Final = re.compile(rf"(?:<sosp>|\A\s*(?={UNIT.pattern}))(.*?)(?:<eosp>|$)", re.IGNORECASE | re.DOTALL)
_TAG: Final = re.compile(r"<(?:sosp|eosp|eos|eoa|eoh|/?s)>|" + UNIT.pattern, re.IGNORECASE)
_CHAIN: Final = re.compile(
    r"(?P<heard>.*?)(?:\s*;)?\s*\[ta\]\s*(?P<text>.*?)(?:(?:\s*;)?\s*\[ua\](?P<speech>.*))?$", re.IGNORECASE | re.DOTALL
)
_INSTRUCTION: Final = re.compile(r".*?<-Ins->\s*(?P<heard>.*?)\s*<-Res->\s*(?P<text>.*)$", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """A published model's answer taken apart: what it understood, what it says, and the units to say it with."""

    transcript: str
    text: str
    units: tuple[int, ...]


def parse_answer(answer: str) -> Answer:
    """Take `{transcript}; [ta] {text}; [ua] {units}`, `<-Ins-> {transcript} <-Res-> {text} {units}` or speech apart.

    Missing parts are empty; `<SOSP>` may be in capitals, units may carry AnyGPT's emoji; speech that was cut off, or
    whose `<sosp>` was part of the prompt, counts.
    """
    units = tuple(int(u) for speech in _SPEECH.finditer(answer) for u in UNIT.findall(speech[0]))
    found = _INSTRUCTION.match(answer) or _CHAIN.match(answer)
    heard, text = (found["heard"], found["text"]) if found else ("", answer)
    if not units and found and found.re is _CHAIN and found["speech"]:
        units = tuple(int(u) for u in UNIT.findall(found["speech"]))
    return Answer(_words(heard), _words(text), units)


def _words(text: str) -> str:
    return " ".join(_TAG.sub(" ", _SPEECH.sub(" ", text)).split())


@dataclass(frozen=True)
class PromptStyle:
    """How one family of models is asked. `{}` in `unit` is the unit's number."""

    name: str
    assistant: str
    system: str
    turn: str
    unit: str
    asr: str
    tts: str
    chain: str

    def speech(self, units: Sequence[int]) -> str:
        """Units as the text the model reads."""
        return f"<sosp>{''.join(self.unit.format(u) for u in units)}<eosp>"

    def direct(self, units: Sequence[int]) -> str:
        """Spoken dialogue without text between: the answer is made to begin with speech."""
        return f"{self._ask(self.speech(units))}<sosp>"

    def chain_of_modality(self, units: Sequence[int]) -> str:
        """Spoken dialogue by way of transcript and text answer (`parse_answer`)."""
        return self._ask(self.chain.format(speech=self.speech(units)))

    def transcribe(self, units: Sequence[int]) -> str:
        """Speech recognition."""
        return self._ask(self.asr.format(speech=self.speech(units)))

    def speak(self, text: str) -> str:
        """Text to speech; `text` must be free of the model's own tokens (`PublishedVocabulary.plain`)."""
        return self._ask(self.tts.format(text=text))

    def converse(self, text: str) -> str:
        """Typed dialogue."""
        return self._ask(text)

    def _ask(self, question: str) -> str:
        return self.system + self.turn.format(question=question)


SPEECHGPT: Final = PromptStyle(
    name="speechgpt",
    assistant="[SpeechGPT]",
    system=(
        "You are an AI assistant whose name is SpeechGPT.\n"
        "- SpeechGPT is a intrinsic cross-modal conversational language model that is developed by Fudan University.  "
        "SpeechGPT can understand and communicate fluently with human through speech or text chosen by the user.\n"
        "- It can perceive cross-modal inputs and generate cross-modal outputs.\n"
    ),
    turn="[Human]: {question} <eoh>. [SpeechGPT]: ",
    unit="<{}>",
    asr="Please transcribe the speech into text. This is input: {speech}",
    tts="Please read the text aloud. This is input: {text}",
    chain="{speech}",
)

ANYGPT: Final = PromptStyle(
    name="anygpt",
    assistant="[MMGPT]",
    system=(
        "You are an AI assistant named MMGPT who can understand and generate multimodal content, "
        "including text, speech, images and audio.\n"
    ),
    turn="[Human]: {question}<eoh>\n[MMGPT]:",
    unit=f"<{_SPEAKING_HEAD}\ufe0f{{}}>",
    asr="{speech} Please transcribe the given speech.",
    tts="{text} Please read the given text.",
    chain="{speech} Please acknowledge the user's vocal input, create a textual response",
)

STYLES: Final = (SPEECHGPT, ANYGPT)
