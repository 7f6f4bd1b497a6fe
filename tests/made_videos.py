"""LeRobot's datasets and videos as their writers lay them out."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FPS, HEIGHT, WIDTH = 10, 48, 64
TASKS = ["push it", "lift it"]
CAMERA = "observation.images.top"


def write_video(
    path: Path, frames: int, seed: int = 0, codec: str = "libx264", size: tuple = (HEIGHT, WIDTH), **options
):
    """A video of a square that moves over noise."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={"g": "4"} | options)
        stream.height, stream.width = size
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        for t in range(frames):
            image[t % size[0], :] = rng.integers(0, 256, 3)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def decoded(path: Path) -> np.ndarray:
    """The frames of a video as PyAV decodes them."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def columns(number: int, length: int, begin: int) -> dict[str, Any]:
    """The columns of an episode."""
    rng = np.random.default_rng(number)
    return {
        "observation.state": pa.array(list(rng.normal(size=(length, 3)).astype(np.float32)), pa.list_(pa.float32())),
        "action": pa.array(list(rng.normal(size=(length, 2)).astype(np.float32)), pa.list_(pa.float32(), 2)),
        "next.reward": pa.array(rng.random(length).astype(np.float32)),
        "next.done": pa.array(np.arange(length) == length - 1),
        "timestamp": pa.array((np.arange(length) / FPS).astype(np.float32)),
        "frame_index": pa.array(np.arange(length)),
        "episode_index": pa.array(np.full(length, number)),
        "index": pa.array(np.arange(begin, begin + length)),
        "task_index": pa.array(np.full(length, number % 2)),
    }


def features() -> dict[str, Any]:
    """What the metadata says of these."""
    dtypes = {"next.reward": "float32", "next.done": "bool", "timestamp": "float32"}
    return {
        CAMERA: {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        **{
            key: {"dtype": dtypes.get(key, "int64"), "shape": [1], "names": None}
            for key in (*dtypes, "frame_index", "episode_index", "index", "task_index")
        },
    }


def _info(version: str, lengths: list[int], **more: Any) -> dict[str, Any]:
    counts = {"total_episodes": len(lengths), "total_frames": sum(lengths), "total_tasks": 2, "chunks_size": 1000}
    return {"codebase_version": version, "robot_type": "a", "fps": FPS, "features": features(), **counts, **more}


def _lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def lerobot_v2(root: Path, lengths: list[int], **options: Any) -> Path:
    """A dataset of layout v2.1."""
    (root / "meta").mkdir(parents=True)
    (root / "data" / "chunk-000").mkdir(parents=True)
    places = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (root / "meta" / "info.json").write_text(json.dumps(_info("v2.1", lengths, **places)))
    _lines(root / "meta" / "tasks.jsonl", [{"task_index": n, "task": task} for n, task in enumerate(TASKS)])
    _lines(
        root / "meta" / "episodes.jsonl",
        [{"episode_index": n, "tasks": [TASKS[n % 2]], "length": length} for n, length in enumerate(lengths)],
    )
    for n, length in enumerate(lengths):
        table = pa.table(columns(n, length, sum(lengths[:n])))
        pq.write_table(table, root / f"data/chunk-000/episode_{n:06d}.parquet")
        write_video(root / f"videos/chunk-000/{CAMERA}/episode_{n:06d}.mp4", length, seed=n, **options)
    return root


def lerobot_v3(root: Path, lengths: list[int], rows_in_group: int = 5) -> Path:
    """A dataset of layout v3.0, all in one file each."""
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (root / "data" / "chunk-000").mkdir(parents=True)
    places = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (root / "meta" / "info.json").write_text(json.dumps(_info("v3.0", lengths, **places)))
    pq.write_table(pa.table({"task_index": [0, 1], "__index_level_0__": TASKS}), root / "meta" / "tasks.parquet")
    ends = np.cumsum(lengths)
    begins = ends - lengths
    listed = {
        "episode_index": np.arange(len(lengths)),
        "tasks": [[TASKS[n % 2]] for n in range(len(lengths))],
        "length": lengths,
        "data/chunk_index": [0] * len(lengths),
        "data/file_index": [0] * len(lengths),
        "dataset_from_index": begins,
        "dataset_to_index": ends,
        f"videos/{CAMERA}/chunk_index": [0] * len(lengths),
        f"videos/{CAMERA}/file_index": [0] * len(lengths),
        f"videos/{CAMERA}/from_timestamp": begins / FPS,
        f"videos/{CAMERA}/to_timestamp": ends / FPS,
    }
    pq.write_table(pa.table(listed), root / "meta/episodes/chunk-000/file-000.parquet")
    rows = pa.concat_tables(pa.table(columns(n, length, begins[n])) for n, length in enumerate(lengths))
    pq.write_table(rows, root / "data/chunk-000/file-000.parquet", row_group_size=rows_in_group)
    write_video(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", sum(lengths))
    return root
