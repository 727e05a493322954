"""The MQTT door: the Hermes dialogue of Rhasspy, for satellites with a microphone, a speaker and a wake word."""
