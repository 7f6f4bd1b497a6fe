"""LeRobot's datasets and plain videos: what they hold becomes a snapshot, and what is wrong a sentence."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_videos import CAMERA, HEIGHT, TASKS, WIDTH, columns, decoded, features, lerobot_v2, lerobot_v3, write_video
from PIL import Image
from says import says

import diffreplay
from diffreplay.datasets import convert, open_source
from diffreplay.errors import CorruptDataError, InputError, ReplayError

pytestmark = pytest.mark.filterwarnings("ignore:.*is lossy", "ignore:.*they are zeros", "ignore:no episode has")

LENGTHS = [9, 6, 12]
LAYOUTS = {"v2": lerobot_v2, "v3": lerobot_v3}
KEPT = ["timestamp", "frame_index", "episode_index", "index", "task_index", "next.done"]


def png(frame, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(frame).save(file, kind)
    return file.getvalue()


def frames_of(root: Path, number: int) -> np.ndarray:
    """The frames of an episode as PyAV decodes them."""
    if (root / "meta" / "episodes").exists():
        begin = sum(LENGTHS[:number])
        return decoded(root / f"videos/{CAMERA}/chunk-000/file-000.mp4")[begin : begin + LENGTHS[number]]
    return decoded(root / f"videos/chunk-000/{CAMERA}/episode_{number:06d}.mp4")


def whole(source, start=0):
    """The episodes of a source, pieces put together: dicts of arrays."""
    found = []
    for piece in source.episodes(start):
        arrays = piece.parts | piece.extras | {"action": piece.actions, "next.reward": piece.rewards}
        arrays |= {"discount": piece.discounts} if piece.discounts is not None else {}
        if piece.begins:
            found.append({key: [] for key in arrays})
        for key, values in arrays.items():
            found[-1][key].append(values)
    return [{key: np.concatenate(values) for key, values in each.items()} for each in found]


def check_whole(root, episodes, start=0):
    for number, episode in enumerate(episodes, start):
        frames = frames_of(root, number)
        assert np.array_equal(episode[CAMERA], frames) and episode[CAMERA].dtype == np.uint8
        stored = columns(number, LENGTHS[number], sum(LENGTHS[:number]))
        for key in ("observation.state", "action", "next.reward", *KEPT):
            expected = np.array(stored[key].to_pylist())
            assert np.array_equal(episode[key], expected.astype(episode[key].dtype)), key
            assert episode[key].dtype == features()[key]["dtype"], key
        assert episode["discount"].tolist() == [1] * (LENGTHS[number] - 1) + [0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("piece", [None, 30_000, 1])
def test_episodes_are_what_the_files_hold(tmp_path, monkeypatch, layout, piece):
    if piece:
        monkeypatch.setattr("diffreplay.datasets.lerobot.PIECE_BYTES", piece)
    root = LAYOUTS[layout](tmp_path / "set", LENGTHS)
    source = open_source(root)
    assert source.format == "lerobot" and source.description.episodes == 3 and source.description.steps == 27
    assert sorted(source.description.extras) == sorted(KEPT)
    check_whole(root, whole(source))
    check_whole(root, whole(source, 2), 2)
    if piece == 1:
        assert sum(1 for _ in source.episodes()) == 27


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_snapshot_holds_all_of_it(tmp_path, layout):
    root = LAYOUTS[layout](tmp_path / "set", LENGTHS)
    with pytest.warns(UserWarning, match="videos are h264, which is lossy: what is kept is what PyAV decodes") as told:
        assert convert(root, tmp_path / "snapshot").steps == 27
    assert sum("lossy" in str(each.message) for each in told) == 1
    check_whole(root, whole(open_source(tmp_path / "snapshot")))
    batch, frames = diffreplay.open(tmp_path / "snapshot").sample(100), [frames_of(root, number) for number in range(3)]
    for k, place in enumerate(batch.extras["index"].tolist()):
        number = int(batch.extras["episode_index"][k])
        t = place - sum(LENGTHS[:number])
        assert np.array_equal(batch.obs[CAMERA][k], frames[number][t])
        assert (batch.discount[k].item() == 0) == (t == LENGTHS[number] - 1)
    lines = [json.loads(line) for line in (tmp_path / "snapshot" / "dataset.jsonl").read_text().splitlines()]
    kept = lines[0]["description"]["attributes"]["lerobot"]
    assert kept["tasks"] == dict(zip("01", TASKS, strict=True)) and kept["info"]["robot_type"] == "a"
    assert [line["attributes"]["tasks"] for line in lines[1:]] == [[TASKS[n % 2]] for n in range(3)]


def test_several_cameras_each_of_its_size(tmp_path, monkeypatch):
    root, second = lerobot_v2(tmp_path / "set", LENGTHS), "observation.images.wrist"
    for number, length in enumerate(LENGTHS):
        path = root / f"videos/chunk-000/{second}/episode_{number:06d}.mp4"
        write_video(path, length, seed=9, codec="mpeg4", size=(32, 80))
    seen = {"dtype": "video", "shape": [3, 32, 80], "names": ["channels", "height", "width"]}
    rewrite_info(root, lambda info: info["features"].update({second: seen}))
    monkeypatch.setattr("diffreplay.datasets.lerobot.PIECE_BYTES", 100_000)
    source = open_source(root)
    assert "h264, mpeg4, which is lossy" in source.description.warnings[0]
    found = whole(source)
    check_whole(root, found)
    for number in range(3):
        assert np.array_equal(
            found[number][second], decoded(root / f"videos/chunk-000/{second}/episode_{number:06d}.mp4")
        )


def with_images(root, frames, key="observation.images.png"):
    """Add a column of images that are PNG files, as LeRobot keeps them without videos."""
    for number, shown in enumerate(frames):

        def change(names, shown=shown):
            names[key] = pa.array([{"bytes": png(frame), "path": f"{t}.png"} for t, frame in enumerate(shown)])

        rewrite_rows(root, change, number)
    seen = {"dtype": "image", "shape": [24, 20, 3], "names": ["height", "width", "channel"]}
    rewrite_info(root, lambda info: info["features"].update({key: seen}))
    return root


def test_images_in_the_rows(tmp_path, monkeypatch):
    frames = [np.random.default_rng(n).integers(0, 256, (n, 24, 20, 3), np.uint8) for n in LENGTHS]
    root = with_images(lerobot_v2(tmp_path / "set", LENGTHS), frames)
    monkeypatch.setattr("diffreplay.datasets.lerobot.PIECE_BYTES", 50_000)
    found = whole(open_source(root))
    check_whole(root, found)
    assert all(np.array_equal(each["observation.images.png"], its) for each, its in zip(found, frames, strict=True))


IMAGES = {
    "a smaller one": png(np.zeros((8, 8, 3), np.uint8)),
    "of one channel": png(np.zeros((24, 20), np.uint8)),
    "JPEG": png(np.zeros((24, 20, 3), np.uint8), "JPEG"),
    "nothing": None,
    "other data": b"abc",
    "cut short": png(np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8))[:-200],
}


@pytest.mark.parametrize("what", IMAGES)
def test_images_that_are_wrong_give_a_sentence(root, tmp_path, what):
    with_images(root, [np.zeros((n, 24, 20, 3), np.uint8) for n in LENGTHS])
    bad = pa.array([{"bytes": IMAGES[what], "path": ""}] * 6, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    rewrite_rows(root, lambda names: names.update({"observation.images.png": bad}))
    refuse(root, tmp_path / "snapshot", rows_file(root), "observation.images.png: expected", "got")


def test_frames_are_stacked(tmp_path):
    convert(lerobot_v2(tmp_path / "set", LENGTHS), tmp_path / "snapshot", frame_stack=3)
    batch = diffreplay.open(tmp_path / "snapshot").sample(8)
    assert batch.obs[CAMERA].shape == (8, HEIGHT, WIDTH, 9) and batch.obs["observation.state"].shape == (8, 9)


def test_nothing_can_be_written_as_it(tmp_path):
    convert(lerobot_v2(tmp_path / "set", [3]), tmp_path / "snapshot")
    for name in (None, "lerobot", "video"):
        with pytest.raises(InputError) as error:
            convert(tmp_path / "snapshot", tmp_path / "back", target_format=name)
        says(error, tmp_path / "back", "expected", "format that", "drqv2, minari, robomimic, zarr")
    convert(tmp_path / "snapshot", tmp_path / "back.zarr")
    check = open_source(tmp_path / "back.zarr").description
    assert check.steps == 3 and CAMERA in check.parts


def rewrite_rows(root, change, number=1):
    """Change the columns of an episode of layout v2: a dict of arrays."""
    path = root / f"data/chunk-000/episode_{number:06d}.parquet"
    table = pq.read_table(path)
    names = {name: table.column(name).combine_chunks() for name in table.column_names}
    change(names)
    pq.write_table(pa.table(names), path)


def rewrite_info(root, change):
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def test_columns_that_may_be_missing_or_more(tmp_path):
    root = lerobot_v2(tmp_path / "set", LENGTHS)

    def change(names):
        for key in ("next.reward", "next.done"):
            names.pop(key)
        count = len(names["index"])
        names |= {"note": pa.array(["x"] * count), "force": pa.array(np.ones((count, 2)).tolist())}
        names["next.success"] = pa.array(np.arange(count) % 2 == 0)

    for number in range(3):
        rewrite_rows(root, change, number)
    rewrite_info(root, lambda info: [info["features"].pop(key) for key in ("next.reward", "next.done")])
    source = open_source(root)
    first = whole(source)[0]
    assert not first["next.reward"].any() and (first["discount"] == 1).all() and first["force"].shape == (9, 2)
    assert first["next.success"].dtype == bool
    told = " ".join(source.description.warnings)
    assert "no column next.reward: rewards are zeros" in told and "note: left out" in told


def test_truncated_is_no_termination(tmp_path):
    root = lerobot_v2(tmp_path / "set", LENGTHS)
    for number in range(3):
        rewrite_rows(root, lambda names: names.update({"next.truncated": names["next.done"]}), number)
    assert all((each["discount"] == 1).all() for each in whole(open_source(root)))


# what is wrong


def refuse(source, target, *needles, error=CorruptDataError):
    """Converting is refused in one sentence, in little memory."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30), limits[1]))
    try:
        with pytest.raises(error) as refused:
            convert(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    says(refused, *needles)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600 and "Errno" not in str(refused.value)


def feature(key, **values):
    return lambda info: info["features"][key].update(values)


INFOS = {
    "no version": (lambda info: info.pop("codebase_version"), "codebase_version"),
    "another version": (lambda info: info.update(codebase_version="v9.1"), "codebase_version"),
    "no features": (lambda info: info.pop("features"), "features"),
    "features that are none": (lambda info: info.update(features={"action": 3}), "features"),
    "fps that are none": (lambda info: info.update(fps="fast"), "fps"),
    "more episodes": (lambda info: info.update(total_episodes=1 << 60), "total_episodes"),
    "more frames": (lambda info: info.update(total_frames=1 << 60), "total_frames"),
    "chunks of nothing": (lambda info: info.update(chunks_size=-1), "chunks_size"),
    "rows elsewhere": (lambda info: info.update(data_path="../../{episode_index}.parquet"), "path in the dataset"),
    "rows at the root": (lambda info: info.update(data_path="/etc/passwd"), "path in the dataset"),
    "videos elsewhere": (lambda info: info.update(video_path="videos/../../{video_key}.mp4"), "path in the dataset"),
    "a template that looks into Python": (
        lambda info: info.update(data_path="{episode_index.__class__}"),
        "data_path",
    ),
    "a template that is endless": (lambda info: info.update(data_path="{episode_index:0999999999d}"), "data_path"),
    "a template of other names": (lambda info: info.update(data_path="data/{what}"), "{what}"),
    "no template": (lambda info: info.pop("video_path"), "video_path"),
    "a camera whose name leads out": (
        lambda info: info["features"].update({"../../../x": info["features"].pop(CAMERA)}),
        "path in the dataset",
    ),
    "huge frames": (feature(CAMERA, shape=[1 << 40, 1 << 40, 3]), "pixels"),
    "a camera of no shape": (feature(CAMERA, shape="large"), "shape"),
    "smaller frames": (
        feature(CAMERA, shape=[24, 32, 3]),
        f"expected 32x24 pixels, as meta/info.json says, got {WIDTH}x{HEIGHT}",
    ),
    "longer rows": (feature("action", shape=[1 << 30]), "episode_000000.parquet: action: expected"),
    "rows of no shape": (feature("action", shape=[-2]), "action: expected a shape"),
    "rows of more axes": (feature("action", shape=[2, 1]), "action: expected"),
    "another dtype": (feature("action", dtype="float64"), "action: expected 'float64'"),
    "a column that is not there": (
        lambda info: info["features"].update({"observation.more": {"dtype": "float32", "shape": [1]}}),
        "expected a column 'observation.more'",
    ),
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return lerobot_v2(tmp_path_factory.mktemp("lerobot") / "set", LENGTHS)


@pytest.fixture
def root(pristine, tmp_path):
    subprocess.run(["cp", "-r", pristine, tmp_path / "set"], check=True)
    return tmp_path / "set"


@pytest.mark.parametrize("what", INFOS)
def test_metadata_that_is_wrong_gives_a_sentence(root, tmp_path, what):
    change, needle = INFOS[what]
    rewrite_info(root, change)
    refuse(root, tmp_path / "snapshot", root, "expected", "got", needle)
    assert not (tmp_path / "snapshot").exists()


LINES = {
    "no JSON": "{",
    "no object": "3",
    "nothing": "",
    "bytes": "\x00\x01",
    "an episode of no length": json.dumps({"episode_index": 0, "tasks": []}),
    "a length that is absurd": json.dumps({"episode_index": 0, "tasks": [], "length": 1 << 70}),
    "no rows": json.dumps({"episode_index": 0, "tasks": [], "length": 0}),
    "tasks that are none": json.dumps({"episode_index": 0, "tasks": 5, "length": 27}),
    "another number": json.dumps({"episode_index": 7, "tasks": [], "length": 27}),
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("what", LINES)
def test_a_list_of_episodes_that_is_wrong_gives_a_sentence(root, tmp_path, what):
    (root / "meta" / "episodes.jsonl").write_text(LINES[what])
    rewrite_info(root, lambda info: info.update(total_episodes=1))
    refuse(root, tmp_path / "snapshot", root / "meta", "expected", "got")
    assert not (tmp_path / "snapshot").exists()


def test_episodes_that_are_longer_than_their_rows(root, tmp_path):
    path = root / "meta" / "episodes.jsonl"
    path.write_text(path.read_text().replace('"length": 6', f'"length": {1 << 39}'))
    rewrite_info(root, lambda info: info.update(total_frames=21 + (1 << 39)))
    refuse(root, tmp_path / "snapshot", "episode_000001.parquet", f"expected {1 << 39} rows", "got 6")


def put(**values):
    return lambda names: names.update({key.replace("__", "."): value for key, value in values.items()})


ROWS = {
    "no action": (lambda names: names.pop("action"), "action"),
    "objects": (put(action=pa.array([{"x": 1}] * 6)), "action"),
    "images that are none": (put(observation__state=pa.array([{"bytes": b"x"}] * 6)), "observation.state"),
    "texts": (put(action=pa.array(["1"] * 6)), "action"),
    "nested": (put(action=pa.array([[[1.0, 2.0]]] * 6, pa.list_(pa.list_(pa.float32())))), "action"),
    "another dtype": (put(action=pa.array([[1.0, 2.0]] * 6)), "action"),
    "single numbers": (put(action=pa.array(np.zeros(6, np.float32))), "action"),
    "rows of other lengths": (
        put(action=pa.array([[1.0], [1.0, 2.0, 3.0]] + [[1.0, 2.0]] * 4, pa.list_(pa.float32()))),
        "action: expected rows of shape (2,), got one of length 1",
    ),
    "a row that is missing": (
        put(action=pa.array([[1.0, 2.0]] * 5 + [None], pa.list_(pa.float32()))),
        "action: expected",
    ),
    "a number that is missing": (
        put(observation__state=pa.array([[1.0, 2.0, None]] * 6, pa.list_(pa.float32()))),
        "observation.state: expected a number",
    ),
    "not finite": (put(action=pa.array([[np.nan, 2.0]] * 6, pa.list_(pa.float32()))), "finite actions"),
    "another episode": (put(episode_index=pa.array(np.zeros(6, np.int64))), "row 0: expected episode_index 1, got 0"),
    "another order": (put(frame_index=pa.array(np.arange(6)[::-1])), "row 0: expected frame_index 0, got 5"),
}


@pytest.mark.parametrize("what", ROWS)
def test_rows_that_are_wrong_give_a_sentence(root, tmp_path, what):
    change, needle = ROWS[what]
    rewrite_rows(root, change)
    refuse(root, tmp_path / "snapshot", root, "expected", needle, error=ReplayError)


def rows_file(root):
    return root / "data/chunk-000/episode_000001.parquet"


def video_file(root):
    return root / f"videos/chunk-000/{CAMERA}/episode_000001.mp4"


FILES = {
    "empty": lambda path, root: path.write_bytes(b""),
    "cut short": lambda path, root: path.write_bytes(path.read_bytes()[:-600]),
    "the beginning is missing": lambda path, root: path.write_bytes(path.read_bytes()[600:]),
    "of another kind": lambda path, root: path.write_bytes((root / "meta/info.json").read_bytes()),
    "missing": lambda path, root: path.unlink(),
    "a link": lambda path, root: (path.rename(root.parent / "moved"), path.symlink_to(root.parent / "moved")),
    "a FIFO": lambda path, root: (path.unlink(), os.mkfifo(path)),
    "a folder": lambda path, root: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("file", [rows_file, video_file])
@pytest.mark.parametrize("what", FILES)
def test_files_that_are_damaged_give_a_sentence(root, tmp_path, what, file):
    FILES[what](file(root), root)
    refuse(root, tmp_path / "snapshot", file(root), "expected", "got")
    assert not (tmp_path / "snapshot").exists()


@pytest.mark.parametrize("frames", [1, 5, 7])
def test_a_video_has_as_many_frames_as_there_are_rows(root, tmp_path, frames):
    write_video(video_file(root), frames)
    refuse(root, tmp_path / "snapshot", video_file(root), "expected 6 frames", f"got {frames}")
    assert not (tmp_path / "snapshot").exists()


def test_a_video_that_does_not_say_how_many_frames_it_has(root, tmp_path):
    """Matroska under the name of the other: the frames are counted as they come."""
    for frames, got in ((5, "got 5"), (7, "got more")):
        write_video(tmp_path / "v.mkv", frames)
        os.replace(tmp_path / "v.mkv", video_file(root))
        refuse(root, tmp_path / f"snapshot{frames}", video_file(root), "expected 6 frames of episode 1", got)


def test_a_video_of_another_size(root, tmp_path):
    write_video(video_file(root), 6, size=(32, 32))
    refuse(root, tmp_path / "snapshot", video_file(root), f"expected {WIDTH}x{HEIGHT} pixels", "got 32x32")


def test_a_playlist_is_not_followed(root, tmp_path):
    write_video(tmp_path / "secret.mp4", 6)
    for text in (
        f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.mp4\n",
        f"ffconcat version 1.0\nfile {tmp_path}/secret.mp4\n",
    ):
        video_file(root).write_text(text)
        refuse(root, tmp_path / "snapshot", video_file(root), "expected a video (MP4, Matroska or AVI)", "begins with")


def test_a_video_of_a_codec_that_nobody_knows(root, tmp_path):
    data = video_file(root).read_bytes()
    assert data.count(b"avc1") >= 1
    video_file(root).write_bytes(data[:32] + data[32:].replace(b"avc1", b"zzz1"))  # in what describes the stream
    refuse(root, tmp_path / "snapshot", video_file(root), "expected a video whose codec PyAV knows, got another")


def test_flipped_bytes_never_give_a_traceback(root, tmp_path):
    """What codecs cannot tell is kept as they decode it; all else is a sentence."""
    rng, path, refused = np.random.default_rng(0), video_file(root), 0
    data = path.read_bytes()
    for _ in range(40):
        damaged = bytearray(data)
        at = int(rng.integers(len(data) - 8))
        damaged[at : at + 8] = rng.bytes(8)
        path.write_bytes(damaged)
        try:
            list(open_source(root).episodes(1))
        except CorruptDataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused


V3 = {
    "another length": {"length": [9, 7, 11]},
    "a file that is not there": {"data/file_index": [0, 0, 3]},
    "a file of a negative number": {"data/file_index": [0, 0, -3]},
    "numbers that are texts": {"data/chunk_index": ["..", "..", ".."]},
    "a span that is too long": {f"videos/{CAMERA}/to_timestamp": [0.9, 1.5, 9e9]},
    "a span behind the end": {
        f"videos/{CAMERA}/from_timestamp": [0.0, 0.9, 5.0],
        f"videos/{CAMERA}/to_timestamp": [0.9, 1.5, 6.2],
    },
    "a span of no number": {f"videos/{CAMERA}/from_timestamp": [0.0, 0.9, None]},
    "tasks that are none": {"tasks": [1, 2, 3]},
}


@pytest.mark.parametrize("what", V3)
def test_episodes_of_several_in_a_file_that_are_wrong_give_a_sentence(tmp_path, what):
    root = lerobot_v3(tmp_path / "set", LENGTHS)
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pa.table(pq.read_table(path).to_pydict() | V3[what]), path)
    refuse(root, tmp_path / "snapshot", root, "expected", "got")


# plain videos

KINDS = {"mp4": "libx264", "mkv": "ffv1", "avi": "mpeg4", "mov": "mpeg4"}


@pytest.mark.parametrize("suffix", KINDS)
def test_a_video_is_an_episode(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("diffreplay.datasets.video_files.PIECE_BYTES", 4 * HEIGHT * WIDTH * 3)
    path = tmp_path / f"some.{suffix}"
    write_video(path, 14, codec=KINDS[suffix])
    with pytest.warns(UserWarning, match="has no actions and rewards: they are zeros") as told:
        assert convert(path, tmp_path / "snapshot").steps == 13
    assert any("lossy" in str(each.message) for each in told) == (suffix != "mkv")
    (episode,) = open_source(tmp_path / "snapshot").episodes()
    assert np.array_equal(episode.observations, decoded(path)) and not episode.terminated
    assert not episode.actions.any() and not episode.rewards.any()


def test_a_folder_of_videos(tmp_path):
    for number, frames in enumerate((5, 2, 9)):
        write_video(tmp_path / f"videos/{number}.mp4", frames, seed=number)
    (tmp_path / "videos" / "readme.txt").write_text("of cats")
    source = open_source(tmp_path / "videos")
    assert source.description.episodes == 3 and source.description.steps == 13
    for number, episode in enumerate(source.episodes(1), 1):
        assert episode.name == f"{number}.mp4"
        assert np.array_equal(episode.observations, decoded(tmp_path / f"videos/{number}.mp4"))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.99])
def test_a_video_that_was_cut_short_gives_a_sentence(tmp_path, suffix, part):
    path = tmp_path / f"some.{suffix}"
    write_video(path, 30)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    refuse(path, tmp_path / "snapshot", path, "expected", "got")
    assert not (tmp_path / "snapshot").exists()


def test_videos_have_to_be_of_one_size_and_of_two_frames(tmp_path):
    write_video(tmp_path / "videos/0.mp4", 3)
    write_video(tmp_path / "videos/1.mp4", 3, size=(32, 48))
    refuse(tmp_path / "videos", tmp_path / "snapshot", "1.mp4", f"expected {WIDTH}x{HEIGHT} pixels", "got 48x32")
    write_video(tmp_path / "one.mp4", 1)
    refuse(tmp_path / "one.mp4", tmp_path / "snapshot", "one.mp4", "expected at least two frames, got 1")


def test_a_video_that_grows_within_gives_a_sentence(tmp_path):
    """Frames of another size in the middle of the stream, which H.264 tells beside each key frame."""
    path = tmp_path / "some.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for part, side in enumerate((None, 2048)):
            context = av.CodecContext.create("libx264", "w")
            context.width, context.height = (side, side) if side else (WIDTH, HEIGHT)
            context.pix_fmt, context.time_base, context.options = "yuv420p", Fraction(1, 10), {"bf": "0"}
            frame = av.VideoFrame(context.width, context.height, "yuv420p")
            for t in range(3):
                frame.pts = t
                for packet in (*context.encode(frame), *(context.encode() if t == 2 else ())):
                    packet.pts = packet.dts = packet.pts + 3 * part
                    packet.stream = stream
                    container.mux(packet)
    refuse(path, tmp_path / "snapshot", path, "expected frames of", "pixels, got")


def test_the_command_says_it_without_a_traceback(root, tmp_path):
    video_file(root).write_bytes(b"junk")
    command = [sys.executable, "-m", "diffreplay", "convert", str(root), str(tmp_path / "snapshot")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr and str(video_file(root)) in done.stderr
