"""Minari's datasets there and back, made and read by Minari itself."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from PIL import Image
from says import says

import diffreplay
from diffreplay.datasets import convert, open_source
from diffreplay.errors import CorruptDataError, InputError, ReplayError

pytestmark = pytest.mark.filterwarnings("ignore:.* is set to None", "ignore:env_spec is None")

LENGTHS = [5, 9, 1, 4]
IMAGE = spaces.Box(0, 255, (40, 36, 3), np.uint8)
GRAY = spaces.Box(0, 255, (40, 36), np.uint8)
SEEN = {
    "image": IMAGE,
    "gray": GRAY,
    "vector": spaces.Box(-np.inf, np.inf, (5,), np.float64),
    "dict": spaces.Dict(
        {"front": IMAGE, "arm": spaces.Dict({"pose": spaces.Box(-1, 1, (3,), np.float32), "tool": spaces.Discrete(4)})}
    ),
}
ACTIONS = {"discrete": spaces.Discrete(6), "box": spaces.Box(-1, 1, (2,), np.float32)}


@pytest.fixture(autouse=True)
def _datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def drawn(space, count, rng):
    """Values of a space, (count, ...), or a dict of such."""
    if isinstance(space, spaces.Dict):
        return {key: drawn(inner, count, rng) for key, inner in space.items()}
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.start, space.start + space.n, count)
    if space.dtype == np.uint8:
        return rng.integers(0, 256, (count, *space.shape), np.uint8)
    return rng.normal(size=(count, *space.shape)).clip(-1, 1).astype(space.dtype)


def made(name, seen, action, lengths=LENGTHS, jpeg_encoding=False, infos=True, **options):
    """A dataset of random episodes; its second one is truncated, all others terminate."""
    rng, buffers = np.random.default_rng(len(name)), []
    for number, steps in enumerate(lengths):
        ends = np.arange(steps) == steps - 1
        told = {"score": rng.normal(size=steps + 1), "more": {"lives": rng.integers(0, 5, steps + 1)}}
        buffers.append(
            EpisodeBuffer(
                id=number,
                seed=number + 7,
                options={"level": number},
                observations=drawn(seen, steps + 1, rng),
                actions=drawn(action, steps, rng),
                rewards=rng.normal(size=steps),
                terminations=ends & (number != 1),
                truncations=ends & (number == 1),
                infos=told if infos else None,
            )
        )
    return minari.create_dataset_from_buffers(
        name,
        buffers,
        observation_space=seen,
        action_space=action,
        author={"A", "B"},
        description="of a test",
        jpeg_encoding=jpeg_encoding,
        **options,
    )


def same(one, other):
    """Whether values are equal, with their dtypes."""
    if isinstance(one, dict):
        assert isinstance(other, dict) and one.keys() == other.keys()
        for key, value in one.items():
            same(value, other[key])
    else:
        one, other = np.asarray(one), np.asarray(other)
        assert one.dtype == other.dtype and np.array_equal(one, other)


def same_datasets(one, other, infos=True):
    assert one.total_episodes == other.total_episodes and one.total_steps == other.total_steps
    assert one.observation_space == other.observation_space and one.action_space == other.action_space
    for ours, theirs in zip(one, other, strict=True):
        assert ours.id == theirs.id
        for key in ("observations", "actions", "rewards", "terminations", "truncations"):
            same(getattr(ours, key), getattr(theirs, key))
        if infos:
            same(ours.infos or {}, theirs.infos or {})


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("seen", SEEN)
def test_there_and_back(tmp_path, seen, action):
    dataset = made("test/some-v3", SEEN[seen], ACTIONS[action])
    source = tmp_path / "test" / "some-v3"
    assert convert(source, tmp_path / "snapshot").episodes == len(LENGTHS)
    shutil.move(source, tmp_path / "before")
    convert(tmp_path / "snapshot", source, target_format="minari")
    back = minari.load_dataset("test/some-v3")
    same_datasets(minari.MinariDataset(tmp_path / "before" / "data"), back)
    assert back.spec.dataset_id == dataset.spec.dataset_id and not back.storage.jpeg_encoding
    for key in ("author", "description", "observation_space"):
        assert back.storage.metadata[key] == dataset_metadata(tmp_path / "before")[key]
    for number, told in enumerate(back.storage.get_episode_metadata(range(len(LENGTHS)))):
        assert told["seed"] == number + 7 and told["options"]["level"] == number
        assert told["total_steps"] == LENGTHS[number]


def dataset_metadata(path):
    return minari.MinariDataset(path / "data").storage.metadata


def test_paths_may_be_relative(tmp_path, monkeypatch):
    made("some-v0", SEEN["vector"], ACTIONS["box"])
    monkeypatch.chdir(tmp_path)
    convert("some-v0", "snapshot")
    convert("snapshot", "back-v0")  # becomes what it was
    same_datasets(minari.load_dataset("some-v0"), minari.load_dataset("back-v0"))


@pytest.mark.parametrize("seen", SEEN)
def test_observations_of_several_frames(tmp_path, seen):
    made("some-v0", SEEN[seen], ACTIONS["box"])
    convert(tmp_path / "some-v0", tmp_path / "snapshot", frame_stack=3)
    assert diffreplay.open(tmp_path / "snapshot").frame_stack == 3
    convert(tmp_path / "snapshot", tmp_path / "back-v0", target_format="minari")
    same_datasets(minari.load_dataset("some-v0"), minari.load_dataset("back-v0"))


def test_a_step_is_what_the_dataset_has(tmp_path):
    dataset = made("some-v0", SEEN["dict"], ACTIONS["discrete"], [11])
    convert(tmp_path / "some-v0", tmp_path / "snapshot")
    batch = diffreplay.open(tmp_path / "snapshot").sample(200)
    (episode,) = dataset
    seen = set()
    for k, score in enumerate(batch.extras["infos/score"].tolist()):
        t = int(np.flatnonzero(episode.infos["score"][1:] == score)[0])
        assert batch.action[k].item() == episode.actions[t]
        assert np.array_equal(batch.obs["front"][k], episode.observations["front"][t])
        assert np.array_equal(batch.next_obs["arm/pose"][k], episode.observations["arm"]["pose"][t + 1])
        assert batch.obs["arm/tool"][k].item() == episode.observations["arm"]["tool"][t]
        assert batch.reward[k].item() == np.float32(episode.rewards[t])
        assert (batch.discount[k].item() == 0) == (t == 10)
        seen.add(t)
    assert seen == set(range(11))


def test_jpeg_is_told_and_kept_as_minari_decodes_it(tmp_path):
    dataset = made("some-v0", SEEN["dict"], ACTIONS["box"], jpeg_encoding=True)
    with pytest.warns(UserWarning, match="front: stored as JPEG, which is lossy"):
        convert(tmp_path / "some-v0", tmp_path / "snapshot")
    with pytest.warns(UserWarning, match="JPEG"):
        convert(tmp_path / "snapshot", tmp_path / "back-v0", target_format="minari")
    same_datasets(dataset, minari.load_dataset("back-v0"))


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_other_formats_of_minari_are_read(tmp_path, data_format):
    dataset = made("some-v0", SEEN["dict"], ACTIONS["box"], data_format=data_format, infos=False)
    with pytest.warns(UserWarning, match=f"infos are left out, as the dataset is {data_format}"):
        convert(tmp_path / "some-v0", tmp_path / "snapshot")
    with pytest.warns(UserWarning, match="infos"):
        convert(tmp_path / "snapshot", tmp_path / "back-v0", target_format="minari")
    same_datasets(dataset, minari.load_dataset("back-v0"), infos=False)


@pytest.mark.parametrize("action_dtype", ["int64", "float32"])
@pytest.mark.parametrize("frame_stack", [1, 3])
def test_a_snapshot_of_ones_own(tmp_path, action_dtype, frame_stack):
    """Frames, actions and rewards are the buffer's; Minari loads it, with spaces that hold them."""
    rng, shape = np.random.default_rng(0), () if action_dtype == "int64" else (2,)
    frames = rng.integers(0, 256, (7, 3, 36, 40), np.uint8)
    actions = rng.integers(2, 9, (6, *shape)).astype(action_dtype)
    replay = diffreplay.ReplayBuffer(
        50, (3 * frame_stack, 36, 40), shape, action_dtype=action_dtype, frame_stack=frame_stack
    )
    stacks = np.concatenate([np.repeat(frames[:1], frame_stack - 1, axis=0), frames])
    stacks = [np.concatenate(stacks[t : t + frame_stack]) for t in range(7)]
    for t in range(6):
        replay.add_transition(stacks[t], actions[t], t / 2, stacks[t + 1], t == 5, False)
    replay.save(tmp_path / "snapshot")
    convert(tmp_path / "snapshot", tmp_path / "own-v0", target_format="minari")
    dataset = minari.load_dataset("own-v0")
    (episode,) = dataset
    same(episode.observations, frames)
    same(episode.actions, actions)
    assert episode.rewards.tolist() == [t / 2 for t in range(6)] and episode.terminations.tolist() == [False] * 5 + [
        True
    ]
    assert all(dataset.observation_space.contains(frame) for frame in frames)
    assert all(dataset.action_space.contains(action) for action in actions)
    assert isinstance(dataset.action_space, spaces.Discrete if action_dtype == "int64" else spaces.Box)


