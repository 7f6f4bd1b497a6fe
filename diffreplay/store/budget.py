"""The byte cap, and what counts against it."""

from __future__ import annotations

from collections.abc import Sequence, Sized

from diffreplay.errors import InputError
from diffreplay.store.arena import PAGE
from diffreplay.store.coding import Coding
from diffreplay.store.layout import BLOCK_ROWS, LOG_EXTENT_BYTES, Counter, Layout, Memory
from diffreplay.store.rows import RowWriter
from diffreplay.store.sets import SetWriter


class Budget:
    """Counts the bytes of memory that a store takes, the writer's own copies included.

    Args:
        max_bytes: what it may take at most; None for any.
        window_frames: frames that `max_bytes` must hold at least, even if none compresses.
    """

    def __init__(
        self,
        layout: Layout,
        memory: Memory,
        rows: RowWriter,
        sets: Sequence[SetWriter],
        codings: Sequence[Coding],
        streams: Sized,
        max_bytes: int | None,
        window_frames: int,
    ) -> None:
        self.max_bytes = max_bytes
        self._layout, self._counters = layout, memory.counters
        self._rows, self._sets, self._codings, self._streams = rows, sets, codings, streams
        # The newest observation, and the frames that the next ones are coded against.
        kept = max((coding.kept_frames for coding in codings), default=0)
        self.stream_bytes = layout.frame_stack * layout.step_bytes + kept * layout.row_bytes
        self._window_frames = max(window_frames, 4 * layout.frame_stack)

    def allocated(self) -> int:
        """Bytes of memory taken now, by the shared store and by the writer's own copies."""
        rows = self._rows
        rings = self._set_pages() + rows.blocks.allocated + rows.log.ring.allocated
        return self._layout.header_bytes + rings + len(self._streams) * self.stream_bytes + self._private_bytes()

    def publish(self) -> None:
        """Tell readers how many bytes are allocated, and how many of them are reference frames."""
        self._counters[Counter.REFERENCE_BYTES] = sum(sets.nbytes for sets in self._sets)
        self._counters[Counter.ALLOCATED_BYTES] = self.allocated()

    def allows(self, more: int) -> bool:
        """Whether `more` bytes may be taken besides."""
        return self.max_bytes is None or self.allocated() + more <= self.max_bytes

    def allows_set(self, coding: Coding, private_bytes: int, nbytes: int) -> bool:
        """Whether a set may be built for which rows leave: all sets take at most half of the cap.

        Args:
            coding: of the image that it is for.
            private_bytes: what coding against it takes.
            nbytes: of its frames.
        """
        if self.max_bytes is None:
            return True
        more = self.set_bytes(coding, private_bytes, nbytes)
        sets = self._set_pages() + self._private_bytes() + more
        return 2 * sets <= self.max_bytes and self.least(len(self._streams), more) <= self.max_bytes

    def set_bytes(self, coding: Coding, private_bytes: int, nbytes: int) -> int:
        """Bytes that one more set takes, as of `allows_set`."""
        return 2 * nbytes + PAGE + private_bytes - coding.codec.private_bytes(coding.sets.reference)

    def room(self) -> int | None:
        """Bytes that the cap leaves for rows beside the sets that there are; None without a cap."""
        if self.max_bytes is None:
            return None
        taken = self.allocated() - self._rows.log.ring.allocated - self._rows.blocks.allocated
        return max(self.max_bytes - taken, 0)

    def least(self, streams: int, more: int = 0) -> int:
        """Bytes for so many streams, `more` for reference sets, and a few windows that do not compress."""
        sets = self._set_pages() + self._private_bytes() + more
        frames = self._window_frames * self._layout.row_bytes + streams * self.stream_bytes
        return self._layout.header_bytes + 2 * self._layout.block_bytes + sets + frames + 4 * LOG_EXTENT_BYTES

    def holds(self, streams: int) -> bool:
        """Whether the cap holds so many streams and a few windows."""
        return self.max_bytes is None or self.least(streams) <= self.max_bytes

    def check(self, name: str = "max_bytes", streams: int = 1) -> None:
        """Refuse a cap under which not even a few windows fit uncompressed.

        Raises:
            InputError: so it is.
        """
        if not self.holds(streams):
            raise InputError(
                f"{name}: expected at least {self.least(streams)} to hold a few windows, got {self.max_bytes}"
            )

    def check_batch(self, streams: int, rows: int, name: str = "add_batch", fewer: str = "add fewer in a call") -> None:
        """Refuse a batch of so many rows that the cap does not hold uncompressed, beside a few windows.

        Args:
            streams, rows: how many there will be, and are added.
            name: of what is refused.
            fewer: what to do.

        Raises:
            InputError: so it is.
        """
        layout = self._layout
        least = self.least(streams) + rows * layout.row_bytes + -(-rows // BLOCK_ROWS) * layout.block_bytes
        if self.max_bytes is not None and least > self.max_bytes:
            raise InputError(
                f"{name}: expected max_bytes of at least {least}, which so many transitions may take at once, got "
                f"{self.max_bytes}; {fewer}"
            )

    def _set_pages(self) -> int:
        """Bytes of shared memory that the sets take."""
        return sum(sets.page_bytes for sets in self._sets)

    def _private_bytes(self) -> int:
        """Bytes of this process alone: each reference set as the codec opened it, and what coding takes besides."""
        coding = sum(coding.codec.private_bytes(coding.sets.reference) for coding in self._codings)
        return coding + sum(sets.nbytes for sets in self._sets)
