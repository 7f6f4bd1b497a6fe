"""Where and how a loader's worker processes start, and which failures end it. Real programs, real signals."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import kill

import diffreplay
from diffreplay.codecs import ZstdCodec
from diffreplay.errors import WorkerError
from tests.loading.test_loader import fill, loader, pids, replay  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
SIDE = 24
FILLED = """
import os, sys, time, warnings
import numpy as np
import diffreplay
replay = diffreplay.ReplayBuffer(100, (3, 24, 24), (2,))
for t in range(50):
    replay.add_transition(np.full((3, 24, 24), t, np.uint8), [t, t], t, np.full((3, 24, 24), t + 1, np.uint8), 0, 0)
"""


def program(text: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program from a file in a folder of its own, or from standard input where `folder` is None."""
    folder = options.pop("folder")
    source = FILLED + textwrap.dedent(text)
    if folder is not None:
        (folder / "program.py").write_text(source)
    command = [sys.executable, "-W", "default", "-" if folder is None else "program.py"]
    return subprocess.run(
        command,
        input=source if folder is None else None,
        cwd=folder or ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=800,
        **options,
    )


DEFAULT = """
    import multiprocessing
    {before}
    if __name__ == "__main__":
        batches = iter(diffreplay.make_replay_loader(replay, 8, num_workers=1))
        next(batches)
        (worker,) = multiprocessing.active_children()
        print(open(f"/proc/{{worker.pid}}/cmdline").read())
"""


