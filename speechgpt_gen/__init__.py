"""SpeechGPT-Gen: real-time streaming speech-to-speech dialogue."""
