"""Files that are truncated, mislabelled or meant to do harm: one sentence that names them, and nothing is written."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import h5py
import numcodecs
import numpy as np
import pytest
import zarr
import zstandard
from made_datasets import drqv2_episode, drqv2_folder, robomimic_file, same_zarr, write_npz, zarr_group
from says import says

from diffreplay.datasets import convert, hdf5, npz
from diffreplay.errors import CorruptDataError, InputError, ReplayError

ROOT = Path(__file__).resolve().parents[2]
HUGE = 1 << 50


class Harmful:
    """What runs a command as soon as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def refuse(source: Path, target: Path, *needles: object, error: type[ReplayError] = CorruptDataError) -> None:
    """Converting is refused in one sentence, in little memory, and leaves nothing."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), limits[1]))
    try:
        with pytest.raises(error) as refused:
            convert(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    says(refused, *needles)
    assert "\n" not in str(refused.value)
    assert not target.exists() and not list(target.parent.glob(".*"))


# DrQ-v2's .npz files


@pytest.fixture
def episodes(tmp_path):
    drqv2_folder(tmp_path / "episodes", [10, 12, 11])
    return tmp_path / "episodes"


def second(folder: Path) -> Path:
    return sorted(folder.iterdir())[1]


def with_arrays(path: Path, **arrays: np.ndarray | None) -> None:
    episode = drqv2_episode(12, np.random.default_rng(0)) | arrays
    np.savez_compressed(path, **{key: values for key, values in episode.items() if values is not None})


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"observation": np.zeros((13, 9, 16, 16), np.float32)}, "float32 | uint8"),
        ({"observation": np.zeros((13, 9, 16, 17), np.uint8)}, "(9, 16, 17) | (9, 16, 16)"),
        ({"observation": np.zeros((12, 9, 16, 16), np.uint8)}, "13 rows | 12"),
        ({"action": np.zeros((13, 5), np.float32)}, "(5,) | (6,)"),
        ({"action": np.zeros((13, 6), np.float64)}, "float64"),
        ({"action": np.zeros((14, 6), np.float32)}, "13 rows | 14"),
        ({"reward": np.zeros(13, np.float32)}, "reward | (13, 1) | (13,)"),
        ({"reward": np.zeros((13, 1))}, "reward | float32 | float64"),
        ({"discount": np.zeros((13, 1), np.int64)}, "discount | float32 | int64"),
        ({"discount": np.float32(1)}, "discount | 13 rows"),
        ({"reward": None}, "none called reward"),
        ({"observation": None, "action": None}, "none called observation, action"),
        ({"more": np.zeros((13, 2))}, "more"),
        ({"action": np.array([["a"] * 6] * 13)}, "action"),
    ],
)
def test_npz_that_is_mislabelled(episodes, tmp_path, arrays, told):
    with_arrays(second(episodes), **arrays)
    refuse(episodes, tmp_path / "snapshot", second(episodes), told)


def test_all_npz_are_of_what_cannot_be_stored(tmp_path):
    (tmp_path / "episodes").mkdir()
    episode = drqv2_episode(5, np.random.default_rng(0))
    path = write_npz(tmp_path / "episodes", 0, episode | {"action": np.array([["a"] * 6] * 6)})
    refuse(tmp_path / "episodes", tmp_path / "snapshot", path, "action", "numbers")
    path = write_npz(tmp_path / "episodes", 0, episode | {"action": np.zeros((6, 0), np.float32)})
    refuse(tmp_path / "episodes", tmp_path / "snapshot", path, "action", "positive")
    path = write_npz(tmp_path / "episodes", 0, episode | {"action": np.zeros((6, 2), ">f4")})
    refuse(tmp_path / "episodes", tmp_path / "snapshot", path, "action", "little-endian")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.999])
def test_npz_that_is_truncated(episodes, tmp_path, kept):
    path = second(episodes)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    refuse(episodes, tmp_path / "snapshot", path)


def test_npz_with_pickles(episodes, tmp_path):
    pickled = np.empty(13, object)
    pickled[:] = Harmful(tmp_path / "harm")
    with_arrays(second(episodes), action=pickled)
    refuse(episodes, tmp_path / "snapshot", second(episodes), "action", "Python objects")
    with zipfile.ZipFile(second(episodes), "w") as file:
        file.writestr("action.npy", pickle.dumps(Harmful(tmp_path / "harm")))
    refuse(episodes, tmp_path / "snapshot", second(episodes))
    second(episodes).write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    refuse(episodes, tmp_path / "snapshot", second(episodes))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (13, 9, 1099511627776, 16)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 9, 16, 16)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (13,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (13, 9, 16)}",
        "__import__('os').mkdir('harm')",
        "{'descr': '" + "|u1" * 9000 + "'}",
    ],
)
def test_npz_whose_header_lies(episodes, tmp_path, header, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = header.encode().ljust(118) + b"\n"
    with zipfile.ZipFile(second(episodes), "w", zipfile.ZIP_DEFLATED) as file:
        for key, values in drqv2_episode(12, np.random.default_rng(0)).items():
            array = io.BytesIO()
            np.save(array, values)
            data = array.getvalue()
            if key == "observation":
                data = b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + bytes(13 * 9 * 16 * 16)
            file.writestr(f"{key}.npy", data)
    refuse(episodes, tmp_path / "snapshot", second(episodes))
    assert not (tmp_path / "harm").exists()


HEADERS = {
    "cut": "{'descr': '<f4', 'fortran_order': False, 'shape': (6,",
    "too deep": "-" * 9000 + "1",
    "a key that is a list": "{[1]: 2}",
    "keys that cannot be sorted": "{1: 2, 'a': 3}",
    "a dtype that is no Python": "{'descr': 'f4,(2', 'fortran_order': False, 'shape': (6,)}",
    "not text": "{'descr': '\\ud800', 'fortran_order': False, 'shape': (6,)}",
    "an empty one": "",
}


@pytest.mark.parametrize("what", HEADERS)
@pytest.mark.parametrize("version", [1, 2])
def test_npz_whose_header_is_no_header(episodes, tmp_path, what, version):
    body = HEADERS[what].encode()
    with zipfile.ZipFile(second(episodes), "w") as file:
        file.writestr("x.npy", b"\x93NUMPY" + bytes([version, 0]) + len(body).to_bytes(2 * version, "little") + body)
    refuse(episodes, tmp_path / "snapshot", second(episodes), "damaged")


def test_npz_whose_header_is_huge(episodes, tmp_path):
    """It says that it has three gigabytes."""
    size, spaces = 3 << 30, b" " * (1 << 20)
    with zipfile.ZipFile(second(episodes), "w", zipfile.ZIP_DEFLATED) as file, file.open("x.npy", "w") as member:
        member.write(b"\x93NUMPY\x02\x00" + size.to_bytes(4, "little") + b"{")
        for _ in range(64):
            member.write(spaces)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(episodes, tmp_path / "snapshot", second(episodes))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # kilobytes


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("flipped", [0, 20])
def test_npz_that_is_compressed_as_numpy_does_not(episodes, tmp_path, method, flipped):
    path = second(episodes)
    with zipfile.ZipFile(path, "w", method) as file:
        for key, values in drqv2_episode(12, np.random.default_rng(0)).items():
            array = io.BytesIO()
            np.save(array, values)
            file.writestr(f"{key}.npy", array.getvalue())
    data = bytearray(path.read_bytes())
    data[60 : 60 + flipped] = bytes(255 - byte for byte in data[60 : 60 + flipped])
    path.write_bytes(data)
    refuse(episodes, tmp_path / "snapshot", path, "deflated", f"method {method}")


def test_npz_that_unpacks_to_too_much(episodes, tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MOST_BYTES", 1_000_000)
    with_arrays(second(episodes), physics=np.zeros((13, 20_000)))  # of a few kilobytes
    assert second(episodes).stat().st_size < 100_000
    refuse(episodes, tmp_path / "snapshot", second(episodes), "at most 1000000 bytes")


def test_npz_with_numbers_that_are_none(episodes, tmp_path):
    (tmp_path / "one").mkdir()
    reward = np.zeros((13, 1), np.float32)
    reward[5] = np.nan
    with_arrays(tmp_path / "one/20211231T120000_0_12.npz", reward=reward)
    with pytest.raises(InputError) as refused:
        convert(tmp_path / "one", tmp_path / "snapshot")
    says(refused, tmp_path / "one", "20211231T120000_0_12.npz", "finite rewards", "step 4")


def test_npz_that_is_no_file(episodes, tmp_path):
    path = second(episodes)
    path.unlink()
    os.mkfifo(path)
    refuse(episodes, tmp_path / "snapshot", path, "FIFO")


# HDF5


@pytest.fixture
def demos(tmp_path):
    robomimic_file(tmp_path / "demos.hdf5", [10, 12, 11])
    return tmp_path / "demos.hdf5"


def replace(group, name, values):
    del group[name]
    group[name] = values


BREAK_HDF5 = {
    "no data": (lambda file: file.move("data", "date"), "data/demo_0"),
    "no demos": (lambda file: [file["data"].pop(name) for name in list(file["data"])], "data/demo_0"),
    "no actions": (lambda file: file["data/demo_1"].pop("actions"), "demo_1 | actions"),
    "no obs": (lambda file: file["data/demo_1"].pop("obs"), "demo_1 | obs"),
    "a camera less": (lambda file: file["data/demo_1/obs"].pop("agentview_image"), "demo_1 | next_obs"),
    "no num_samples": (lambda file: file["data/demo_1"].attrs.pop("num_samples"), "demo_1 | num_samples"),
    "wrong num_samples": (lambda file: file["data/demo_1"].attrs.update(num_samples=13), "demo_1 | 13 rows | 12"),
    "wrong total": (lambda file: file["data"].attrs.update(total=34), "34 steps | 33"),
    "a row less": (lambda file: replace(file["data/demo_1"], "rewards", np.zeros(11)), "demo_1 | rewards | 11"),
    "wrong dtype": (
        lambda file: replace(file["data/demo_1"], "actions", np.zeros((12, 7), np.float32)),
        "demo_1 | demo_0 | float32 | float64",
    ),
    "wrong shape": (
        lambda file: replace(file["data/demo_1"], "rewards", np.zeros((12, 1))),
        "demo_1 | rewards | (12,) | (12, 1)",
    ),
    "text": (lambda file: replace(file["data/demo_1"], "states", np.array([b"a"] * 12)), "demo_1/states | numbers"),
    "objects": (
        lambda file: replace(file["data/demo_1"], "states", np.array(["a"] * 12, h5py.string_dtype())),
        "demo_1/states | numbers",
    ),
    "a number": (lambda file: replace(file["data/demo_1"], "states", 3.0), "demo_1/states | array"),
    "a soft link": (
        lambda file: replace(file["data/demo_1"], "states", h5py.SoftLink("/data/demo_0/states")),
        "link | demo_1/states",
    ),
    "an external link": (
        lambda file: replace(file["data/demo_1"], "states", h5py.ExternalLink("/etc/passwd", "/x")),
        "link | demo_1/states",
    ),
    "external data": (
        lambda file: file["data/demo_1"].create_dataset("more", (12, 4), "u1", external=[("/etc/passwd", 0, 48)]),
        "demo_1/more | other files",
    ),
    "a huge shape": (
        lambda file: file["data/demo_1"].create_dataset("more", (12, HUGE), "u1", chunks=(1, 1024)),
        f"demo_1/more | {12 * HUGE}",
    ),
    "huge rows": (
        lambda file: file["data/demo_1/obs"].create_dataset("more", (12, 1 << 20, 1 << 10), "u1", chunks=(1, 1, 1024)),
        "demo_1/obs/more | bytes",
    ),
}


@pytest.mark.parametrize("what", BREAK_HDF5)
def test_hdf5_that_is_mislabelled(demos, tmp_path, what):
    act, told = BREAK_HDF5[what]
    with h5py.File(demos, "r+") as file:
        act(file)
    refuse(demos, tmp_path / "snapshot", demos, told)


def test_hdf5_with_data_that_is_virtual(demos, tmp_path):
    layout = h5py.VirtualLayout((12, 3), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "elsewhere.hdf5"), "x", (12, 3))
    with h5py.File(demos, "r+") as file:
        file["data/demo_1"].create_virtual_dataset("more", layout)
    refuse(demos, tmp_path / "snapshot", demos, "demo_1/more", "other files")


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_hdf5_that_is_truncated(demos, tmp_path, kept):
    data = demos.read_bytes()
    demos.write_bytes(data[: int(len(data) * kept)])
    refuse(demos, tmp_path / "snapshot", demos)


def test_hdf5_with_damaged_chunks(tmp_path):
    path = tmp_path / "demos.hdf5"
    robomimic_file(path, [10, 12])
    with h5py.File(path, "r+") as file:
        images = file["data/demo_1/obs/agentview_image"][:]
        del file["data/demo_1/obs/agentview_image"]
        file["data/demo_1/obs"].create_dataset("agentview_image", data=images, chunks=True, compression="gzip")
        place = file["data/demo_1/obs/agentview_image"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as raw:
        raw.seek(place + 40)
        raw.write(bytes(64))
    refuse(path, tmp_path / "snapshot", path)


def entangled(file):
    """Groups of two names each, one in the other: whoever follows all of them comes by 2 ** 40 times."""
    group = file.create_group("data/demo_1/x")
    for _ in range(40):
        inner = group.create_group("a")
        group["b"], group = inner, inner


def nested(file):
    file["data/demo_1/" + "a/" * 200 + "x"] = np.zeros(12)


ENTANGLED = {
    "entangled": (entangled, "demo_1/x | two names"),
    "a cycle": (lambda file: file["data/demo_1/obs"].__setitem__("more", file["data/demo_1"]), "obs/more | two names"),
    "a cycle of one": (lambda file: file["data"].__setitem__("data", file["data"]), "data/data | two names"),
    "a cycle to the root": (lambda file: file["data/demo_1"].__setitem__("more", file["/"]), "demo_1/ | two names"),
    "a demo twice": (lambda file: file["data"].__setitem__("demo_8", file["data/demo_1"]), "demo_8 | two names"),
    "an array twice": (
        lambda file: file["data/demo_1"].__setitem__("more", file["data/demo_1/obs/agentview_image"]),
        "demo_1 | two names",
    ),
    "a deep one": (nested, "demo_1/a/a | deep"),
    "a type": (lambda file: file["data/demo_1"].__setitem__("more", np.dtype("f8")), ""),
}


@pytest.mark.parametrize("what", ENTANGLED)
def test_hdf5_whose_groups_are_entangled(demos, tmp_path, what):
    """It is refused at once, whatever path leads there."""
    act, told = ENTANGLED[what]
    with h5py.File(demos, "r+") as file:
        act(file)
    started = time.monotonic()
    refuse(demos, tmp_path / "snapshot", demos, told)
    assert time.monotonic() - started < 30


def test_hdf5_whose_chunks_unpack_to_too_much(demos, tmp_path, monkeypatch):
    """The stream of a chunk goes on behind what the chunk holds."""
    monkeypatch.setattr(hdf5, "MOST_CHUNK", 1 << 24)
    with h5py.File(demos, "r+") as file:
        more = file["data/demo_1"].create_dataset("more", (12, 20_000), "f8", chunks=(12, 20_000), compression="gzip")
        more.id.write_direct_chunk((0, 0), zlib.compress(bytes(100_000_000)))
    refuse(demos, tmp_path / "snapshot", demos, "demo_1/more", "1920000 bytes", "more")


def test_hdf5_that_is_compressed_twice(demos, tmp_path):
    with h5py.File(demos, "r+") as file:
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_chunk((12, 5))
        how.set_deflate(1)
        how.set_deflate(1)
        place = file["data/demo_1"].id
        h5py.h5d.create(place, b"more", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((12, 5)), how)
    refuse(demos, tmp_path / "snapshot", demos, "demo_1/more", "compressed once")


@pytest.mark.parametrize("how", [{"compression": "gzip", "shuffle": True, "fletcher32": True}, {"compression": "lzf"}])
def test_hdf5_that_is_compressed(demos, tmp_path, monkeypatch, how):
    monkeypatch.setattr(hdf5, "MOST_CHUNK", 1 << 17)  # so that all chunks are looked into
    values = np.random.default_rng(0).integers(0, 9, (12, 64, 20))
    with h5py.File(demos, "r+") as file:
        file["data/demo_1/extra"] = values
        for number, length in ((0, 10), (2, 11)):
            file[f"data/demo_{number}/extra"] = values[:length]
        del file["data/demo_1/extra"]
        file["data/demo_1"].create_dataset("extra", data=values, chunks=(12, 64, 20), **how)
    assert convert(demos, tmp_path / "snapshot").steps == 33


@pytest.mark.parametrize("kept", [{"dtype": "f4,(2", "numbers": [1]}, {"numbers": 3}, {"bytes": 3}, [], 3, None])
def test_attributes_that_were_not_kept_so(kept):
    with pytest.raises(CorruptDataError) as refused:
        hdf5.from_json(kept)
    says(refused, "dataset.jsonl", "an attribute of HDF5")


def test_hdf5_with_a_mask_that_is_huge(demos, tmp_path):
    with h5py.File(demos, "r+") as file:
        file["mask"].create_dataset("more", (1 << 20,), f"S{1 << 20}", chunks=(1,))
    refuse(demos, tmp_path / "snapshot", demos, "mask/more", "as the file can hold")


# zarr


@pytest.fixture
def group(tmp_path):
    zarr_group(tmp_path / "data", [10, 12, 11])
    return tmp_path / "data"


def edit(path: Path, **changes: object) -> None:
    """Change what the description of an array says."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def remade(group: Path, key: str, values: np.ndarray) -> None:
    zarr.open_group(str(group), mode="r+").create_array(key, data=values, overwrite=True)


