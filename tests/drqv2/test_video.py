"""Videos are read back and compared with what was rendered."""

import signal
import subprocess
import sys
import time

import imageio.v3 as imageio
import numpy as np
import pytest

from drqv2 import environment
from drqv2.video import VideoRecorder


@pytest.fixture(scope="module")
def env():
    env = environment.make("walker_walk", 1, 2, 0)
    env.reset()
    return env


def test_video_plays_what_was_rendered(env, tmp_path):
    recorder = VideoRecorder(tmp_path / "run" / "eval_video")
    env.reset()
    pictures = [env.render(256, 256)]
    recorder.init(env)
    for _ in range(9):
        env.step(np.ones(6, np.float32))
        pictures.append(env.render(256, 256))
        recorder.record(env)
    recorder.save("1000.mp4")

    path = tmp_path / "run" / "eval_video" / "1000.mp4"
    assert [file.name for file in path.parent.iterdir()] == ["1000.mp4"]
    frames = imageio.imread(path, plugin="FFMPEG")
    assert frames.shape == (10, 256, 256, 3)
    assert imageio.immeta(path, plugin="FFMPEG")["fps"] == 20
    assert imageio.immeta(path, plugin="FFMPEG")["codec"] == "h264"
    # H.264 is lossy, so the pictures come back nearly, and in their order.
    differences = np.abs(frames[:, None].astype(int) - np.stack(pictures)[None]).mean(axis=(2, 3, 4))
    assert np.diag(differences).max() < 5
    moved = np.abs(np.diff(np.stack(pictures).astype(int), axis=0)).mean(axis=(1, 2, 3)) > 1
    assert moved[-5:].all()  # the walker falls, so the order can be told
    assert (differences.argmin(axis=1) == np.arange(10))[-5:].all()


def test_disabled_recorder_renders_and_writes_nothing(env, tmp_path):
    class Camera:
        taken = 0

        def render(self, height, width):
            self.taken += 1
            return env.render(height, width)

    camera = Camera()
    recorder = VideoRecorder(tmp_path / "eval_video")
    recorder.record(camera)  # not begun
    recorder.save("0.mp4")
    recorder.init(camera, enabled=False)
    recorder.record(camera)
    recorder.save("1.mp4")
    assert camera.taken == 0
    assert not (tmp_path / "eval_video").exists()
    recorder.init(camera)
    assert camera.taken == 1


def test_each_video_begins_afresh(env, tmp_path):
    recorder = VideoRecorder(tmp_path)
    recorder.init(env)
    recorder.record(env)
    recorder.init(env)  # what was not saved is dropped
    recorder.record(env)
    recorder.record(env)
    recorder.save("a.mp4")
    recorder.init(env)
    recorder.save("b.mp4")
    assert len(imageio.imread(tmp_path / "a.mp4", plugin="FFMPEG")) == 3
    assert len(imageio.imread(tmp_path / "b.mp4", plugin="FFMPEG")) == 1


ENCODE_FOR_LONG = """
import sys
import numpy as np
from drqv2.video import VideoRecorder

class Noise:
    rng = np.random.default_rng(0)

    def render(self, height, width):
        return self.rng.integers(0, 256, (height, width, 3), np.uint8)

noise, recorder = Noise(), VideoRecorder(sys.argv[1])
recorder.init(noise)
for _ in range(1000):
    recorder.record(noise)
recorder.save("0.mp4")
"""


@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_encoding_leaves_the_older_video(env, tmp_path, interruption):
    recorder = VideoRecorder(tmp_path)
    recorder.init(env)
    recorder.save("0.mp4")
    older = (tmp_path / "0.mp4").read_bytes()

    process = subprocess.Popen([sys.executable, "-c", ENCODE_FOR_LONG, tmp_path], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (partial := [path for path in tmp_path.iterdir() if path.name != "0.mp4"]):
        assert process.poll() is None and time.monotonic() < deadline, "encoding has not begun"
        time.sleep(0.01)
    process.send_signal(interruption)
    assert process.wait(timeout=800) != 0

    assert partial[0].name.startswith(".")
    assert (tmp_path / "0.mp4").read_bytes() == older
    if interruption == signal.SIGINT:
        assert [path.name for path in tmp_path.iterdir()] == ["0.mp4"]
    # The next video of that name takes the place of both.
    recorder.init(env)
    recorder.record(env)
    recorder.save("0.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["0.mp4"]
    assert len(imageio.imread(tmp_path / "0.mp4", plugin="FFMPEG")) == 2
