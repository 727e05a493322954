"""Errors a user may meet: each message is one line that names what was wrong and what to do about it."""


class SpeechGPTGenError(Exception):
    """Base of every error that is the user's to mend; the command line prints it in one line and exits with 2."""


class AudioError(SpeechGPTGenError):
    """Audio that cannot be used: unreadable, empty, not finite, too short or too long."""


class TextError(SpeechGPTGenError):
    """Text that cannot be spoken or is too long."""


class CheckpointError(SpeechGPTGenError):
    """Weights whose keys, shapes or container do not fit the model."""


class ModelNotFoundError(SpeechGPTGenError):
    """A model name or folder that does not exist or lacks a file."""


class ConfigError(SpeechGPTGenError):
    """A setting or configuration key that is unknown or has an impossible value."""


class EngineError(SpeechGPTGenError):
    """The engine could not do what was asked of it."""


class EngineFullError(EngineError):
    """Every slot is taken; try again when somebody has hung up."""
