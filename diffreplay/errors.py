"""Every exception that diffreplay raises on purpose.

All derive from `ReplayError`, so one `except` catches them. Those that a wrong argument causes are `ValueError` as
well; of the others, `CopyError` is a `TypeError` and `InUseError` an `OSError`.
"""


class ReplayError(Exception):
    """Base of all errors of this package."""


class InputError(ReplayError, ValueError):
    """An argument or a step has the wrong type, shape, range or order; the buffer is as it was."""


class IndexingError(InputError, IndexError):
    """An index that reaches beyond what is there, or of a kind that is not supported."""


class UnknownCodecError(InputError):
    """No codec of that name is registered, or what a package registers as one cannot be used."""


class EmptyBufferError(ReplayError):
    """The buffer holds no complete window to sample yet."""


class ReadOnlyError(ReplayError):
    """A reader, or a process other than the writer, tried to change the buffer."""


class CorruptDataError(ReplayError):
    """What is stored, in memory or on disk, is damaged or missing."""


class CodecError(ReplayError):
    """A codec breaks its contract; `diffreplay.testing.check_codec` raises it."""


class CopyError(ReplayError, TypeError):
    """A buffer cannot be pickled or copied; `save` and `load` do that."""


class SharedMemoryError(ReplayError):
    """The shared memory could not be created, attached to, or is not what was expected."""


class WorkerError(ReplayError):
    """A loader's worker could not be started, or failed."""


class InUseError(ReplayError, OSError):
    """A running process uses the directory already; what is in it is as it was."""
