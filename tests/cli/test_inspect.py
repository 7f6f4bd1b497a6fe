"""`python -m diffreplay inspect`: what it prints, draws and renders, and how it fails."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from says import says
from snapshot_tools import CODECS, SEVERAL, RestlessZstd, Writer, buffer, held, make_directory, reseal  # noqa: F401

from diffreplay import ArraySpec, ReplayBuffer, codecs
from diffreplay.__main__ import main
from diffreplay.cli import inspect
from diffreplay.cli.report import find_episodes
from diffreplay.snapshots.manifest import MANIFEST, read_manifest
from diffreplay.testing import TimeStep

ROOT = Path(__file__).resolve().parents[2]


def values(text):
    """What is printed, by its name."""
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in text.splitlines() if "  " in line)


def saved(directory, steps=70, **options):
    replay = buffer(200, **options)
    Writer(replay).add(steps)
    replay.save(directory)
    return replay


@pytest.mark.parametrize("codec", codecs.REGISTRY)
def test_what_it_prints(directory, codec, capsys):
    replay = saved(directory, codec=codec)
    assert main(["inspect", str(directory)]) == 0
    found, stats = values(capsys.readouterr().out), replay.stats()
    assert found["observation"] == "3 frames of 16 x 16 x 1, uint8"
    assert found["transitions"] == f"{len(replay)} of at most 200, n-step 1"
    assert found["frames"] == "70" and found["steps"] == "70, 1 to 17 long, 17 in the middle"
    assert found["episodes"] == "6, 2 of them unfinished, in 2 stream(s)"  # 2 streams of 35 = 17 + 17 + 1 steps
    assert found["codec"].startswith(codec)
    assert found["ratio"].startswith(f"{stats.compression_ratio:.1f} to stacks of")
    assert found["damage"].startswith("none")


def test_episodes_are_the_chains_of_steps(directory):
    replay = saved(directory)
    episodes = find_episodes(replay)
    assert [len(rows) for rows in episodes] == [17, 17, 17, 17, 1, 1]
    assert np.array_equal(episodes[1], np.arange(1, 34, 2))


def test_damage_is_named_and_gives_status_1(directory, capsys):
    replay = buffer(200, codec="raw")
    writer = Writer(replay)
    for _ in range(3):
        writer.add(20)
        replay.save(directory)
    name = read_manifest(directory).segments[1].name
    (directory / name).write_bytes(b"something else")
    assert main(["inspect", str(directory)]) == 1
    found = values(capsys.readouterr().out)
    assert f"{name}: expected 5" in found["damage"] and "got 14" in found["damage"]
    assert "20 to" not in found["frames"] and "of them lost with damaged files or after such" in found["frames"]


@pytest.mark.filterwarnings("ignore:10 transitions in a row", "ignore:left out")
@pytest.mark.parametrize("codec", ["raw", "sparse", "zstd", "delta"])
def test_rows_in_place_of_frames_that_are_stored_elsewhere_are_not_lost(directory, codec, capsys):
    """Transitions over two steps leave such rows. Their frames are counted where they are, damaged or not."""
    replay, rng = ReplayBuffer(300, (3, 16, 16), (1,), codec=codec), np.random.default_rng(0)
    frames = rng.integers(0, 256, (103, 16, 16), np.uint8)
    for t in range(100):
        stacks = (frames[t : t + 3], frames[t + 2 : t + 5] if t < 99 else frames[t + 1 : t + 4])
        replay.add_transition(stacks[0], [t], 0.0, stacks[1], False, False)
        if t % 20 == 19:
            replay.save(directory)
    rows = np.arange(replay.store.tail, replay.store.head)
    stands_in = np.setdiff1d(rows, replay.store.present(rows))
    assert len(stands_in) > 100
    assert main(["inspect", str(directory)]) == 0
    assert values(capsys.readouterr().out)["frames"] == str(replay.stats().frames) == str(len(rows) - len(stands_in))

    gone = read_manifest(directory).segments[2]
    (directory / gone.name).unlink()
    assert main(["inspect", str(directory)]) == 1
    found = values(capsys.readouterr().out)["frames"]
    store = ReplayBuffer.load(directory, skip_damaged=True).store
    empty = np.setdiff1d(rows, store.present(rows))
    elsewhere = [row for row in stands_in if not gone.first <= row < gone.end]
    lost = len(empty) - len(np.intersect1d(empty, elsewhere))
    assert gone.end - gone.first <= lost < len(empty)
    assert found == f"{len(rows) - len(elsewhere)}, {lost} of them lost with damaged files or after such"


def test_an_empty_buffer(directory, capsys):
    saved(directory, steps=0)
    assert main(["inspect", str(directory)]) == 0
    assert values(capsys.readouterr().out)["steps"] == "0"
    assert main(["inspect", str(directory), "--frames", str(directory / "x.png")]) == 2
    assert main(["inspect", str(directory), "--mp4", str(directory / "x.mp4")]) == 2
    error = capsys.readouterr().err.splitlines()
    says(error[0], "snapshot", "frames", "without any")
    says(error[1], "snapshot", "episode", "without any")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("codec", CODECS)
def test_the_picture_shows_the_stored_frames(directory, codec, channels):
    """Frames, references and their differences, read back from the picture."""
    replay = saved(directory, codec=CODECS[codec](), channels=channels)
    path = directory / "frames.png"
    assert main(["inspect", str(directory), "--frames", str(path)]) == 0
    picture = imageio.imread(path)
    scale, label, gap, margin = 11, 14, 6, 78
    side = 16 * scale
    assert picture.shape == (3 * (side + label + gap), margin + 8 * (side + gap), 3)
    rows = np.arange(70)
    coded = rows[replay.store.lengths(rows) < replay.store.layout.row_bytes]
    rows = coded if len(coded) else rows
    rows = rows[np.linspace(0, len(rows) - 1, 8).astype(int)]
    different = 0
    for k, frame in enumerate(replay.store.read(rows)):
        left = margin + k * (side + gap)
        tiles = [picture[y + label : y + label + side : scale, left : left + side : scale] for y in range(0, 588, 196)]
        assert np.array_equal(tiles[0], np.broadcast_to(frame, (16, 16, 3)))
        if (tiles[1] != 255).any():
            assert np.array_equal(np.any(tiles[0] != tiles[1], axis=2), np.any(tiles[2] != 0, axis=2))
            different += 1
    assert (different > 0) == (codec in ("sparse", "many sets"))  # too few frames for a set by default


@pytest.mark.parametrize("channels", [1, 3])
def test_the_video_shows_an_episode(directory, channels, capsys):
    replay = buffer(100, channels=channels)
    rng = np.random.default_rng(0)
    lengths = [5, 12, 8]
    for length in lengths:
        for t in range(length):
            stack = np.repeat(rng.integers(0, 2, (3 * channels, 1, 1), np.uint8) * 255, 256, axis=1).reshape(-1, 16, 16)
            replay.add(TimeStep(stack, np.array([t]), 0.0, 1.0, t == 0, t == length - 1))
    replay.save(directory)
    path = directory / "episode.mp4"
    for option, number in (([], 1), (["--episode", "0"], 0), (["--episode=-1"], 2)):
        assert main(["inspect", str(directory), "--mp4", str(path), *option]) == 0
        assert f"rendered episode {number}, {lengths[number]} steps" in capsys.readouterr().out
        video = imageio.imread(path, plugin="FFMPEG")
        assert video.shape == (lengths[number], 256, 256, 3)
        frames = replay.store.read(find_episodes(replay)[number])
        assert np.abs(video[:, 128, 128].mean(axis=1) - frames[:, 8, 8].mean(axis=1)).max() < 30
    assert main(["inspect", str(directory), "--mp4", str(path), "--episode", "3"]) == 2
    says(capsys.readouterr().err, "--episode: | -3 to 2 | got 3")


def test_returns_are_sums_of_the_rewards_of_each_episode(directory, capsys):
    """The first step's reward belongs to no transition."""
    replay, rng = ReplayBuffer(100, (1, 16, 16), (1,), frame_stack=1), np.random.default_rng(0)
    sums = []
    for length in (5, 12, 8, 1):
        rewards = rng.integers(-9, 10, length) / 4
        sums.append(rewards[1:].sum())
        for t, reward in enumerate(rewards.tolist()):
            obs = rng.integers(0, 256, (1, 16, 16), np.uint8)
            replay.add(TimeStep(obs, [0.0], reward, is_first=t == 0, is_last=t == length - 1))
    replay.save(directory)
    report = inspect(directory)
    assert report.returns.tolist() == sums
    assert main(["inspect", str(directory)]) == 0
    expected = f"{min(sums):.6g} to {max(sums):.6g}, {np.median(sums):.6g} in the middle"
    assert values(capsys.readouterr().out)["returns"] == expected


