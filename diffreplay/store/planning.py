"""When reference sets are built, and which one the frames of each image are coded against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diffreplay.codecs import Codec
from diffreplay.store.arena import trim_heap
from diffreplay.store.budget import Budget
from diffreplay.store.coding import Coding
from diffreplay.store.reader import FrameReader
from diffreplay.store.rows import RowWriter
from diffreplay.store.sets import SetWriter
from diffreplay.store.source import ImageSource


class SetPlanning:
    """Asks the planner of each image, and builds the sets that it chooses.

    Args:
        codec: how frames are coded.
        codings, sets: of each image.
        rows: what is written.
        budget: tells whether there is memory for another set.
        make_room: evicts rows, until the cap leaves so many bytes.

    Attributes:
        planners: decide when a reference set of each image is built.
    """

    def __init__(
        self,
        codec: Codec,
        codings: Sequence[Coding],
        sets: Sequence[SetWriter],
        rows: RowWriter,
        budget: Budget,
        make_room: Callable[[int], None],
    ) -> None:
        self._codings, self._sets, self._rows, self._budget, self._make_room = codings, sets, rows, budget, make_room
        self.planners = [codec.planner(coding.image.frame_shape) for coding in codings]

    def change_codec(self, codec: Codec) -> None:
        """Have frames be coded by another codec of the same kind, as for another cap; planners are asked as before."""
        next_checks = [planner.next_check for planner in self.planners]
        for coding in self._codings:
            coding.codec = codec
        self.planners = [codec.planner(coding.image.frame_shape) for coding in self._codings]
        self.check_next(next_checks)

    def check_next(self, next_checks: Sequence[int]) -> None:
        """Have the planner of each image be asked next when so many rows are written."""
        for planner, next_check in zip(self.planners, next_checks, strict=True):
            planner.next_check = next_check

    def renew(self, store: FrameReader, image: int) -> None:
        """Ask the planner whether the rows so far make a better reference set of an image, and build it."""
        rows, coding, sets = self._rows, self._codings[image], self._sets[image]
        rows.touched = True
        frames = self.planners[image].choose(ImageSource(store, rows, self._budget, self._make_room, image))
        if frames is not None:
            data = frames.reshape(-1).data
            opened = coding.codec.open_set(data, coding.image.frame_shape)
            private = coding.codec.private_bytes(opened)
            room = not sets.is_full and rows.index.has_range(rows.next)
            if room and self._budget.allows_set(coding, private, len(data)):
                self._make_room(self._budget.set_bytes(coding, private, len(data)))
                sets.add(data, rows.next)
                self.code_against_newest(image, opened)
        trim_heap()

    def code_against_newest(self, image: int, opened: Any = None) -> None:
        """Code an image's frames against its newest set, where there is one; `opened` is that, if it is open."""
        sets = self._sets[image]
        if sets.numbers():
            sets.code_against_newest(self._codings[image].codec, opened)
            self._rows.slots[image] = sets.coding_slot
            self._budget.publish()