def linked(group: Path) -> None:
    chunk = next(path for path in (group / "data/state").iterdir() if path.name[0].isdigit())
    chunk.unlink()
    chunk.symlink_to("/etc/passwd")


def linked_folder(group: Path) -> None:
    (group / "data/state").rename(group.parent / "elsewhere")
    (group / "data/state").symlink_to(group.parent / "elsewhere")


def fifo(group: Path) -> None:
    chunk = next(path for path in (group / "data/state").iterdir() if path.name[0].isdigit())
    chunk.unlink()
    os.mkfifo(chunk)


def cut(group: Path, key: str, kept: float = 0.5) -> None:
    """Have each chunk's file be shorter, or longer."""
    for path in (group / "data" / key).iterdir():
        if path.name[0].isdigit():
            data = path.read_bytes()
            path.write_bytes((data * 8)[: int(len(data) * kept)])


PICKLES = [{"id": "pickle", "protocol": 5}]
BREAK_ZARR = {
    "no action": (lambda g: (g / "data/action").rename(g / "action"), "data | action"),
    "no ends": (lambda g: (g / "meta/episode_ends").rename(g / "ends"), "episode_ends"),
    "ends that fall": (lambda g: remade(g, "meta/episode_ends", np.array([10, 9, 33])), "episode_ends | grow"),
    "ends below 0": (lambda g: remade(g, "meta/episode_ends", np.array([-1, 9, 33])), "episode_ends | grow"),
    "float ends": (lambda g: remade(g, "meta/episode_ends", np.array([10.0, 33.0])), "episode_ends | float64"),
    "ends too far": (lambda g: remade(g, "meta/episode_ends", np.array([10, 22, 34])), "34 rows | 33"),
    "a row less": (lambda g: remade(g, "data/state", np.zeros((32, 5))), "data/state | 33 rows | 32"),
    "a number": (lambda g: remade(g, "data/state", np.array(3.0)), "data/state | array of numbers"),
    "text": (lambda g: remade(g, "data/state", np.array(["a"] * 33)), "data/state"),
    "objects": (lambda g: edit(g / "data/state/.zarray", dtype="|O", filters=PICKLES), "data/state | filters | pickle"),
    "pickles as a codec": (lambda g: edit(g / "data/state/.zarray", compressor=PICKLES[0]), "data/state | pickle"),
    "a huge shape": (lambda g: edit(g / "data/state/.zarray", shape=[HUGE, 5]), f"data/state | {20 * HUGE}"),
    "huge rows": (lambda g: edit(g / "data/state/.zarray", shape=[33, HUGE], chunks=[1, HUGE]), "data/state | chunks"),
    "a shape below 0": (lambda g: edit(g / "data/state/.zarray", shape=[33, -5]), "data/state | shape"),
    "a shape of text": (lambda g: edit(g / "data/state/.zarray", shape="33"), "data/state | integers"),
    "big-endian": (lambda g: edit(g / "data/state/.zarray", dtype=">f4"), "data/state | little-endian"),
    "no JSON": (lambda g: (g / "data/state/.zarray").write_text("{"), "data/state"),
    "nothing": (lambda g: (g / "data/state/.zarray").unlink(), "data/state"),
    "a deep one": (lambda g: (g / "data/state/.zarray").write_text("[" * 100_000), "data/state"),
    "a short chunk": (lambda g: cut(g, "state"), "data/state/ | whole chunk"),
    "a long chunk": (lambda g: cut(g, "state", 3.0), "data/state/ | whole chunk"),
    "a dtype that is no Python": (
        lambda g: edit(g / "data/state/.zarray", dtype="f4,(2"),
        "data/state | dtype | f4,(2",
    ),
    "a dtype of several": (lambda g: edit(g / "data/state/.zarray", dtype="f4,f4"), "data/state | dtype | f4,f4"),
    "a dtype of code": (lambda g: edit(g / "data/state/.zarray", dtype="(2,)f4"), "data/state | dtype"),
    "a codec of text": (lambda g: edit(g / "data/state/.zarray", compressor="zlib"), "data/state | zarr"),
    "raw LZMA": (
        lambda g: edit(g / "data/state/.zarray", compressor={"id": "lzma", "format": 3, "filters": [{"id": 33}]}),
        "data/state | lzma",
    ),
    "deep attributes": (lambda g: (g / "data/.zattrs").write_text("[" * 100_000), "data | attributes"),
    "attributes of text": (lambda g: (g / ".zattrs").write_text('"a"'), "attributes"),
    "a link": (linked, "data/state | a link"),
    "a linked folder": (linked_folder, "data/state | a link"),
    "a FIFO": (fifo, "data/state | something else"),
}