def test_sizes_of_each_camera(directory):
    replay = saved(directory, case=f"{SEVERAL}delta")
    report, store, rows = inspect(directory), replay.store, np.arange(70)
    coded = [int(store.lengths(rows, image).sum()) for image in (0, 1)]
    assert [camera.coded_bytes for camera in report.cameras] == coded
    for camera, nbytes in zip(report.cameras, coded, strict=True):
        assert camera.share == nbytes / sum(coded) and camera.bytes_a_frame == nbytes / 70
        assert camera.raw_bytes == 70 * 256 and camera.reference_bytes == store.sets[camera.number].nbytes
        assert camera.ratio == camera.raw_bytes / (nbytes + camera.reference_bytes)
    told = [value for name, value in report.facts if name == "camera"]
    assert [value.split(":")[0] for value in told] == ["front", "depth"]


def test_a_frame_that_does_not_decode_is_named_although_checksums_fit(directory, capsys):
    """Somebody made the file so; the frames of the other rows are read as ever."""
    replay = saved(directory, codec=CODECS["zstd"]())
    (entry,) = read_manifest(directory).segments
    data = bytearray((directory / entry.name).read_bytes())
    lengths = replay.store.lengths(np.arange(70))
    row = int(np.argmin(lengths))
    start = len(data) - int(lengths[row:].sum())
    data[start : start + int(lengths[row])] = b"x" * int(lengths[row])
    (directory / entry.name).write_bytes(data)
    seal = hashlib.blake2b(data, digest_size=16).hexdigest()
    reseal(directory, lambda fields: json.loads(json.dumps(fields).replace(entry.checksum, seal)))
    assert main(["inspect", str(directory)]) == 1
    assert values(capsys.readouterr().out)["damage"].startswith(f"row {row}: ")
    assert main(["inspect", str(directory), "--no-decode"]) == 0
    assert values(capsys.readouterr().out)["damage"] == "none: every checksum fits; no frame was decoded"


