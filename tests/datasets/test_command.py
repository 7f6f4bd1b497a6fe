"""`python -m diffreplay convert`."""

from __future__ import annotations

import sys

import pytest
from made_datasets import drqv2_folder, robomimic_file, same_folders, same_hdf5, same_zarr, zarr_group
from says import says

import diffreplay
from diffreplay.__main__ import main


def test_the_commands_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    drqv2_folder(tmp_path / "exp_local/walker/buffer", [20, 12])
    robomimic_file(tmp_path / "low_dim.hdf5", [5, 7])
    assert main(["convert", "exp_local/walker/buffer", "walker", "--nstep", "3"]) == 0
    says(capsys.readouterr().out, "exp_local/walker/buffer (drqv2) | walker (snapshot) | 2 episodes | 32 steps")
    assert main(["convert", "walker", "episodes"]) == 0
    same_folders(tmp_path / "exp_local/walker/buffer", tmp_path / "episodes")
    assert main(["convert", "low_dim.hdf5", "lift", "--frame-stack", "2"]) == 0
    assert main(["convert", "lift", "lift.hdf5", "--quiet"]) == 0
    same_hdf5(tmp_path / "low_dim.hdf5", tmp_path / "lift.hdf5")
    assert capsys.readouterr().err.count("left out") == 0
    assert main(["convert", "lift", "lift.zarr"]) == 0
    says(capsys.readouterr().err, "diffreplay: the final observations of episodes are left out")
    arrays = zarr_group(tmp_path / "pusht", [4, 9])
    assert main(["convert", "pusht", "pushed", "--codec", "zstd", "--discount", "0.9", "--capacity", "50"]) == 0
    says(capsys.readouterr().err, "diffreplay: no episode has an observation after its last action")
    assert main(["convert", "pushed", "again.zarr"]) == 0
    same_zarr(tmp_path / "again.zarr", arrays, [4, 9])
    assert diffreplay.open("walker").nstep == 3 and diffreplay.open("lift").frame_stack == 2
    assert (diffreplay.open("pushed").codec.name, diffreplay.open("pushed").capacity) == ("zstd", 50)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["episodes", "target", "--nstep", "0"], "nstep | 0"),
        (["episodes", "target", "--codec", "gif"], "gif"),
        (["episodes", "target", "--frame-stack", "0"], "frame_stack | 0"),
        (["episodes", "target", "--save-every", "0"], "save_every | 0"),
        (["episodes", "target", "--capacity", "3"], "capacity | 20 | 3"),
        (["episodes", "target.hdf5", "--nstep", "3"], "snapshot only | nstep"),
        (["episodes", "target", "--from", "zarr"], "episodes | zarr"),
        (["mine", "target"], "target | format | drqv2"),
        (["snapshot", "target.zarr", "--frame-stack", "2"], "snapshot | frame_stack"),
        (["nothing", "target"], "nothing"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    drqv2_folder(tmp_path / "episodes", [20])
    assert main(["convert", "episodes", "snapshot", "--quiet"]) == 0
    diffreplay.ReplayBuffer(100, (3, 16, 16), (1,)).save("mine")
    capsys.readouterr()
    assert main(["convert", *arguments]) == 2
    printed = capsys.readouterr()
    says(printed.err, "diffreplay: ", told)
    assert printed.err.count("\n") == 1 and printed.out == ""
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "target"))]


@pytest.mark.parametrize(("package", "name"), [("h5py", "demos.hdf5"), ("zarr", "data")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys, package, name):
    monkeypatch.chdir(tmp_path)
    robomimic_file(tmp_path / "demos.hdf5", [5])
    zarr_group(tmp_path / "data", [5])
    drqv2_folder(tmp_path / "episodes", [5])
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["convert", name, "target"]) == 2
    says(capsys.readouterr().err, package, "pip install 'diffreplay[datasets]'")
    assert main(["convert", "episodes", "target.h5" if package == "h5py" else "target.zarr"]) == 2
    says(capsys.readouterr().err, package, "pip install 'diffreplay[datasets]'")
    assert not list(tmp_path.glob("*target*"))


def test_without_a_progress_bar(tmp_path, monkeypatch, capsys):
    drqv2_folder(tmp_path / "episodes", [5])
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert main(["convert", str(tmp_path / "episodes"), str(tmp_path / "snapshot")]) == 0
    assert capsys.readouterr().err == ""
