"""Speech to discrete units and latents, and latents back to speech: 16 kHz mono, one frame = 320 samples = 20 ms.

`SpeechTokenizer` is the published member of the family; the streaming member lives in `streaming.py`.
"""

from .published import SpeechTokenizer, SpeechTokenizerConfig, load_speech_tokenizer

__all__ = ["SpeechTokenizer", "SpeechTokenizerConfig", "load_speech_tokenizer"]