@pytest.mark.parametrize(
    ("before", "method"),
    [
        ("", "forkserver"),
        ("multiprocessing.Lock()", "forkserver"),
        ("if __name__ == '__main__': multiprocessing.set_start_method('spawn')", "spawn"),
    ],
)
def test_processes_start_by_forkserver_unless_the_program_chose_spawn(tmp_path: Path, before: str, method: str) -> None:
    done = program(DEFAULT.format(before=before), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"multiprocessing.{method}" in done.stdout


@pytest.mark.parametrize("context", [None, "spawn", "forkserver"])
def test_a_program_without_a_guard_does_not_run_on_in_its_workers(tmp_path: Path, context: str | None) -> None:
    done = program(
        f"""
        batches = iter(diffreplay.make_replay_loader(replay, 8, num_workers=2, multiprocessing_context={context!r}))
        next(batches)
        print("ran on", os.getpid(), flush=True)
        """,
        folder=tmp_path,
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode and "ran on" not in done.stdout
    assert "WorkerError" in last and 'under if __name__ == "__main__"' in last
    assert "threads=True" in last and "num_workers=0" in last


def test_a_program_from_standard_input_says_what_to_use(tmp_path: Path) -> None:
    done = program("next(iter(diffreplay.make_replay_loader(replay, 8, num_workers=1)))", folder=None)
    last = done.stderr.splitlines()[-1]
    assert done.returncode and "standard input" in last and "__main__" not in last
    assert "threads=True" in last and "num_workers=0" in last
    for option in ("threads=True", "num_workers=0", "multiprocessing_context='fork'"):
        done = program(f"next(iter(diffreplay.make_replay_loader(replay, 8, {option}))); print('done')", folder=None)
        assert done.stdout == "done\n", done.stderr


def test_a_forked_child_that_ends_leaves_the_workers_alone(tmp_path: Path) -> None:
    done = program(
        """
        if __name__ == "__main__":
            import multiprocessing
            for options in ({"persistent_workers": True}, {"multiprocessing_context": "fork"}):
                loader = diffreplay.make_replay_loader(replay, 8, num_workers=2, **options)
                batches = iter(loader)
                next(batches)
                before = sorted(worker.pid for worker in multiprocessing.active_children())
                for end in ("sys.exit(0)", "loader = batches = None"):
                    if not (child := os.fork()):
                        exec(end)
                        sys.exit(0)
                    os.waitpid(child, 0)
                time.sleep(0.3)
                for _ in range(20):
                    next(batches)
                assert len(before) == 2
                assert sorted(worker.pid for worker in multiprocessing.active_children()) == before
                loader = batches = None
            print("done")
        """,
        folder=tmp_path,
    )
    assert done.stdout == "done\n" and "died" not in done.stderr, done.stderr


def outcome_in(process: Any, target: Any, *arguments: Any) -> str:
    """What a function sends through a pipe from a process of multiprocessing."""
    ours, theirs = multiprocessing.Pipe()
    child = process(target=target, args=(theirs, *arguments))
    child.start()
    assert ours.poll(200), "it hangs"
    child.join(200)
    return str(ours.recv())


def try_next(pipe: Any, batches: Iterator[Any]) -> None:
    try:
        next(batches)
        pipe.send("a batch")
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}")


def try_loader(pipe: Any, made: Any) -> None:
    try:
        next(iter(made))
        pipe.send("a batch")
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("options", [{"threads": True}, {"multiprocessing_context": "fork"}, {}], ids=str)
def test_an_iterator_in_a_forked_child_says_what_to_use(
    replay: diffreplay.ReplayBuffer,  # noqa: F811
    options: dict[str, Any],
) -> None:
    batches = iter(loader(replay, num_workers=2, **options))
    next(batches)
    fork = multiprocessing.get_context("fork").Process
    told = outcome_in(fork, try_next, batches)
    assert told.startswith("WorkerError") and "threads=True" in told and "num_workers=0" in told
    next(batches)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_loader_in_a_daemonic_process_says_what_to_use(
    replay: diffreplay.ReplayBuffer,  # noqa: F811
    method: str,
) -> None:
    def daemon(**options: Any) -> Any:
        return multiprocessing.get_context("fork").Process(daemon=True, **options)

    told = outcome_in(daemon, try_loader, loader(replay, num_workers=2, multiprocessing_context=method))
    assert told.startswith("WorkerError") and "threads=True" in told and "num_workers=0" in told
    assert outcome_in(daemon, try_loader, loader(replay, num_workers=2, threads=True)) == "a batch"
    assert outcome_in(daemon, try_loader, loader(replay, num_workers=0)) == "a batch"


def test_a_persistent_loader_works_anew_in_a_forked_child(replay: diffreplay.ReplayBuffer) -> None:  # noqa: F811
    made = loader(replay, num_workers=1, threads=True, persistent_workers=True)
    next(iter(made))
    assert outcome_in(multiprocessing.get_context("fork").Process, try_loader, made) == "a batch"


class Unpicklable(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class OneWay(Exception):
    """Goes into pickle, and does not come out."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} {code}")


class Moody(ZstdCodec):
    """Raises, or ends its process, as long as a file says so."""

    name = "moody"

    def __init__(self, mood: Path) -> None:
        super().__init__()
        self.mood = str(mood)
        self.trainer = os.getpid()

    def options(self) -> dict[str, Any]:
        return {"mood": self.mood}

    def decode(self, *arguments: Any) -> None:
        self.act("drawing")
        super().decode(*arguments)

    def act(self, when: str) -> None:
        try:
            mood = Path(self.mood).read_text()
        except FileNotFoundError:
            return
        if mood == "unpicklable":
            raise Unpicklable("it is moody")
        if mood == "one way":
            raise OneWay(7, "it is moody")
        if mood == "exit":
            raise SystemExit(3)
        if mood == "value":
            raise ValueError("it is moody")
        if mood.startswith(f"killed {when}") and os.getpid() != self.trainer:
            if mood.endswith("once"):
                os.unlink(self.mood)
            os.kill(os.getpid(), signal.SIGKILL)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.act("starting")


@pytest.fixture
def mood(tmp_path: Path) -> Path:
    return tmp_path / "mood"


@pytest.fixture
def moody(mood: Path) -> diffreplay.ReplayBuffer:
    buffer = diffreplay.ReplayBuffer(2000, (3, SIDE, SIDE), (2,), codec=Moody(mood))
    fill(buffer, 500)
    return buffer


ALL_WORKERS = [
    {"num_workers": 2, "threads": True},
    {"num_workers": 2, "multiprocessing_context": "fork"},
    {"num_workers": 1, "multiprocessing_context": "forkserver"},
]


@pytest.mark.parametrize("options", [{"num_workers": 0}, *ALL_WORKERS], ids=str)
@pytest.mark.parametrize("kind", ["value", "unpicklable", "one way", "exit"])
def test_an_error_in_drawing_is_raised_and_the_batch_drawn_again(
    moody: diffreplay.ReplayBuffer, mood: Path, options: dict[str, Any], kind: str
) -> None:
    expected = iter(loader(moody, num_workers=0))
    batches = iter(loader(moody, **options))
    for _ in range(3):
        assert torch.equal(next(batches).window, next(expected).window)
    mood.write_text(kind)
    raised, ahead = None, []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while raised is None:
            try:
                ahead.append(next(batches).window.clone())
            except BaseException as error:
                raised = error
        with pytest.raises(type(raised)):  # it still fails
            next(batches)
    told = f"{type(raised).__name__}: {raised} {getattr(raised, '__notes__', '')}"
    assert "moody" in told or kind == "exit"
    if options["num_workers"]:
        wanted = {"value": ValueError, "one way": WorkerError, "exit": WorkerError, "unpicklable": WorkerError}[kind]
        assert type(raised) is wanted
        assert (
            "in decode" in told
            and {"value": "ValueError", "one way": "OneWay", "exit": "SystemExit"}.get(kind, "Unpicklable") in told
        )
    mood.unlink()
    for window in ahead:
        assert torch.equal(window, next(expected).window)
    for _ in range(30):
        assert torch.equal(next(batches).window, next(expected).window)


@pytest.mark.parametrize("moment", ["drawing", "starting"])
def test_workers_that_are_killed_again_and_again_end_in_an_error_that_says_how(
    moody: diffreplay.ReplayBuffer, mood: Path, moment: str
) -> None:
    expected = [batch.window for batch, _ in zip(loader(moody, num_workers=0), range(20), strict=False)]
    batches = iter(loader(moody, num_workers=2, multiprocessing_context="forkserver"))
    found = [next(batches).window for _ in range(3)]
    mood.write_text(f"killed {moment}")
    kill(*pids(batches))  # those that did not do so themselves
    with pytest.warns(RuntimeWarning, match="died"), pytest.raises(WorkerError, match=r"SIGKILL.*memory.*threads=True"):
        while len(found) < 20:
            found.append(next(batches).window)
    mood.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those that are dying yet
        found += [next(batches).window for _ in range(20 - len(found))]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_replacement_that_is_killed_early_is_replaced_too(moody: diffreplay.ReplayBuffer, mood: Path) -> None:
    expected = [batch.window for batch, _ in zip(loader(moody, num_workers=0), range(20), strict=False)]
    batches = iter(loader(moody, num_workers=1, multiprocessing_context="forkserver"))
    found = [next(batches).window]
    mood.write_text("killed starting once")
    kill(*pids(batches))
    with pytest.warns(RuntimeWarning, match="died") as told:
        found += [next(batches).window for _ in range(19)]
    assert len([one for one in told if one.category is RuntimeWarning]) == 2 and not mood.exists()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("options", [{"num_workers": 0}, *ALL_WORKERS], ids=str)
def test_a_loader_that_waits_says_once_what_is_missing(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffreplay.loading.warn.NOTICE_SECONDS", 0.3)
    buffer = diffreplay.ReplayBuffer(2000, (3, SIDE, SIDE), (2,), nstep=20)
    fill(buffer, 500, length=10)
    batches = iter(loader(buffer, **options))

    def fill_later() -> None:
        deadline = time.monotonic() + 100
        while not told.list and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(1)  # in which it might say so again
        fill(buffer, 50, 500)

    with pytest.warns(RuntimeWarning, match=r"waits for a batch.*21 steps") as told:
        writer = threading.Thread(target=fill_later)
        writer.start()
        next(batches)
        writer.join()
    (one,) = (one for one in told if one.category is RuntimeWarning)
    assert one.filename == __file__
