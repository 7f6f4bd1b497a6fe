"""The one contract of all codecs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview


class Codec(ABC):
    """Codes one frame at a time, and decodes many at once.

    A frame is (H, W, C) uint8, C-contiguous. `reference` says what it is coded against:

    - "none": nothing;
    - "frame": an earlier frame of its episode that is stored raw, every `frame_stack`-th one;
    - "set": reference frames shared by the whole buffer, chosen from time to time by its `planner`.

    A codec holds options, never data, so that one instance may serve many buffers, processes and threads. Threads may
    decode at the same time, even against one open set.

    Examples:
        >>> class Flat(diffreplay.codecs.Codec):  # a byte for a frame that is of one value
        ...     name = "flat"
        ...
        ...     def encode(self, frame, reference=None):
        ...         return bytes(frame.flat[:1]) if frame.size > 1 and (frame == frame.flat[0]).all() else None
        ...
        ...     def decode(self, data, lengths, reference, out):
        ...         if len(data) != len(lengths) or (lengths != 1).any():
        ...             raise diffreplay.errors.CorruptDataError("expected a byte for each frame")
        ...         out[:] = np.frombuffer(data, np.uint8)[:, None, None, None]
        >>> buffer = diffreplay.ReplayBuffer(1000, (3, 16, 16), (2,), codec=Flat())
    """

    name: ClassVar[str]
    reference: ClassVar[Literal["none", "frame", "set"]] = "none"
    decodes_in_place: ClassVar[bool] = False  # for "set": whether there is a `decode_in_place`

    @abstractmethod
    def encode(self, frame: Frame, reference: Any = None) -> Buffer | None:
        """The coded frame: shorter than the raw one, or None where only raw bytes would do.

        Args:
            frame: (H, W, C) uint8.
            reference: for "frame" the reference frame (H, W, C) or None; for "set" what `open_set` returned.
        """

    def encode_many(self, frames: NDArray[np.uint8], reference: Any = None) -> Sequence[Buffer | None]:
        """What `encode` gives for each of several frames, for "none" and "set"; a codec may do it on several cores.

        Args:
            frames: (N, H, W, C) uint8, C-contiguous.
            reference: for all of them.
        """
        return [self.encode(frame, reference) for frame in frames]

    def gather(self, blobs: Sequence[Buffer], frame_bytes: int) -> Buffer:
        """One private copy of coded frames, for `decode`; a raw frame has `frame_bytes`."""
        return b"".join(blobs)

    @abstractmethod
    def decode(self, data: Buffer, lengths: NDArray[np.intp], reference: Any, out: NDArray[np.uint8]) -> None:
        """Decode what `gather` returned into `out`.

        Args:
            data: copy of n coded frames, made by `gather`.
            lengths: (n,) coded size of each, in bytes. For "frame", 0 leaves a frame as `out` holds it.
            reference: for "set" what `open_set` returned; unused otherwise.
            out: (n, H, W, C) uint8, C-contiguous; for "frame" it already holds the reference frames.

        Raises:
            CorruptDataError: `data` is not what `encode` made of frames of this shape.
        """

    def decode_in_place(
        self,
        log: Buffer,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        sets: Buffer,
        set_starts: NDArray[np.int64],
        set_lengths: NDArray[np.int64],
        out: NDArray[np.uint8],
        planar: bool,
    ) -> bool:
        """Decode frames straight from memory that the writer may go on to write; whether all of them were whole.

        Whatever is read, nothing outside of what is passed is touched. That a frame was damaged, or that its pixels are
        right, is believed only once it is known that nothing was written meanwhile.

        Args:
            log: holds the coded frames.
            starts: (n,) where in it each begins.
            lengths: (n,) bytes of each; those of a raw frame where it is raw, and -1 for a frame of zeros.
            sets: holds the reference sets.
            set_starts: (n,) where in it the set of each frame begins.
            set_lengths: (n,) and its bytes.
            out: (n, H, W, C) uint8, C-contiguous; (n, C, H, W) with `planar`.
            planar: whether the channels come first.
        """
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """Arguments that make this codec again, as JSON can hold them."""
        return {}

    def within(self, max_bytes: int | None) -> Codec:
        """The codec for a buffer with this cap or none: it may take less memory, and reads what this one coded."""
        return self

    def with_sets_of(self, most: int) -> Codec:
        """For "set": the codec with at most so many frames in a set, where a buffer holds few."""
        return self

    def set_frames(self, frame_bytes: int) -> int:
        """For "set": how many frames of that size a set has at most; 0 otherwise."""
        return 0

    def open_set(self, data: Buffer, frame_shape: tuple[int, int, int]) -> Any:
        """For "set": what `encode` and `decode` take as `reference`.

        Args:
            data: the reference frames, end to end; empty before the first set is built.
            frame_shape: (H, W, C) of a frame.
        """
        return None

    def private_bytes(self, reference: Any) -> int:
        """For "set": bytes that the writer takes for coding against an open set, besides its frames."""
        return 0

    def planner(self, frame_shape: tuple[int, int, int]) -> SetPlanner:
        """For "set": a fresh object that decides when to build a set, and of which frames."""
        return SetPlanner()


class SetPlanner:
    """Decides when a reference set is built. This one: never.

    Attributes:
        next_check: rows written when `choose` is asked next; a snapshot keeps it.

    Examples:
        >>> diffreplay.codecs.SetPlanner().due(head=1000)
        False
    """

    next_check: int = 1

    def due(self, head: int) -> bool:
        """Whether `choose` should be asked now that `head` rows are written."""
        return False

    def choose(self, store: FrameSource) -> NDArray[np.uint8] | None:
        """Reference frames (K, H, W, C) of a new set, or None to go on with the present one."""
        return None


class FrameSource(Protocol):
    """What a planner may ask of the store."""

    @property
    def head(self) -> int:
        """Rows written so far."""

    @property
    def tail(self) -> int:
        """The oldest row that still counts."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of a raw frame."""

    @property
    def room(self) -> int | None:
        """Bytes that a cap leaves for frames beside the sets that there are; None without a cap."""

    def make_room(self, more: int) -> None:
        """Evict rows until the cap leaves `more` bytes for a moment's work."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames of rows, (N, H, W, C)."""

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Coded bytes of rows, (N,)."""

    def present(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `rows` that hold a frame."""
