import pytest
from training_options import tiny_config

from diffreplay import codecs
from runs.errors import OptionError
from runs.options import DEFAULT_CODEC

MODES = {
    # half_compress, full_compress, codec -> gray, black floor, codec
    (): (False, False, None),
    ("half_compress=true",): (True, False, "raw"),
    ("full_compress=true",): (True, True, "delta"),
    ("full_compress=true", "codec=zstd"): (True, True, "zstd"),
    ("full_compress=true", "codec=sparse"): (True, True, "sparse"),
    ("full_compress=true", "grayscale=false"): (False, True, "delta"),
    ("full_compress=true", "black_floor=false"): (True, False, "delta"),
    ("half_compress=true", "black_floor=true"): (True, True, "raw"),
    ("grayscale=true", "black_floor=true"): (True, True, None),
}


@pytest.mark.parametrize("overrides", MODES)
def test_modes_and_what_they_turn_on(overrides):
    config = tiny_config(*overrides)
    assert (config.observe_in_gray, config.paint_floor_black, config.replay_codec) == MODES[overrides]


def test_the_default_codec_is_the_librarys():
    assert DEFAULT_CODEC == codecs.DEFAULT


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["half_compress=true", "full_compress=true"], "exclude each other"),
        (["codec=sparse"], "add full_compress=true"),
        (["half_compress=true", "codec=zstd"], "add full_compress=true"),
        (["replay_buffer_max_bytes=1000"], "buffer in RAM"),
        (["batch_size=0"], "batch_size=0: expected at least 1"),
        (["batch_size=many"], "batch_size: expected a whole number, got many"),
        (["action_repeat=2.5"], "action_repeat: expected a whole number, got 2.5"),
        (["grayscale=perhaps"], "grayscale: expected true or false, got perhaps"),
        (["seed=-1"], "seed=-1: expected at least 0"),
        (["eval_every_frames=3"], "at least one agent step, 10 frames"),
        (["discount=1.5"], "from 0 to 1"),
        (["nstep=2000"], "at most replay_buffer_size"),
        (["stddev_schedule=falling"], "no schedule"),
        (["+batchsize=3"], "batchsize"),
        (["full_compress=true", "cameras=[]"], r"cameras=\[\]: expected a list of numbers"),
        (["full_compress=true", "cameras=1"], "cameras=1: expected a list of numbers"),
        (["full_compress=true", "cameras=[side]"], r"cameras=\[side\]: expected a list of numbers"),
        (["full_compress=true", "cameras=[0.5]"], "expected a list of numbers"),
        (["full_compress=true", "cameras=[0,1,1]"], r"cameras=\[0,1,1\]: expected each camera once, got 1 again"),
        (["full_compress=true", "cameras=[0,-1]"], "from 0 on, got -1"),
        (["cameras=[0,1]"], r"cameras=\[0,1\]: expected a replay buffer in RAM.*full_compress=true or half_compress"),
        (["proprioception=true"], "proprioception=true: expected a replay buffer in RAM.*full_compress=true"),
        (["full_compress=true", "proprioception=perhaps"], "proprioception: expected true or false, got perhaps"),
        (["task=easy"], "expected a task, such as"),
        (["actors=2"], "actors=2: expected a replay buffer in RAM.*got episodes on disk"),
        (["actors=2", "full_compress=true", "codec=sparse"], "got codec=sparse, whose frames need each other"),
        (["actors=2", "full_compress=true", "save_train_video=true"], "actors=2: expected save_train_video=false"),
        (["actors=-1", "full_compress=true"], "actors=-1: expected at least 0"),
        (["ray_address=auto", "full_compress=true"], "ray_address=auto is for actors: add actors=4"),
        (["agent.lr=fast"], "agent.lr: expected a number, got fast"),
    ],
)
def test_mistakes(overrides, message):
    with pytest.raises(OptionError, match=f"(?i){message}"):
        tiny_config(*overrides)


def test_cameras_and_proprioception_are_off_unless_asked_for():
    config = tiny_config()
    assert (config.cameras, config.proprioception) == (None, False)
    assert tiny_config("cameras=[1]").cameras == [1]  # the episodes on disk hold the frames of any one camera
    several = tiny_config("half_compress=true", "cameras=[1,0]", "proprioception=true")
    assert (several.cameras, several.proprioception) == ([1, 0], True)
