"""Every exception that diffreplay raises on purpose.

All derive from `ReplayError`, so one `except` catches them. Those that a wrong argument causes are `ValueError` as
well; of the others, `CopyError` is a `TypeError` and `InUseError` an `OSError`.
"""


class ReplayError(Exception):
    """Base of all errors of this package.

    Examples:
        >>> issubclass(diffreplay.errors.InputError, diffreplay.errors.ReplayError)
        True
    """


class InputError(ReplayError, ValueError):
    """An argument or a step has the wrong type, shape, range or order; the buffer is as it was.

    Examples:
        >>> replay.sample(0)
        Traceback (most recent call last):
            ...
        diffreplay.errors.InputError: batch_size: expected a positive integer, got 0
    """


class IndexingError(InputError, IndexError):
    """An index that reaches beyond what is there, or of a kind that is not supported.

    Examples:
        >>> issubclass(diffreplay.errors.IndexingError, IndexError)
        True
    """


class UnknownCodecError(InputError):
    """No codec of that name is registered, or what a package registers as one cannot be used.

    Examples:
        >>> diffreplay.codecs.get("zst")
        Traceback (most recent call last):
            ...
        diffreplay.errors.UnknownCodecError: ...
    """


class EmptyBufferError(ReplayError):
    """The buffer holds no complete window to sample yet.

    Examples:
        >>> diffreplay.ReplayBuffer(1000, (3, 16, 16), (2,)).sample(8)
        Traceback (most recent call last):
            ...
        diffreplay.errors.EmptyBufferError: ...
    """


class ReadOnlyError(ReplayError):
    """A reader, or a process other than the writer, tried to change the buffer.

    Examples:
        >>> replay.handle().save("somewhere")
        Traceback (most recent call last):
            ...
        diffreplay.errors.ReadOnlyError: ...
    """


class CorruptDataError(ReplayError):
    """What is stored, in memory or on disk, is damaged or missing.

    Examples:
        >>> diffreplay.ReplayBuffer.load("nowhere")
        Traceback (most recent call last):
            ...
        diffreplay.errors.CorruptDataError: ...
    """


class CodecError(ReplayError):
    """A codec breaks its contract; `diffreplay.testing.check_codec` raises it.

    Examples:
        >>> diffreplay.testing.check_codec("zstd")
        Traceback (most recent call last):
            ...
        diffreplay.errors.CodecError: ...
    """


class CopyError(ReplayError, TypeError):
    """A buffer cannot be pickled or copied; `save` and `load` do that.

    Examples:
        >>> copy.deepcopy(replay)
        Traceback (most recent call last):
            ...
        diffreplay.errors.CopyError: ...
    """


class SharedMemoryError(ReplayError):
    """The shared memory could not be created, attached to, or is not what was expected.

    Examples:
        >>> diffreplay.ReplayBuffer(1 << 52, (3, 84, 84), (2,), codec="raw")
        Traceback (most recent call last):
            ...
        diffreplay.errors.SharedMemoryError: ...
    """


class WorkerError(ReplayError):
    """A loader's worker could not be started, or failed.

    Examples:
        >>> issubclass(diffreplay.errors.WorkerError, diffreplay.errors.ReplayError)
        True
    """


class InUseError(ReplayError, OSError):
    """A running process uses the directory already; what is in it is as it was.

    Examples:
        >>> issubclass(diffreplay.errors.InUseError, OSError)
        True
    """