def test_episodes_in_pieces_are_written_as_one(tmp_path, monkeypatch):
    made("some-v0", SEEN["image"], ACTIONS["box"], [40, 3])
    convert(tmp_path / "some-v0", tmp_path / "snapshot")
    monkeypatch.setattr("diffreplay.datasets.from_snapshot.PIECE_BYTES", 30_000)
    convert(tmp_path / "snapshot", tmp_path / "back-v0", target_format="minari")
    same_datasets(minari.load_dataset("some-v0"), minari.load_dataset("back-v0"))


@pytest.mark.parametrize("name", ["plain", "a b-v0", "x-v"])
def test_the_name_has_to_be_one_of_a_dataset(tmp_path, name):
    made("some-v0", SEEN["vector"], ACTIONS["box"])
    convert(tmp_path / "some-v0", tmp_path / "snapshot")
    with pytest.raises(InputError) as error:
        convert(tmp_path / "snapshot", tmp_path / name, target_format="minari")
    says(error, tmp_path / name, "expected the name of a Minari dataset, such as", f"got {name!r}")
    assert not (tmp_path / name).exists()


def rewrite(path, change):
    """Change what the metadata says."""
    file = path / "data" / "metadata.json"
    metadata = json.loads(file.read_bytes())
    change(metadata)
    file.write_text(json.dumps(metadata))


