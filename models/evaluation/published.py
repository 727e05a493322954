"""The paper's tables and its neighbours', with the scale of every column: what our figures stand beside.

Rows of SpeechGPT-Gen come from a survey that quotes the paper; the others from their own papers (SpeechTokenizer,
arXiv 2308.16692; AnyGPT, 2402.12226). A dash is a column that a row does not give. Word errors of other judges, other
texts and other speakers are on other scales than ours: compare the order of things, not their differences.
"""

from __future__ import annotations

from dataclasses import dataclass

from .figures import Figure


@dataclass(frozen=True)
class Table:
    """A published table. ours: for each column the (task, measure) of our figure that is of its kind, or None."""

    task: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    ours: tuple[str | None, ...]
    scales: str

    def with_ours(self, name: str, figures: list[Figure]) -> list[tuple[str, tuple[float | None, ...]]]:
        """All rows, ours last."""
        found = {f.measure: f.value for f in figures if f.task == self.task}
        return [*self.rows, (name, tuple(found.get(m) if m else None for m in self.ours))]


TABLES = (
    Table(
        "tokenizer",
        "Speech reconstruction",
        ("WER %", "WER % RVQ-1", "speaker cosine", "PESQ", "STOI"),
        (
            ("Ground truth (LibriSpeech)", (4.58, None, None, None, None)),
            ("EnCodec", (5.11, 38.34, 0.98, None, None)),
            ("SpeechTokenizer", (5.04, 9.57, 0.97, None, None)),
            ("SpeechTokenizer, released weights", (4.34, 10.63, None, 1.98, 0.843)),
        ),
        ("WER, all 8 levels", "WER, RVQ-1 alone", "speaker cosine to the original", "PESQ", "STOI"),
        "theirs: LibriSpeech test-clean, Whisper medium, WavLM cosine",
    ),
    Table(
        "tts",
        "Zero-shot text to speech (3 s prompt)",
        ("WER %", "speaker cosine", "QMOS (people) / DNSMOS", "SMOS (people)"),
        (
            ("Ground truth (VCTK)", (1.9, 0.93, 4.5, 3.96)),
            ("VALL-E (EnCodec)", (7.9, 0.75, 3.08, 3.31)),
            ("USLM", (6.5, 0.84, 3.63, 3.45)),
            ("AnyGPT", (8.5, 0.77, None, None)),
            ("SpeechGPT-Gen, 8 B (LibriSpeech)", (2.4, 0.66, 3.69, 3.51)),
        ),
        ("WER, unseen voice (3 s)", "speaker cosine, unseen voice", "DNSMOS, unseen voice", None),
        "theirs: VCTK or, last row, LibriSpeech test-clean (its cosine is on the scale of VALL-E's own paper), "
        "Whisper medium, WavLM cosine to the prompt, MOS by people; ours: DNSMOS where they asked people",
    ),
    Table(
        "vc",
        "Zero-shot voice conversion",
        ("WER %", "speaker cosine", "QMOS (people) / DNSMOS", "SMOS (people)"),
        (
            ("Ground truth", (0.4, 0.93, None, None)),
            ("SpeechTokenizer, codes mixed, reference 2:4", (11.7, 0.80, None, None)),
            ("SoundStorm on SpeechTokenizer", (None, 0.90, None, None)),
            ("SpeechGPT-Gen, 8 B (VCTK)", (3.1, 0.86, 3.72, 3.54)),
        ),
        ("WER, unseen voice", "speaker cosine to the target", "DNSMOS", None),
        "theirs: VCTK, Whisper medium, WavLM cosine to the prompt, MOS by people; ours: DNSMOS where they asked people",
    ),
    Table(
        "asr",
        "Speech recognition",
        ("WER %",),
        (
            ("People", (5.8,)),
            ("wav2vec 2.0", (2.7,)),
            ("Whisper large v2", (2.7,)),
            ("AnyGPT", (8.5,)),
        ),
        ("WER, unseen speakers",),
        "theirs: LibriSpeech test-clean",
    ),
    Table(
        "dialogue",
        "Speech-to-speech dialogue",
        ("right content %", "speaker cosine", "ChatGPT score (1-5)"),
        (("SpeechGPT-Gen, 8 B", (None, 0.87, 3.61)),),
        ("right content, heard by the judge", "speaker cosine", None),
        "theirs: ChatGPT's opinion of the answer's transcript; ours: its content words, of a trained domain",
    ),
)
