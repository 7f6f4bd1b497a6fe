"""The command itself, as a user runs it: mistakes come out as one line, and a run leaves its files in its folder."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import imageio.v3 as imageio
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from processes import left_of
from training_options import TINY

from runs.options import shortened, what_is_left

TRAIN = Path(__file__).resolve().parents[2] / "train.py"


def train(folder, *options):
    command = [sys.executable, str(TRAIN), f"hydra.run.dir={folder / 'run'}", *options]
    # Without a GPU in sight the outcome of device=cuda is the same on every machine.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=800, env=environment)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["task=walker_wolk"], "there is no such task; did you mean walker_walk"),
        (["task=walker_walk", "task_name=walker_wolk"], "did you mean walker_walk"),
        (["num_train_frame=1000"], "did you mean num_train_frames"),
        (["device=cuda", "task=cartpole_balance"], "use device=auto or device=cpu"),
        (["device=gpu"], "expected auto, cpu, cuda or cuda:<index>"),
        (["half_compress=true", "full_compress=true"], "exclude each other"),
        (["full_compress=true", "codec=zst"], "expected one of"),
        (["batch_size=big"], "option batch_size: expected a whole number, got big"),
        (["full_compress=yess"], "option full_compress: expected true or false, got yess"),
        (["discount=x"], "option discount: expected a number, got x"),
        (["task=easy"], "expected a task, such as task=walker_walk, of those that"),
        (["full_compress=true", "codec=zst"], "did you mean zstd?"),
        (["task=walker_walk,walker_run"], "multirun"),
        (["seed=1,2"], "add -m (hydra's --multirun) for a run with each of them, or write seed=[1,2] for a list"),
        (["full_compress=true", "replay_buffer_max_bytes=4XB"], "such as 4000000000, 4GB or 4GiB"),
        (["task"], "missing EQUAL"),
        ([f"hydra.run.dir={TRAIN}/run"], "choose another run folder"),
        ([f"hydra.run.dir=/tmp/{'x' * 300}"], "choose another run folder"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, options, expected):
    result = train(tmp_path, *options)
    assert result.returncode == 1
    assert expected in result.stderr
    assert result.stderr.startswith("train.py: ") and result.stderr.count("\n") == 1, result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("config", ["config", "atari"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_tells_every_option_with_its_comment(tmp_path, config, flag):
    told = train(tmp_path, *(["--config-name=atari"] if config == "atari" else []), flag)
    assert told.returncode == 0 and told.stderr == ""
    text = (TRAIN.parent / "cfgs" / f"{config}.yaml").read_text()
    options = text[: text.index("\n# Everything a run writes")].split("\n\n", 1)[1]
    assert options.strip() in told.stdout
    assert "hydra:" not in told.stdout and "defaults:" not in told.stdout
    tasks = {file.stem for file in (TRAIN.parent / "cfgs" / "task").glob("*.yaml")} - {"easy", "medium", "hard"}
    listed = {task for task in tasks if re.search(rf"\b{task}\b", told.stdout)}
    assert listed == (tasks if config == "config" else set())


def test_many_options_still_make_a_folder(tmp_path):
    options = [*TINY, "full_compress=true", "nstep=3", "agent.critic_target_tau=0.02", "snapshot_every_frames=5000"]
    options += ["num_train_frames=10", "stddev_schedule='linear(1.0,0.1,500000)'", "experiment=" + "long" * 40]
    assert len(options) > 18
    command = [sys.executable, str(TRAIN), *options]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=800, env=environment)
    assert result.returncode == 0, result.stderr
    (day,) = (tmp_path / "exp_local").iterdir()
    (folder,) = day.iterdir()
    assert (folder / "train.csv").exists() and "task=walker_walk" in (folder / ".hydra" / "overrides.yaml").read_text()
    assert 200 < len(folder.name.encode()) < 256 and "action_repeat=10" in folder.name


def test_a_name_is_cut_between_characters():
    assert shortened("task=walker_walk") == "task=walker_walk"
    names = [shortened("\u00fc" * length) for length in (101, 1001)]
    assert names[0] != names[1] and all(len(name.encode()) < 220 for name in names)
    assert names[0].startswith("\u00fc" * 100 + "...")


def descendants(process_id):
    """Processes under one, as (parent, process, command line)."""
    found = []
    for path in Path(f"/proc/{process_id}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # of a thread or process that has ended meanwhile
            for child in path.read_text().split():
                line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                found += [(process_id, int(child), line), *descendants(int(child))]
    return found


@pytest.mark.parametrize("mode", ["full_compress=true", "full_compress=false"])
def test_workers_come_from_a_server_and_a_second_run_in_the_folder_is_refused(tmp_path, mode):
    options = [*TINY, mode, "replay_buffer_num_workers=1", "num_train_frames=1000000", "num_seed_frames=0"]
    command = [sys.executable, str(TRAIN), f"hydra.run.dir={tmp_path / 'run'}", "task=cartpole_balance", *options]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline, workers = time.monotonic() + 200, []
        while not workers and time.monotonic() < deadline:
            time.sleep(0.2)
            assert first.poll() is None
            family = descendants(first.pid)
            servers = [child for _, child, line in family if "multiprocessing.forkserver" in line]
            workers = [child for parent, child, _ in family if parent in servers]
        assert workers
        others = [line for parent, child, line in family if parent == first.pid and child not in servers]
        assert all("resource_tracker" in line for line in others), "no worker is a fork of the trainer"
        second = train(tmp_path, *options)
        assert second.returncode == 1 and "alone" in second.stderr and "hydra.run.dir" in second.stderr
        assert second.stderr.count("\n") == 1 and "Traceback" not in second.stderr
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    assert not left_of([child for _, child, _ in family], 20), "nobody outlives a killed trainer"


def test_ctrl_c_says_where_the_files_are(tmp_path):
    options = [*TINY, "full_compress=true", "num_train_frames=1000000", "num_seed_frames=1000000"]
    command = [sys.executable, str(TRAIN), f"hydra.run.dir={tmp_path / 'run'}", *options]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert str(tmp_path / "run") in run.stdout.readline()
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=200)
    last = told.splitlines()[-1]
    assert run.returncode == 130 and "Traceback" not in told, told
    assert last.startswith("train.py: interrupted; ") and str(tmp_path / "run") in last and "save_snapshot" in last
    assert "the first one was not due yet" in what_is_left(tmp_path / "run", save_snapshot=True)


def test_without_its_packages_one_sentence_says_what_to_install(tmp_path):
    # The library alone: hydra cannot be imported, whatever the environment holds.
    (tmp_path / "hydra.py").write_text("raise ModuleNotFoundError('No module named hydra', name='hydra')\n")
    hidden = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", f"import runpy; runpy.run_path({str(TRAIN)!r}, run_name='__main__')"]
    result = subprocess.run(command, cwd=tmp_path, env=hidden, capture_output=True, text=True, timeout=200)
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    assert "train.py: expected the package hydra, which is not installed: make setup" in result.stderr


def test_what_ctrl_c_advises_can_be_pasted(tmp_path):
    folder = tmp_path / "task=walker_walk,full_compress=true"
    folder.mkdir()
    (folder / "snapshot.pt").touch()
    advised = re.search(r"with (.*) go on", what_is_left(folder, True))[1]
    override = subprocess.run(["bash", "-c", f"printf %s {advised}"], capture_output=True, text=True).stdout
    (parsed,) = OverridesParser.create().parse_overrides([override])
    assert parsed.key_or_group == "hydra.run.dir" and parsed.value() == str(folder)


def test_a_full_disk_ends_a_run_in_one_line(tmp_path):
    options = [*TINY, "task=cartpole_balance", "action_repeat=50", "save_snapshot=true", "num_train_frames=1000"]
    command = f"ulimit -f 2000; exec {sys.executable} {TRAIN} hydra.run.dir={tmp_path / 'run'} {' '.join(options)}"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=800)
    assert result.returncode == 1
    assert "cannot be written (File too large): make room for it" in result.stderr
    assert result.stderr.startswith("train.py: ") and result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "run" / "snapshot.pt.tmp").exists()


def test_a_damaged_snapshot_is_one_line(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "snapshot.pt").write_bytes(b"PK\x03\x04 no snapshot")
    result = train(tmp_path, *TINY)
    assert result.returncode == 1
    assert "snapshot.pt is not a readable snapshot" in result.stderr and result.stderr.count("\n") == 1


def test_a_run_from_another_folder_leaves_its_files_in_the_run_folder(tmp_path):
    options = ["full_compress=true", "eval_every_frames=1200", "save_video=true", "use_tb=true", "save_snapshot=true"]
    result = train(tmp_path, *TINY, *options)
    assert result.returncode == 0, result.stderr
    *before, last = result.stdout.splitlines()
    assert re.match(r"compression ratio: [0-9.]+ against plain stacks of 3 gray frames of 21168 bytes; 120 tr", last)
    assert any(re.match(r"\| replay \| 100 transitions \| \d+ bytes each", line) for line in before), result.stdout
    run = tmp_path / "run"
    assert not (run / "train.log").exists(), "it would be empty"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert len((run / "train.csv").read_text().splitlines()) == 2
    assert len((run / "eval.csv").read_text().splitlines()) == 3
    assert list((run / "tb").glob("events.out.tfevents.*"))
    video = imageio.imread(run / "eval_video" / "1200.mp4")
    assert video.shape == (101, 256, 256, 3) and video.std() > 1

    again = train(tmp_path, *TINY, *options)
    assert again.returncode == 0, again.stderr
    assert "going on from" in again.stdout and "nothing to train" in again.stdout
