"""What the files in `meta` of a LeRobot dataset say: its features, and where the rows and videos of each episode lie.

Layouts v2.x have a Parquet file and videos for each episode; v3.0 has several episodes in a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from diffreplay.datasets import parquet
from diffreplay.datasets.needs import reason
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots import open_regular

INFO = "meta/info.json"
MOST_METADATA = 1 << 28  # bytes
MOST_EPISODES = 1 << 22
LONGEST = 1 << 40  # rows of an episode
FIELD = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")  # of a path, such as {episode_index:06d}


class Span(NamedTuple):
    """Where the frames of an episode lie in a video."""

    path: Path
    begin: float | None  # seconds; None where the whole file is the episode's
    end: float | None


class EpisodeFiles(NamedTuple):
    """Where an episode lies."""

    number: int
    length: int
    tasks: list[str]
    rows: Path
    first: int  # row of that file
    videos: dict[str, Span]


def is_dataset(path: Path) -> bool:
    """Whether it is a folder with the metadata of such a dataset."""
    return (path / INFO).exists()


def read_info(root: Path) -> dict[str, Any]:
    """What `meta/info.json` says.

    Raises:
        CorruptDataError: it makes no sense, or is of another layout.
    """
    path = root / INFO
    info = next(iter(_lines(path, whole=True)))
    version = info.get("codebase_version")
    if not isinstance(version, str) or not re.fullmatch(r"v[23]\.\d+(\.\d+)?", version):
        raise CorruptDataError(f"{path}: expected a codebase_version of v2.0, v2.1 or v3.0, got {version!r:.60}")
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(each, dict) for each in features.values()):
        raise CorruptDataError(f"{path}: expected features by their names, got {features!r:.60}")
    fps = info.get("fps")
    if not isinstance(fps, int | float) or not 0 < fps < 1e6:
        raise CorruptDataError(f"{path}: expected fps, frames a second, got {fps!r:.60}")
    _count(path, info, "chunks_size", 1 << 40, 1000)
    return info


def _lines(path: Path, whole: bool = False) -> Iterator[dict[str, Any]]:
    """The objects of a JSON file, one a line, or the whole.

    Raises:
        CorruptDataError: it holds something else.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MOST_METADATA + 1)
        if len(data) > MOST_METADATA:
            raise ValueError(f"more than {MOST_METADATA} bytes")
        text = data.decode()
        found = [json.loads(each) for each in ([text] if whole else text.splitlines()) if each.strip()]
        if not found or not all(isinstance(each, dict) for each in found):
            raise ValueError(f"{found!r:.60}")
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptDataError(f"{path}: expected objects of JSON, got other data ({reason(error)})") from None
    yield from found


def _count(path: Path, values: dict[str, Any], key: str, most: int = LONGEST, default: Any = None) -> int:
    """A number of something.

    Raises:
        CorruptDataError: it is none, or absurd.
    """
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise CorruptDataError(f"{path}: expected {key} from 0 to {most}, got {value!r:.60}")
    return value


def _seconds(path: Path, values: dict[str, Any], key: str) -> float:
    value = values.get(key)
    if not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise CorruptDataError(f"{path}: expected {key} in seconds, got {value!r:.60}")
    return float(value)


def _place(root: Path, info: dict[str, Any], key: str, **values: Any) -> Path:
    """A file of the dataset, by the template of `info` that tells where it is.

    Raises:
        CorruptDataError: it makes no sense, or leads out of the dataset.
    """
    template = info.get(key)

    def put(match: re.Match[str]) -> str:
        value, width = values.get(match[1]), match[2]
        if value is None or (width and not isinstance(value, int)):
            raise CorruptDataError(f"{root / INFO}: {key}: expected {', '.join(values)} in braces, got {match[0]!r}")
        return f"{value:0{width}d}" if width else str(value)

    if not isinstance(template, str) or "{" in FIELD.sub("", template):
        raise CorruptDataError(
            f"{root / INFO}: expected {key}, a path such as data/{{episode_index:06d}}, got {template!r:.99}"
        )
    found = PurePosixPath(FIELD.sub(put, template))
    if found.is_absolute() or ".." in found.parts or "\0" in str(found) or not found.parts:
        raise CorruptDataError(f"{root / INFO}: {key}: expected a path in the dataset, got {str(found)!r:.99}")
    return root / found


def video_keys(info: dict[str, Any]) -> list[str]:
    """The features that are videos."""
    return [key for key, each in info["features"].items() if each.get("dtype") == "video"]


