"""What a buffer holds and takes."""

from __future__ import annotations

from dataclasses import dataclass, fields


def in_bytes(nbytes: float) -> str:
    """A number of bytes for people to read."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes:.0f} bytes"


@dataclass(frozen=True, repr=False)
class ReplayStats:
    """Counts and bytes of a replay buffer at one moment.

    Attributes:
        transitions: transitions held; an episode of T steps holds T - 1.
        frames: frames stored, those that a damaged snapshot lost included until they leave.
        payload_bytes: coded frames.
        index_bytes: what finds them: place, stacking and episode of each frame.
        reference_bytes: shared reference frames.
        scalar_bytes: actions, rewards and discounts.
        total_bytes: all memory that the buffer allocated, slack and the writer's own copies included.
        column_bytes: parts of observations that are no images.
        stacked_bytes: the same transitions as plain stacks: transitions times bytes of an observation.
        observation_bytes: coded frames, index, reference frames and columns together.
        compression_ratio: stacked_bytes / observation_bytes; 0 while the buffer is empty.

    Examples:
        >>> stats = replay.stats()
        >>> stats.transitions, stats.stacked_bytes
        (100, 76800)
    """

    transitions: int
    frames: int
    payload_bytes: int
    index_bytes: int
    reference_bytes: int
    scalar_bytes: int
    total_bytes: int
    stacked_bytes: int
    column_bytes: int = 0

    def __repr__(self) -> str:
        told = [f"{field.name}={getattr(self, field.name)}" for field in fields(self)]
        return f"ReplayStats({', '.join(told)}, compression_ratio={self.compression_ratio:.1f})"

    @property
    def observation_bytes(self) -> int:
        """Bytes that the observations take, coded."""
        return self.payload_bytes + self.index_bytes + self.reference_bytes + self.column_bytes

    @property
    def compression_ratio(self) -> float:
        """How many times smaller the observations are than as plain stacks."""
        return self.stacked_bytes / self.observation_bytes if self.observation_bytes else 0.0

    @property
    def summary(self) -> str:
        """What the observations take, and the ratio of these bytes to plain stacks; then what all of it takes."""
        return (
            f"observations {in_bytes(self.observation_bytes)}, {self.compression_ratio:.1f}x smaller than stacks; "
            f"{in_bytes(self.total_bytes)} in all"
        )

    def forecast(self, capacity: int, earlier: ReplayStats | None = None) -> int:
        """What `total_bytes` will be once the buffer holds `capacity` transitions.

        Each further transition is taken to add what those since `earlier` did, or all that are held. Reference frames
        count once, with those that there are now: later ones are chosen only where they save more than they take.

        Args:
            capacity: transitions.
            earlier: what the same buffer told before; where it held as many transitions or more, it is left out. A
                buffer of Stable-Baselines3 has arrays of its full length from the start: give what it told then.

        Returns:
            Bytes; `total_bytes` where it holds as many already, or none.
        """
        transitions, nbytes = self.transitions, self._spread_bytes
        if earlier is not None and earlier.transitions < transitions:
            transitions, nbytes = transitions - earlier.transitions, nbytes - earlier._spread_bytes
        further = max(capacity - self.transitions, 0) if transitions else 0
        return self.total_bytes + max(nbytes, 0) * further // max(transitions, 1)

    @property
    def _spread_bytes(self) -> int:
        """Bytes that grow with each transition."""
        return self.payload_bytes + self.index_bytes + self.column_bytes + self.scalar_bytes