@pytest.mark.parametrize("what", BREAK_ZARR)
def test_zarr_that_is_mislabelled(group, tmp_path, what):
    act, told = BREAK_ZARR[what]
    act(group)
    refuse(group, tmp_path / "snapshot", group, told)


@pytest.mark.filterwarnings("ignore:.*after its last action")
@pytest.mark.parametrize("compressor", [None, "blosc", "zlib", "zstd", "lz4"])
@pytest.mark.parametrize("key", ["img", "state", "action"])
def test_zarr_with_damaged_chunks(group, tmp_path, key, compressor):
    values = zarr.open_array(str(group / "data" / key), mode="r")[:]
    shutil.rmtree(group / "data" / key)
    codec = None if compressor is None else numcodecs.get_codec({"id": compressor})
    data = zarr.open_group(str(group), mode="r+")["data"]
    data.create_array(key, data=values, chunks=(7, *values.shape[1:]), compressors=codec)
    cut(group, key)
    with pytest.raises(CorruptDataError) as refused:
        convert(group, tmp_path / "snapshot")
    says(refused, group / "data" / key)
    assert "\n" not in str(refused.value)


CHILD = """
import resource, sys, zarr
from pathlib import Path
from diffreplay.datasets import convert
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20),) * 2)
for path in sys.argv[1:]:
    try:
        convert(path, path + ".snapshot")
    except Exception as error:
        print(type(error).__name__, error)
"""