@pytest.mark.parametrize("which", ["gone", "only of the commit before"])
def test_every_file_that_is_damaged_is_named_and_the_rest_described(directory, which, capsys):
    replay = buffer(40, codec="raw")
    writer = Writer(replay)
    for _ in range(2):
        writer.add(60)
        replay.save(directory)
    now = {entry.name for entry in read_manifest(directory).files()}
    before = {entry.name for entry in read_manifest(directory, "previous.json").files()} - now
    (name,) = before if which != "gone" else sorted(now)[:1]
    (directory / name).unlink()
    assert main(["inspect", str(directory)]) == 1
    found = values(capsys.readouterr().out)
    says(found["damage"], directory / name, "cannot be read: No such file")
    assert (found["transitions"].split()[0] == str(len(replay))) == (which != "gone")


def test_it_takes_hardly_more_memory_for_a_larger_snapshot(directory):
    """Peaks of processes that inspect 15 MB and 75 MB, with frames to draw and a page to write."""
    peaks = []
    rng = np.random.default_rng(0)
    for steps in (300, 1500):
        replay = ReplayBuffer(steps, (3, 128, 128), (1,), frame_stack=1, codec="raw")
        for t in range(steps):
            obs = rng.integers(0, 256, (3, 128, 128), np.uint8)
            replay.add(TimeStep(obs, [0.0], is_first=t % 50 == 0, is_last=t % 50 == 49))
        replay.save(directory / str(steps))
        program = "import sys; from diffreplay.__main__ import main; assert main(sys.argv[1:]) == 0; "
        program += "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
        drawn = ["--html", directory / "x.html", "--frames", directory / "x.png", "--mp4", directory / "x.mp4"]
        command = [sys.executable, "-c", program, "inspect", directory / str(steps), *drawn]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]) * 1024)
    assert peaks[1] - peaks[0] < 25e6


