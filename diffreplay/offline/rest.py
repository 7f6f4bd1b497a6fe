"""What is left of a snapshot of which some is damaged."""

from __future__ import annotations

import numpy as np

from diffreplay.errors import CorruptDataError
from diffreplay.offline.frames import MappedFrames
from diffreplay.offline.index import slot_column
from diffreplay.snapshots import gone_rows
from diffreplay.store import NO_SET, Counter, count_transitions, cut_out, fence, mark_ends


class RestOfFrames(MappedFrames):
    """Rows of a snapshot as if there had never been those that are damaged, or that need what is.

    All checksums are compared at once. What is damaged stands in `files.damage` afterwards. The index is whole then, so
    that other processes read by it.
    """

    def leave_out_damaged(self) -> None:
        """Have all rows in the index that are not damaged; once, before anything is asked."""
        files, manifest = self.files, self.files.manifest
        lost_sets = [self._check_sets(image) for image in range(len(manifest.sets))]
        lost_rows = []
        for number, entry in enumerate(manifest.segments):
            try:
                if entry.name not in files.damage:
                    self._take(number)
            except CorruptDataError as error:
                files.damage[entry.name] = str(error)
            if entry.name in files.damage:  # where nothing was written, all is 0: rows that end where they begin
                lost_rows.append((entry.first, entry.end))
                for image in range(len(manifest.sets)):
                    self.index.put(slot_column(image), np.arange(entry.first, entry.end), NO_SET)
            files.page_out()
        self._whole = True
        if files.damage:
            cut_out(self, self.bounds()[0], gone_rows(self, lost_rows, lost_sets))
            self._count()
        if self._going_on is not None:
            count_transitions(self)
            mark_ends(self, self._going_on)
        fence()
        self._ready[:] = 1

    def _check_sets(self, image: int) -> list[int]:
        """Compare the checksums of an image's reference sets; the numbers of those that are damaged."""
        damage, lost = self.files.damage, []
        for entry in self.files.manifest.sets[image]:
            try:
                if entry.name not in damage:
                    self.files.checked(entry)
            except CorruptDataError as error:
                damage[entry.name] = str(error)
            if entry.name in damage:
                lost.append(entry.first)
            self._checked.add((image, entry.first))  # what is coded against a damaged one is taken out
            self.files.page_out()
        return lost

    def _count(self) -> None:
        """What the manifest tells is of more than there is."""
        counters, damage, manifest = self.memory.counters, self.files.damage, self.files.manifest
        self._held = None
        count_transitions(self)
        counters[Counter.PAYLOAD_BYTES] = int(self.lengths(np.arange(*self.bounds())).sum())
        sets = [entry for its in manifest.sets for entry in its]
        for which, entries in ((Counter.REFERENCE_BYTES, sets), (Counter.ALLOCATED_BYTES, manifest.files())):
            counters[which] = sum(entry.nbytes for entry in entries if entry.name not in damage)