def zstd_without_a_size(data: bytes) -> bytes:
    coder = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return coder.compress(data) + coder.flush()


def bombs() -> dict[str, tuple[str, bytes]]:
    """Chunks of 100 MB or some gigabytes, in a file of a megabyte at most, and by which codec."""
    zeros, size = bytes(100_000_000), (4_000_000_000).to_bytes(4, "little")
    blosc, lz4 = (numcodecs.get_codec({"id": codec}).encode(np.zeros(1000, np.uint8)) for codec in ("blosc", "lz4"))
    return {
        "bz2": ("bz2", bz2.compress(zeros)),
        "bz2 in streams": ("bz2", bz2.compress(zeros[:10_000_000]) * 400),
        "lzma": ("lzma", lzma.compress(zeros, preset=0)),
        "lzma in streams": ("lzma", lzma.compress(zeros[:10_000_000], preset=0) * 400),
        "lzma with a window": ("lzma", lzma.compress(b"", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 3 << 29}])),
        "gzip": ("gzip", gzip.compress(zeros)),
        "gzip in streams": ("gzip", gzip.compress(zeros[:10_000_000]) * 100),
        "zlib": ("zlib", zlib.compress(zeros)),
        "zstd": ("zstd", zstandard.compress(zeros * 4)),
        "zstd in frames": ("zstd", zstandard.compress(zeros) * 40),
        "zstd without a size": ("zstd", zstd_without_a_size(zeros) * 40),
        "lz4": ("lz4", size + lz4[4:]),
        "blosc": ("blosc", blosc[:4] + size + blosc[8:]),
    }