def test_several_parts_are_told_and_drawn(directory, capsys):
    """A line for each part; three lines of the picture for each image, one image below the other."""
    replay = saved(directory, case=f"{SEVERAL}sparse")
    path = directory / "frames.png"
    assert main(["inspect", str(directory), "--frames", str(path)]) == 0
    printed = capsys.readouterr().out
    lines = [line.split(None, 1)[1] for line in printed.splitlines() if line.startswith("observation ")]
    assert [re.sub(r"[0-9.]+ k?B coded|[0-9]+ bytes coded", "... coded", line) for line in lines] == [
        "front: 3 frames of 16 x 16 x 1, uint8, ... coded",
        "depth: 3 frames of 16 x 8 x 1, uint16, ... coded",
        "place: 3 steps of 3, float64",
    ]
    found = values(printed)
    assert found["columns"] == f"{70 * 24 / 1000:.1f} kB" and found["other values"].endswith("and of log_prob")
    assert f"drew 8 frames of each of 2 images to {path}" in printed
    picture, height = imageio.imread(path), 16 * 11 + 20
    assert picture.shape == (6 * height, 78 + 8 * (16 * 11 + 6), 3)
    store, rows = replay.store, np.arange(70)
    rows = [rows[store.lengths(rows, k) < store.layout.images[k].frame_bytes] for k in (0, 1)]
    rows = [its[np.linspace(0, len(its) - 1, 8).astype(int)] for its in rows]
    depth = [_.reshape(2, 16, 8).astype(int) for _ in store.read(rows[1], 1)]
    depth = [low + 256 * high for low, high in depth]
    for k in range(8):
        front, (deep, width) = store.read(rows[0][k : k + 1], 0)[0, ..., 0], (depth[k], 11 * 8)
        left, wide_left = 78 + k * (176 + 6), 78 + k * (width + 6)
        assert np.array_equal(picture[14 : 14 + 176 : 11, left : left + 176 : 11, 1], front)
        top = 3 * height + 14
        tile = picture[top : top + 176 : 11, wide_left : wide_left + 88 : 11, 1]
        assert np.array_equal(tile, deep * 255 // max(its.max() for its in depth))


def test_the_video_is_of_the_camera_that_is_named(directory, capsys):
    specs = {"state": ArraySpec((2,), "float32"), "a": ArraySpec((1, 16, 16)), "b": ArraySpec((16, 16), "uint16", "HW")}
    replay = ReplayBuffer(50, specs, (1,), frame_stack=1)
    for t in range(6):
        parts = [np.zeros(2, "f4"), np.full((1, 16, 16), 255 * (t % 2), "u1"), np.full((16, 16), 6000 * (t % 3), "u2")]
        replay.add(TimeStep(dict(zip(specs, parts, strict=True)), [0.0], is_first=t == 0, is_last=t == 5))
    replay.save(directory)
    path = directory / "x.mp4"
    for options, expected in (
        ([], [0, 255] * 3),
        (["--camera", "a"], [0, 255] * 3),
        (["--camera", "b"], [0, 127, 255] * 2),
    ):
        assert main(["inspect", str(directory), "--mp4", str(path), *options]) == 0
        video = imageio.imread(path, plugin="FFMPEG")
        assert np.abs(video.mean(axis=(1, 2, 3)) - expected).max() < 12
    capsys.readouterr()
    assert main(["inspect", str(directory), "--mp4", str(path), "--camera", "state"]) == 2
    says(capsys.readouterr().err, "--camera: | one of 'a', 'b'", "got 'state'")


def test_observations_without_images(directory, capsys):
    replay = ReplayBuffer(50, {"state": ArraySpec((2,), "float32")}, (1,), frame_stack=1)
    for t in range(6):
        replay.add(TimeStep({"state": np.full(2, t, "f4")}, [0.0], is_first=t == 0))
    replay.save(directory)
    assert main(["inspect", str(directory)]) == 0
    assert values(capsys.readouterr().out)["observation"] == "state: 1 steps of 2, float32"
    assert main(["inspect", str(directory), "--frames", str(directory / "x.png")]) == 2
    assert main(["inspect", str(directory), "--mp4", str(directory / "x.mp4")]) == 2
    errors = capsys.readouterr().err.splitlines()
    says(errors[0], "--frames: | image", "columns alone")
    says(errors[1], "--mp4: | image", "columns alone")


def run(*arguments, **options):
    command = [sys.executable, "-m", "diffreplay", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=800, **options)


def test_a_wrong_path_gives_one_line(tmp_path):
    done = run("inspect", tmp_path / "nowhere")
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("diffreplay: ")
    says(line, f"{tmp_path / 'nowhere'}:", "manifest.json")


@pytest.mark.parametrize("option", ["--frames", "--mp4"])
@pytest.mark.parametrize("name", ["none/such/x.png", "x.abc", "."])
def test_a_file_that_cannot_be_written_gives_one_line(directory, option, name, capfd):
    saved(directory)
    assert main(["inspect", str(directory), option, str(directory / name)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("diffreplay: ") and str(directory / name) in line


def test_a_damaged_manifest_and_an_unknown_codec_give_one_line(directory, capsys):
    replay = buffer(50, codec=CODECS["many sets"]())
    replay.save(directory)
    assert main(["inspect", str(directory)]) == 0  # a codec of one's own, but of a name that is known
    (directory / MANIFEST).write_bytes(b"{}\n")
    capsys.readouterr()
    assert main(["inspect", str(directory)]) == 2
    says(capsys.readouterr().err, directory / MANIFEST, "checksum")

    class Own(RestlessZstd):
        name = "own"

    buffer(50, codec=Own()).save(directory)
    assert main(["inspect", str(directory)]) == 2
    says(capsys.readouterr().err, "instance", "codec 'own'")


@pytest.mark.parametrize("option", ["--frames", "--mp4"])
def test_missing_packages_are_named(directory, option):
    """In a process that cannot import Pillow and imageio."""
    saved(directory)
    script = "import sys; sys.modules.update({'PIL': None, 'PIL.Image': None, 'imageio': None, 'imageio.v3': None})\n"
    script += (
        f"from diffreplay.__main__ import main; sys.exit(main(['inspect', {str(directory)!r}, {option!r}, 'x.mp4']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=800)
    assert done.returncode == 2 and "to be installed" in done.stderr
    assert done.stderr.endswith("run pip install 'imageio[ffmpeg]'\n") and len(done.stderr.splitlines()) == 1
    assert done.stdout == "", "it is said before anything is read"


def test_what_cannot_be_written_does_not_keep_the_rest_from_being(directory, capsys):
    replay = ReplayBuffer(100, {"state": ArraySpec((3,), "float32")}, (1,), frame_stack=1, nstep=1)
    for t in range(10):
        replay.add(TimeStep({"state": np.full(3, t, np.float32)}, [0.0], 1.0, is_first=t == 0))
    replay.save(directory / "s")
    page = directory / "x.html"
    assert main(["inspect", str(directory / "s"), "--frames", str(directory / "x.png"), "--html", str(page)]) == 2
    told = capsys.readouterr()
    assert page.exists() and "wrote" in told.out and "an image to draw" in told.err


def test_options_of_a_video_without_one_are_refused(directory, capsys):
    saved(directory)
    for options in (["--camera", "x"], ["--episode", "0"]):
        with pytest.raises(SystemExit):
            main(["inspect", str(directory), *options])
        assert "--mp4" in capsys.readouterr().err


def test_names_that_the_terminal_cannot_show_are_written_out(directory):
    replay = ReplayBuffer(100, {"caméra": ArraySpec((1, 16, 16))}, (1,), frame_stack=1)
    replay.add(TimeStep({"caméra": np.zeros((1, 16, 16), np.uint8)}, [0.0], 0.0, is_first=True))
    replay.save(directory / "s\x1b[31m")
    command = [sys.executable, "-m", "diffreplay", "inspect", str(directory / "s\x1b[31m")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=800)
    assert done.returncode == 0 and "cam\\xe9ra" in done.stdout and not done.stderr
    missing = subprocess.run(
        [*command, "--html", str(directory / "s\x1b[31m" / "no" / "x.html")], capture_output=True, text=True, cwd=ROOT
    )
    assert missing.returncode == 2 and "\x1b" not in missing.stdout + missing.stderr and missing.stderr.count("\n") == 1


def test_sizes_count_the_frames_that_are_left(directory):
    rng, scene = np.random.default_rng(0), np.random.default_rng(1).integers(0, 256, (1, 64, 64), np.uint8)
    replay = ReplayBuffer(4000, (1, 64, 64), (1,), frame_stack=1)
    for t in range(2500):
        obs = scene.copy()
        obs[0, rng.integers(60), :9] = rng.integers(0, 256, 9)
        replay.add(TimeStep(obs, [0.0], 0.0, is_first=t == 0))
    replay.save(directory)
    (first, *_) = sorted(directory.glob("set-*"))
    first.write_bytes(first.read_bytes()[:-1] + b"\0")
    report = inspect(directory)
    (camera,), held = report.cameras, report.replay.frames
    rows = held.present(np.arange(*held.bounds()))
    assert 0 < camera.frames == len(rows) < 2500 and camera.coded_bytes == held.lengths(rows, 0).sum()


def test_a_damaged_manifest_names_the_one_before(directory, capsys):
    replay = buffer(50)
    replay.save(directory)
    replay.add(TimeStep(np.zeros(replay.observation_shape, np.uint8), [0.0], 0.0, is_first=True))
    replay.save(directory)
    (directory / MANIFEST).write_bytes(b"{}\n")
    assert main(["inspect", str(directory)]) == 2
    says(capsys.readouterr().err, directory / MANIFEST, "checksum", "previous.json holds the commit before")
    (directory / "previous.json").rename(directory / MANIFEST)
    assert main(["inspect", str(directory)]) == 0


def test_inspecting_changes_nothing(directory):
    replay = saved(directory)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    main(["inspect", str(directory)])
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert held(ReplayBuffer.load(directory)) == held(replay)
