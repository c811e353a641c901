# SPDX-License-Identifier: Apache-2.0
"""The exceptions of the package.

Every message is one sentence a user can act on: what was expected, what came, what to do.
"""


class DvpsError(Exception):
    """Base of all errors that the package raises on purpose."""


class ConfigError(DvpsError):
    """A configuration file, parameter or command line that cannot be used."""


class CheckpointError(DvpsError):
    """Training weights that cannot be loaded: missing, truncated, of another network or label space."""


class EngineError(DvpsError):
    """An exported model or engine that cannot be used: missing, truncated, foreign or wrong in value."""


class ModelFileError(EngineError):
    """A file of an exported model is damaged: no backend can run it."""


class DeviceError(EngineError):
    """The device of an engine ran out of memory or was lost: that engine ends, a new one may work."""


class InputError(DvpsError):
    """Input data (image, camera model, file, message) that cannot be used."""


class OutputError(DvpsError):
    """A result that cannot be written: full disk, no permission."""


def sentence(error: BaseException) -> str:
    """One line on any error: an error raised on purpose speaks for itself, of another the type says more."""
    if isinstance(error, DvpsError):
        return str(error)
    return f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