def deep(text='{"type": "Discrete", "n": 2, "start": 0}', times=3000):
    return '{"type": "Dict", "subspaces": {"a": ' * times + text + "}}" * times


def spaced(metadata, **changes):
    metadata["observation_space"] = json.dumps(json.loads(metadata["observation_space"]) | changes)


HOSTILE = {
    "an environment in place of spaces": lambda it: (
        it.pop("observation_space"),
        it.update(env_spec=json.dumps({"id": "X-v0", "entry_point": "os:getcwd"})),
    ),
    "no format": lambda it: it.pop("data_format"),
    "another format": lambda it: it.update(data_format="pickle"),
    "more episodes": lambda it: it.update(total_episodes=9),
    "episodes by the billion": lambda it: it.update(total_episodes=1 << 60),
    "no number": lambda it: it.update(total_episodes="many"),
    "other actions": lambda it: it.update(action_space=json.dumps({"type": "Text"})),
    "a space of no type": lambda it: it.update(action_space="{}"),
    "a huge space": lambda it: it.update(
        observation_space=json.dumps({"type": "Box", "shape": [1 << 40], "dtype": "float32", "low": 0, "high": 1})
    ),
    "a deep space": lambda it: it.update(observation_space=deep()),
    "a number in a list": lambda it: it.update(total_episodes=[1]),
    "part of an episode": lambda it: it.update(total_episodes=1.5),
    "no episodes said": lambda it: it.update(total_episodes=0),
    "steps in a list": lambda it: it.update(total_steps=[1]),
    "steps by the billion": lambda it: it.update(total_steps=10**9),
    "steps beyond memory": lambda it: it.update(total_steps=10**10),
    "steps beyond numbers": lambda it: it.update(total_steps=10**30),
    "steps below 0": lambda it: it.update(total_steps=-1),
    "fewer steps": lambda it: it.update(total_steps=5),
    "steps that are true": lambda it: it.update(total_steps=True),
    "a dtype that is no Python": lambda it: spaced(it, dtype="f4,(2"),
    "a dtype of several": lambda it: spaced(it, dtype="f4,f4"),
    "a dtype of objects": lambda it: spaced(it, dtype="O"),
    "a dtype that is a number": lambda it: spaced(it, dtype=4),
    "bounds of text": lambda it: spaced(it, dtype="uint8", shape=[40, 40], low="a", high=[[1], [2, 3]]),
    "bounds of another shape": lambda it: spaced(it, low=[0, 1]),
    "a shape of fractions": lambda it: spaced(it, shape=[2.5]),
    "a shape below 0": lambda it: spaced(it, shape=[-5, -1]),
    "a shape of text": lambda it: spaced(it, shape="5"),
    "other names": lambda it: it.update(
        observation_space=json.dumps({"type": "Dict", "subspaces": {"z": json.loads(it["observation_space"])}})
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_metadata_that_is_wrong_gives_a_sentence(tmp_path, what):
    made("some-v0", SEEN["vector"], ACTIONS["box"])
    rewrite(tmp_path / "some-v0", HOSTILE[what])
    with pytest.raises(ReplayError) as error:
        convert(tmp_path / "some-v0", tmp_path / "snapshot")
    says(error, tmp_path / "some-v0", "expected", "got")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600 and not (tmp_path / "snapshot").exists()


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("told", [[1], 10**9, 10**10, -1, 5, "19", None, 19.0])
def test_steps_are_counted(tmp_path, data_format, told):
    """However many the metadata names; the sentence names its file."""
    made("some-v0", SEEN["vector"], ACTIONS["box"], data_format=data_format, infos=False)
    assert open_source(tmp_path / "some-v0").description.steps == sum(LENGTHS)
    rewrite(tmp_path / "some-v0", lambda it: it.update(total_steps=told))
    with pytest.raises(CorruptDataError) as error:
        open_source(tmp_path / "some-v0")
    says(error, tmp_path / "some-v0/data/metadata.json", "total_steps", "expected", f"got {told!r}")
    rewrite(tmp_path / "some-v0", lambda it: it.pop("total_steps"))
    assert open_source(tmp_path / "some-v0").description.steps == sum(LENGTHS)


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
@pytest.mark.parametrize("what", ["missing", "empty", "other data", "more"])
def test_episodes_of_arrow_that_are_damaged(tmp_path, data_format, what):
    made("some-v0", SEEN["vector"], ACTIONS["box"], data_format=data_format, infos=False)
    folder = tmp_path / "some-v0/data/2"
    if what in ("missing", "more"):
        folder.rename(folder.with_name("9"))
        expected = "some-v0/data/2"
    if what == "more":
        shutil.copytree(folder.with_name("9"), folder)
        expected = "metadata.json: expected total_episodes of 5"
    if what in ("empty", "other data"):
        (file,) = folder.glob(f"*.{data_format}")
        file.write_bytes(b"something else" if what == "other data" else b"")
        expected = "some-v0/data/2"
    with pytest.raises(CorruptDataError) as error:
        convert(tmp_path / "some-v0", tmp_path / "snapshot")
    says(error, tmp_path / "some-v0", expected)
    assert "\n" not in str(error.value) and not (tmp_path / "snapshot").exists()


@pytest.mark.parametrize("seen", SEEN)
def test_long_episodes_are_read_in_pieces(tmp_path, monkeypatch, seen):
    made("some-v0", SEEN[seen], ACTIONS["box"], [40, 3, 1])
    whole = [len(piece.actions) for piece in open_source(tmp_path / "some-v0").episodes()]
    assert whole == [40, 3, 1]
    monkeypatch.setattr("diffreplay.datasets.minari_data.PIECE_BYTES", 300)
    pieces = list(open_source(tmp_path / "some-v0").episodes())
    assert len(pieces) > 9 and sum(len(piece.actions) for piece in pieces) == 44
    assert [piece.name for piece in pieces if piece.begins] == [piece.name for piece in pieces if piece.ends]
    convert(tmp_path / "some-v0", tmp_path / "snapshot")
    convert(tmp_path / "snapshot", tmp_path / "back-v0", target_format="minari")
    same_datasets(minari.load_dataset("some-v0"), minari.load_dataset("back-v0"))


def change_file(path, change):
    with h5py.File(path / "data" / "main_data.hdf5", "r+") as file:
        change(file)


def entangled(file):
    """Groups of two names each, one in the other: whoever follows all of them comes by 2 ** 40 times."""
    group = file.create_group("episode_1/infos/x")
    for _ in range(40):
        inner = group.create_group("a")
        group["b"], group = inner, inner


def replaced(file, name, values):
    del file[name]
    file[name] = values


DAMAGED = {
    "an episode is missing": lambda file: file.move("episode_1", "episode_8"),
    "no rewards": lambda file: file.__delitem__("episode_1/rewards"),
    "fewer rewards": lambda file: replaced(file, "episode_1/rewards", np.zeros(3)),
    "other observations": lambda file: replaced(file, "episode_1/observations", np.zeros((10, 6))),
    "fewer observations": lambda file: replaced(file, "episode_1/observations", np.zeros((9, 5))),
    "actions that are not finite": lambda file: replaced(
        file, "episode_1/actions", np.full((9, 2), np.nan, np.float32)
    ),
    "a link out of the file": lambda file: replaced(
        file, "episode_1/actions", h5py.ExternalLink("/etc/passwd", "episode_1/actions")
    ),
    "a size that it cannot have": lambda file: (
        file.__delitem__("episode_1/observations"),
        file.create_dataset("episode_1/observations", (1 << 40, 5), "f8", chunks=(1, 5)),
    ),
    "entangled groups": entangled,
    "a cycle": lambda file: file["episode_1"].__setitem__("infos", file["episode_1"]),
    "an episode of two names": lambda file: file.__setitem__("episode_4", file["episode_1"]),
    "a type": lambda file: file["episode_1"].__setitem__("more", np.dtype("f8")),
    "one more observation": lambda file: replaced(file, "episode_1/observations", np.zeros((11, 5))),
    "wide terminations": lambda file: [
        replaced(file, f"episode_{number}/terminations", np.zeros((steps, 2), bool))
        for number, steps in enumerate(LENGTHS)
    ],
    "no steps": lambda file: [
        replaced(file, f"episode_1/{key}", np.zeros((0, *file[f"episode_1/{key}"].shape[1:])))
        for key in ("rewards", "actions", "terminations", "truncations")
    ],
    "objects": lambda file: (
        file.__delitem__("episode_1/rewards"),
        file.create_dataset("episode_1/rewards", (9,), h5py.ref_dtype),
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_data_that_is_wrong_gives_a_sentence(tmp_path, what):
    made("some-v0", SEEN["vector"], ACTIONS["box"], infos=False)
    change_file(tmp_path / "some-v0", DAMAGED[what])
    with pytest.raises(ReplayError) as error:
        convert(tmp_path / "some-v0", tmp_path / "snapshot")
    says(error, tmp_path / "some-v0", "expected")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("what", ["larger images", "no images"])
def test_jpeg_that_is_not_what_its_space_says_gives_a_sentence(tmp_path, what):
    """Before memory is taken for what it claims."""
    made("some-v0", SEEN["image"], ACTIONS["box"], jpeg_encoding=True, infos=False)
    file = io.BytesIO()
    Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(file, "JPEG")
    data = np.frombuffer(file.getvalue(), np.uint8) if what == "larger images" else np.arange(99, dtype=np.uint8)
    change_file(tmp_path / "some-v0", lambda file: replaced(file, "episode_1/observations", np.stack([data] * 10)))
    with pytest.raises(CorruptDataError) as error:
        convert(tmp_path / "some-v0", tmp_path / "snapshot")
    expected = "of [40, 36] pixels, got [300, 400]" if what == "larger images" else "got other data"
    says(error, "episode_1/observations", "expected a JPEG", expected)
    assert not (tmp_path / "snapshot").exists()


def test_images_that_decode_to_too_much_give_a_sentence(tmp_path, monkeypatch):
    """Minari decodes all of an episode's at once."""
    made("some-v0", SEEN["dict"], ACTIONS["box"], jpeg_encoding=True, infos=False)
    monkeypatch.setattr("diffreplay.datasets.minari_files.MOST_IMAGES", 9 * 40 * 36 * 3)
    with pytest.raises(CorruptDataError) as error:
        convert(tmp_path / "some-v0", tmp_path / "snapshot")
    says(error, tmp_path / "some-v0", "episode_1", "expected at most 38880 bytes of observations/front, got 43200")
    assert not (tmp_path / "snapshot").exists()


def test_without_minari_it_says_what_to_install(tmp_path):
    made("some-v0", SEEN["vector"], ACTIONS["box"])
    program = (
        "import sys; sys.modules['minari'] = None; from diffreplay.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "convert", str(tmp_path / "some-v0"), str(tmp_path / "snapshot")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    says(done.stderr, tmp_path / "some-v0", "expected minari to be installed", "pip install 'diffreplay[datasets]'")


@pytest.mark.parametrize("name", ["metadata.json", "main_data.hdf5"])
def test_a_file_that_is_cut_gives_a_sentence(tmp_path, name):
    made("some-v0", SEEN["image"], ACTIONS["box"])
    path = tmp_path / "some-v0" / "data" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CorruptDataError) as error:
        convert(tmp_path / "some-v0", tmp_path / "snapshot")
    says(error, path, "expected")


def test_spaces_that_a_buffer_does_not_hold(tmp_path):
    seen = spaces.Tuple([GRAY, ACTIONS["box"]])
    rng = np.random.default_rng(0)
    buffer = EpisodeBuffer(
        observations=tuple(drawn(space, 4, rng) for space in seen),
        actions=drawn(ACTIONS["box"], 3, rng),
        rewards=[0.0] * 3,
        terminations=[False] * 3,
        truncations=[False, False, True],
    )
    minari.create_dataset_from_buffers("t-v0", [buffer], observation_space=seen, action_space=ACTIONS["box"])
    with pytest.raises(InputError) as error:
        open_source(tmp_path / "t-v0")
    says(error, tmp_path / "t-v0", "observation_space: expected a space of Box", "got 'Tuple'")