def read_episodes(root: Path, info: dict[str, Any]) -> list[EpisodeFiles]:
    """Where each episode lies, in the order of their numbers.

    Raises:
        CorruptDataError: the metadata makes no sense, or does not fit together.
    """
    found = list(_v2(root, info) if info["codebase_version"].startswith("v2") else _v3(root, info))
    total, frames = (info.get(key) for key in ("total_episodes", "total_frames"))
    got = len(found), sum(each.length for each in found)
    if not found or total != got[0] or frames != got[1]:
        expected = f"{total!r:.30} episodes and {frames!r:.30} frames, as total_episodes and total_frames say"
        raise CorruptDataError(f"{root / INFO}: expected {expected}, got {got[0]} and {got[1]}")
    for number, each in enumerate(found):
        if each.number != number:
            raise CorruptDataError(f"{root / 'meta'}: expected episode {number} next, got {each.number}")
    return found


def _checked(path: Path, line: dict[str, Any]) -> tuple[int, int, list[str]]:
    number, length = _count(path, line, "episode_index", MOST_EPISODES), _count(path, line, "length")
    if not length:
        raise CorruptDataError(f"{path}: episode {number}: expected at least one row, got a length of 0")
    tasks = line.get("tasks") or []
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise CorruptDataError(f"{path}: episode {number}: expected tasks, a list of texts, got {tasks!r:.60}")
    return number, length, tasks


def _v2(root: Path, info: dict[str, Any]) -> Iterator[EpisodeFiles]:
    path, keys = root / "meta" / "episodes.jsonl", video_keys(info)
    for line in _lines(path):
        number, length, tasks = _checked(path, line)
        values = {
            "episode_chunk": number // max(1, info.get("chunks_size", 1000)),
            "episode_index": number,
            "total_episodes": info.get("total_episodes"),
        }
        videos = {key: Span(_place(root, info, "video_path", **values, video_key=key), None, None) for key in keys}
        yield EpisodeFiles(number, length, tasks, _place(root, info, "data_path", **values), 0, videos)


def _v3(root: Path, info: dict[str, Any]) -> Iterator[EpisodeFiles]:
    keys = video_keys(info)
    rows: dict[Path, int] = {}  # of each file, those that are taken
    columns = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
    fields = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    columns += [f"videos/{key}/{field}" for key in keys for field in fields]
    for path in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        for line in parquet.table(path, columns, MOST_EPISODES):
            number, length, tasks = _checked(path, line)
            data = _at(root, info, path, line, "data")
            videos = {
                key: Span(
                    _at(root, info, path, line, f"videos/{key}", video_key=key),
                    _seconds(path, line, f"videos/{key}/from_timestamp"),
                    _seconds(path, line, f"videos/{key}/to_timestamp"),
                )
                for key in keys
            }
            first = rows.get(data, 0)
            rows[data] = first + length
            yield EpisodeFiles(number, length, tasks, data, first, videos)


def _at(root: Path, info: dict[str, Any], path: Path, line: dict[str, Any], what: str, **values: Any) -> Path:
    key = "data_path" if what == "data" else "video_path"
    indices = {
        name: _count(path, line | {name: line[f"{what}/{name}"]}, name) for name in ("chunk_index", "file_index")
    }
    return _place(root, info, key, **indices, **values)


def read_tasks(root: Path, info: dict[str, Any]) -> dict[int, str]:
    """The texts of tasks, by their numbers; none where the dataset has no such file.

    Raises:
        CorruptDataError: they make no sense.
    """
    path = root / "meta" / ("tasks.jsonl" if info["codebase_version"].startswith("v2") else "tasks.parquet")
    if not path.exists():
        return {}
    lines = list(_lines(path)) if path.suffix == ".jsonl" else _task_table(path)
    for line in lines:
        if not isinstance(line.get("task"), str):
            raise CorruptDataError(f"{path}: expected a text for each task, got {line.get('task')!r:.60}")
    return {_count(path, line, "task_index"): line["task"] for line in lines}


def _task_table(path: Path) -> list[dict[str, Any]]:
    """The table of tasks, whose texts are pandas' index, which may have no name."""
    with parquet.opened(path) as file:
        names = file.schema_arrow.names
    text = next((name for name in ("task", "__index_level_0__") if name in names), "task")
    return [
        {"task": row[text], "task_index": row["task_index"]}
        for row in parquet.table(path, [text, "task_index"], MOST_EPISODES)
    ]