def test_zarr_that_decodes_to_too_much(tmp_path):
    """In little memory: a process that may have 300 MB more says so, and names the file."""
    zarr_group(tmp_path / "small", [10, 12, 11])
    groups = []
    for number, (codec, content) in enumerate(bombs().values()):
        groups.append(group := tmp_path / f"group_{number}")
        shutil.copytree(tmp_path / "small", group)
        shape = [33, 24, 24, 60]
        edit(group / "data/img/.zarray", compressor={"id": codec}, shape=shape, chunks=shape)
        for path in (group / "data/img").iterdir():
            if path.name[0].isdigit():
                path.unlink()
        (group / "data/img/0.0.0.0").write_bytes(content)
    child = [sys.executable, "-c", CHILD, *map(str, groups)]
    done = subprocess.run(child, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.stderr == "" and len(lines) == len(groups) and "MemoryError" not in done.stdout
    for group, line in zip(groups, lines, strict=True):
        says(line, "CorruptDataError", group / "data/img/0.0.0.0", "expected a whole chunk")
        assert not group.with_suffix(".snapshot").exists()


@pytest.mark.filterwarnings("ignore:.*after its last action", "ignore:Numcodecs codecs")
@pytest.mark.parametrize("compressor", ["blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_of_all_codecs(tmp_path, compressor, zarr_format):
    arrays = zarr_group(tmp_path / "data", [10, 12, 11], zarr_format=zarr_format)
    root = zarr.open_group(str(tmp_path / "data"), mode="r+")
    if zarr_format == 2:
        codecs = [numcodecs.get_codec({"id": compressor})]
    elif compressor in ("blosc", "gzip", "zstd"):
        codecs = [{"name": "crc32c"}, {"name": compressor, "configuration": {}}, {"name": "crc32c"}]
    else:
        codecs = [{"name": f"numcodecs.{compressor}", "configuration": {}}]
    for key, values in arrays.items():
        del root[f"data/{key}"]
        root["data"].create_array(key, data=values, chunks=(7, *values.shape[1:]), compressors=codecs)
    convert(tmp_path / "data", tmp_path / "snapshot")
    convert(tmp_path / "snapshot", tmp_path / "back", target_format="zarr")
    same_zarr(tmp_path / "back", arrays, [10, 12, 11])


def test_zarr_3_with_two_codecs_that_compress(tmp_path):
    zarr_group(tmp_path / "data", [5], zarr_format=3)
    path = tmp_path / "data/data/state/zarr.json"
    told = json.loads(path.read_text())
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "blosc"}, {"name": "gzip"}]
    path.write_text(json.dumps(told | {"codecs": codecs}))
    refuse(tmp_path / "data", tmp_path / "snapshot", path.parent, "one that compresses", "blosc and gzip")


def test_zarr_3_with_codecs_that_are_not_known(tmp_path):
    zarr_group(tmp_path / "data", [5], zarr_format=3)
    path = tmp_path / "data/data/state/zarr.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]}))
    refuse(tmp_path / "data", tmp_path / "snapshot", path.parent, "pickle")


# Anything


@pytest.mark.parametrize("content", [b"", b"no dataset", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"])
def test_a_file_of_something_else(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    refuse(tmp_path / "file", tmp_path / "snapshot", tmp_path / "file", error=ReplayError)


def test_an_empty_folder_and_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    refuse(tmp_path / "folder", tmp_path / "snapshot", tmp_path / "folder", "an empty folder", error=InputError)
    (tmp_path / "folder" / "notes.txt").touch()
    refuse(tmp_path / "folder", tmp_path / "snapshot", tmp_path / "folder", "known format", "--from", error=InputError)
    refuse(tmp_path / "nothing", tmp_path / "snapshot", tmp_path / "nothing", "nothing there", error=InputError)


@pytest.mark.parametrize("name", ["drqv2", "robomimic", "zarr", "snapshot"])
def test_a_format_that_it_is_not(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"something")
    for source in ("folder", "file", "nothing"):
        with pytest.raises(ReplayError) as refused:
            convert(tmp_path / source, tmp_path / "target", source_format=name)
        says(refused, tmp_path / source)
        assert "\n" not in str(refused.value) and not (tmp_path / "target").exists()


def test_the_command_says_one_line(episodes, tmp_path):
    with_arrays(second(episodes), reward=None)
    line = [sys.executable, "-m", "diffreplay", "convert", str(episodes), str(tmp_path / "snapshot")]
    result = subprocess.run(line, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1
    says(result.stderr, "diffreplay: ", second(episodes), "reward")
