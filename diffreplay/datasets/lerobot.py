"""LeRobot's datasets: columns of numbers in Parquet files, cameras in video files. They are read, not written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets import lerobot_columns, parquet, video, zarr_files
from diffreplay.datasets.episode import REWARD, Description, Episode
from diffreplay.datasets.lerobot_columns import ACTION, DONE, NEXT_REWARD, OBSERVED, SINGLE, TRUNCATED
from diffreplay.datasets.lerobot_files import INFO, EpisodeFiles, Span, read_episodes, read_info, read_tasks, video_keys
from diffreplay.datasets.specs import observation_spec, value_spec
from diffreplay.datasets.video import Frames, Video
from diffreplay.errors import CorruptDataError
from diffreplay.parts import ArraySpec

PIECE_BYTES = 32 << 20


class LeRobotEpisodes:
    """The episodes of a dataset, in the order of their numbers.

    Videos and columns `observation*` are observed; `action` and `next.reward` are what they say, without the latter
    rewards are zeros; all other numbers are extras. Where `next.done` is set the discount is 0, unless `next.truncated`
    is, too. What PyAV decodes of videos as rgb24 is kept as it is, and a warning says what is lossy.

    Args:
        path: of the dataset's folder.
        frame_stack: frames in an observation of the buffer; None for 1.

    Raises:
        CorruptDataError: it is damaged, or not laid out so; the message names the file.
        ReplayError: PyAV or pyarrow is not installed.
    """

    format = "lerobot"

    def __init__(self, path: Path, frame_stack: int | None = None) -> None:
        self._path = path
        zarr_files.check_files(path)
        self._info = read_info(path)
        self._tasks, self._episodes = read_tasks(path, self._info), read_episodes(path, self._info)
        self._kinds, self._images, self._left_out = lerobot_columns.find(path, self._info, self._episodes[0].rows)
        ends = Counter[Path]()
        for each in self._episodes:
            ends[each.rows] += each.length
        for file, rows in ends.items():
            lerobot_columns.check(file, self._kinds, self._images, rows)
        self._sizes = {key: self._image_size(key) for key in (*video_keys(self._info), *self._images)}
        self._videos: dict[Path, Video] = {}
        for episode in self._episodes:
            for key, span in episode.videos.items():
                self._check_video(key, span, episode)
        self._row_bytes = sum(dtype.itemsize * math.prod(shape) for dtype, shape in self._kinds.values())
        self._row_bytes += sum(3 * height * width for height, width in self._sizes.values())
        self.description = self._describe(frame_stack or 1)

    def _image_size(self, key: str) -> tuple[int, int]:
        """Height and width of a camera."""
        feature = self._info["features"][key]
        shape, names = feature.get("shape"), feature.get("names")
        if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
            raise CorruptDataError(f"{self._path / INFO}: {key}: expected a shape of 3 numbers, got {shape!r:.60}")
        first = str(names[0]).startswith("c") if isinstance(names, list) and len(names) == 3 else shape[2] > 4
        return (shape[1], shape[2]) if first else (shape[0], shape[1])

    def _check_video(self, key: str, span: Span, episode: EpisodeFiles) -> None:
        """Refuse a video of another size or number of frames than is expected, as far as its file tells."""
        path, (height, width) = span.path, self._sizes[key]
        if path not in self._videos:
            self._videos[path] = video.look(path)
        its = self._videos[path]
        if (its.height, its.width) != (height, width):
            raise CorruptDataError(
                f"{path}: expected {width}x{height} pixels, as {INFO} says, got {its.width}x{its.height}"
            )
        if span.begin is None or span.end is None:
            if its.frames and its.frames != episode.length:
                raise CorruptDataError(f"{path}: expected {episode.length} frames, as the rows are, got {its.frames}")
        elif abs((span.end - span.begin) * self._info["fps"] - episode.length) > 0.5:
            told = f"{span.begin} to {span.end} s"
            raise CorruptDataError(f"{path}: episode {episode.number}: expected {episode.length} frames, got {told}")

    def _describe(self, frame_stack: int) -> Description:
        kinds, where = self._kinds, f"{self._path}: "
        observations = {key: ArraySpec((*size, 3), layout="HWC") for key, size in self._sizes.items()}
        self._shown = [key for key in kinds if key.startswith(OBSERVED)]
        observations |= {key: observation_spec(where + key, kinds[key][1], kinds[key][0]) for key in self._shown}
        if not observations:
            raise CorruptDataError(f"{self._path / INFO}: expected features {OBSERVED}.*, got {sorted(kinds)!s:.200}")
        others = [key for key in kinds if key not in (*self._shown, ACTION, NEXT_REWARD)]
        extras = {key: value_spec(where + key, () if key in SINGLE else kinds[key][1], kinds[key][0]) for key in others}
        has_reward = NEXT_REWARD in kinds
        steps, nbytes = (
            sum(each.length for each in self._episodes),
            sum(file.stat().st_size for file in self._path.rglob("*") if file.is_file()),
        )
        return Description(
            observations,
            value_spec(where + ACTION, kinds[ACTION][1], kinds[ACTION][0]),
            frame_stack=frame_stack,
            reward=value_spec(where + NEXT_REWARD, (), kinds[NEXT_REWARD][0]) if has_reward else REWARD,
            extras=extras,
            final_observation=False,
            episodes=len(self._episodes),
            steps=steps,
            attributes={"lerobot": {"info": self._info, "tasks": {str(n): text for n, text in self._tasks.items()}}},
            warnings=tuple(self._warnings(has_reward)),
            fingerprint=f"{len(self._episodes)} episodes, {steps} steps, {nbytes} bytes",
        )

    def _warnings(self, has_reward: bool) -> Iterator[str]:
        if lossy := sorted({its.codec for its in self._videos.values() if its.is_lossy}):
            kept = "what is kept is what PyAV decodes as rgb24"
            yield f"{self._path}: videos are {', '.join(lossy)}, which is lossy: {kept}"
        if not has_reward:
            yield f"{self._path}: it has no column {NEXT_REWARD}: rewards are zeros"
        if self._left_out:
            yield f"{self._path}: {', '.join(self._left_out)[:200]}: left out, as they are not numbers of each step"

    def episodes(self, start: int = 0) -> Iterator[Episode]:
        """The episodes from number `start` on, of long ones the pieces in order."""
        size = max(1, PIECE_BYTES // max(1, self._row_bytes))
        for each in self._episodes[start:]:
            with parquet.opened(each.rows) as file, ExitStack() as stack:
                cameras = {key: stack.enter_context(closing(self._open(span))) for key, span in each.videos.items()}
                done = 0
                for batch in parquet.batches(file, [*self._kinds, *self._images], each.first, each.length, size):
                    yield self._episode(each, cameras, batch, done)
                    done += batch.num_rows
            if done != each.length:
                raise CorruptDataError(f"{each.rows}: expected {each.length} rows, got {done}")

    def _open(self, span: Span) -> Frames:
        return Frames(span.path, self._videos[span.path], span.begin, 1 / self._info["fps"])

    def _episode(self, each: EpisodeFiles, cameras: dict[str, Frames], batch: Any, first: int) -> Episode:
        """The rows of a batch, of which the first one is number `first` of its episode."""
        count, columns = batch.num_rows, dict(zip(batch.schema.names, batch.columns, strict=True))
        found = {
            key: parquet.numbers(f"{each.rows}: {key}", columns[key], shape) for key, (_, shape) in self._kinds.items()
        }
        self._check_places(each, found, first, count)
        ends = first + count == each.length
        shown = self._frames(each, cameras, first, count) | {key: found[key] for key in self._shown}
        for key in self._images:
            shown[key] = lerobot_columns.images(f"{each.rows}: {key}", columns[key], self._sizes[key])
        single = {key: found[key].reshape(count) for key in SINGLE if key in found}
        found |= single
        terminated = single.get(DONE, np.zeros(count, bool)).astype(bool)
        terminated &= ~single.get(TRUNCATED, np.zeros(count, bool)).astype(bool)
        return Episode(
            shown,
            found[ACTION],
            found.get(NEXT_REWARD, np.zeros(count, np.float32)),
            terminated=ends and bool(terminated[-1]),
            truncated=ends and not terminated[-1],
            discounts=1 - terminated.astype(np.float32),
            extras={key: found[key] for key in self.description.extras},
            name=f"episode {each.number}",
            attributes={"tasks": each.tasks} if each.tasks else {},
            begins=first == 0,
            ends=ends,
        )

    def _frames(
        self, each: EpisodeFiles, cameras: dict[str, Frames], first: int, count: int
    ) -> dict[str, NDArray[Any]]:
        """The next frames of each camera.

        Raises:
            CorruptDataError: there are fewer, or more than rows of the episode.
        """
        shown: dict[str, NDArray[Any]] = {}
        for key, camera in cameras.items():
            frames = shown[key] = camera.take(count)
            got: int | str = first + len(frames)
            if got == each.length and each.videos[key].begin is None and len(camera.take(1)):
                got = "more"
            if got != first + count:
                expected = f"{each.length} frames of episode {each.number}, as there are rows"
                raise CorruptDataError(f"{each.videos[key].path}: expected {expected}, got {got}")
        return shown

    def _check_places(self, each: EpisodeFiles, found: dict[str, NDArray[Any]], first: int, count: int) -> None:
        """Refuse rows that are of another episode, or not in order."""
        expected = {"episode_index": np.full(count, each.number), "frame_index": np.arange(first, first + count)}
        for key, values in expected.items():
            if key in found and not np.array_equal(found[key].reshape(-1), values):
                row = int(np.flatnonzero(found[key].reshape(-1) != values)[0])
                got = found[key].reshape(-1)[row]
                raise CorruptDataError(
                    f"{each.rows}: row {each.first + first + row}: expected {key} {values[row]}, got {got}"
                )
