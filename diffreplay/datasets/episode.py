"""What goes from a source of episodes to a target: an episode, and what is said of all of them beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from diffreplay.parts import ArraySpec

Arrays = NDArray[Any] | dict[str, NDArray[Any]]
REWARD = ArraySpec((), "float32")


@dataclass(frozen=True)
class Description:
    """What the episodes of a source are.

    Attributes:
        observations: what one step's observation is, of a single frame: a spec, or one for each name.
        action: what one action is.
        frame_stack: frames in an observation of the buffer; at an episode's beginning the first one is repeated.
        reward: what a reward is. One that is not float32 is kept exactly beside it, as `extras["exact_reward"]`.
        extras: further values of each step, by name.
        final_observation: whether an episode has the observation after its last action. Where it has not, the last
            one that it has stands there again in the buffer, and is left out on the way back.
        episodes: how many there are; None where nobody knows yet.
        steps: actions in all of them together; None where nobody knows yet.
        attributes: what is said of all of them, as JSON holds it; kept for the way back.
        warnings: a sentence for each thing that is lossy in the source already, or that a target does not keep.
        fingerprint: what tells this source from one that was changed meanwhile, such as sizes of its files.

    Examples:
        >>> camera, action = diffreplay.ArraySpec((3, 16, 16)), diffreplay.ArraySpec((2,), "float32")
        >>> diffreplay.datasets.Description(camera, action, frame_stack=3).parts
        {'': ArraySpec(shape=(3, 16, 16), dtype='|u1', layout='CHW')}
    """

    observations: ArraySpec | Mapping[str, ArraySpec]
    action: ArraySpec
    frame_stack: int = 1
    reward: ArraySpec = REWARD
    extras: Mapping[str, ArraySpec] = field(default_factory=dict)
    final_observation: bool = True
    episodes: int | None = None
    steps: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""

    @property
    def parts(self) -> dict[str, ArraySpec]:
        """The specs of observations by name; "" for the only one that has none."""
        return dict(self.observations) if isinstance(self.observations, Mapping) else {"": self.observations}


@dataclass
class Episode:
    """An episode of T actions, or a piece of a long one.

    Step t has the observation in which action t was taken, what the action gave, and whether it ended the episode.

    Attributes:
        observations: (T + 1, ...) single frames, or for each name; (T, ...) without a final observation, and in a piece
            after which the episode goes on, as the next piece begins with the observation that follows.
        actions: (T, ...).
        rewards: (T,).
        terminated: the last action ended the episode for good.
        truncated: it was cut off there. Where neither is set it counts as that.
        discounts: (T,) float32; None for 1, but 0 where it terminated.
        extras: (T, ...) for each name.
        stacked: `observations` are whole observations of `frame_stack` frames instead, as the frames of one are not
            those of the one before.
        name: of the episode in its source; messages name it.
        attributes: what is said of this episode, as JSON holds it; kept for the way back.
        begins: it is the first piece of its episode.
        ends: it is the last piece of its episode.

    Examples:
        >>> frames, actions = np.zeros((11, 3, 16, 16), np.uint8), np.zeros((10, 2), np.float32)
        >>> episode = diffreplay.datasets.Episode(frames, actions, np.zeros(10, np.float32), terminated=True)
        >>> len(episode.actions), episode.parts[""].shape
        (10, (11, 3, 16, 16))
    """

    observations: Arrays
    actions: NDArray[Any]
    rewards: NDArray[Any]
    terminated: bool = False
    truncated: bool = False
    discounts: NDArray[Any] | None = None
    extras: dict[str, NDArray[Any]] = field(default_factory=dict)
    stacked: bool = False
    name: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    begins: bool = True
    ends: bool = True

    @property
    def parts(self) -> dict[str, NDArray[Any]]:
        """The observations by name; "" for the only ones that have none."""
        return self.observations if isinstance(self.observations, dict) else {"": self.observations}


class Source(Protocol):
    """Gives episodes, one after the other, in an order that is always the same.

    Attributes:
        format: its name, as `--from` takes it.
        description: what the episodes are. All that can be checked without reading them whole was.

    Examples:
        >>> class Still:
        ...     format = "still"
        ...     description = diffreplay.datasets.Description(
        ...         diffreplay.ArraySpec((3, 16, 16)), diffreplay.ArraySpec((2,), "float32"), steps=30
        ...     )
        ...
        ...     def episodes(self, start=0):
        ...         for _ in range(start, 3):
        ...             actions, rewards = np.zeros((10, 2), np.float32), np.zeros(10, np.float32)
        ...             yield diffreplay.datasets.Episode(np.zeros((11, 3, 16, 16), np.uint8), actions, rewards)
        >>> source: diffreplay.datasets.Source = Still()
        >>> diffreplay.datasets.convert(source, "still").episodes
        3
    """

    format: str
    description: Description

    def episodes(self, start: int = 0) -> Iterator[Episode]:
        """The episodes from number `start` on, of long ones the pieces in order.

        Raises:
            ReplayError: names what is damaged, in a sentence.
        """


class Target(Protocol):
    """Takes episodes, one after the other.

    Examples:
        >>> class Counting:
        ...     done = 0
        ...
        ...     def write(self, episode):
        ...         self.done += episode.ends
        ...
        ...     def finish(self): ...
        ...     def close(self): ...
        >>> target: diffreplay.datasets.Target = Counting()
    """

    @property
    def done(self) -> int:
        """Episodes that are there already, where a conversion goes on."""

    def write(self, episode: Episode) -> None:
        """Take an episode, or its next piece; it was checked."""

    def finish(self) -> None:
        """Write what is left and close the files: the conversion is complete."""

    def close(self) -> None:
        """Let go of what is open, complete or not."""
