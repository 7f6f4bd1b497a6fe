"""An interrupt counts as one whatever a library makes of it, and waits for what must not be cut short."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from training_options import TINY

from runs import interrupts

TRAIN = Path(__file__).resolve().parents[2] / "train.py"

# Runs train.py, and interrupts it within the n-th argument that PyOpenGL converts for a function in C.
INTERRUPTED_WITHIN_A_CALL = """
import os, runpy, signal, sys
calls = int(sys.argv.pop(1))
def look(frame, event, argument):
    global calls
    if event == "call" and frame.f_code.co_name == "from_param" and "OpenGL" in frame.f_code.co_filename:
        calls -= 1
        if not calls:
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGINT)
sys.argv.pop(0)
sys.path.insert(0, os.path.dirname(sys.argv[0]))  # as for a program that Python is given
sys.setprofile(look)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("call", [1, 3])
def test_within_a_call_of_the_graphics_library(tmp_path, call):
    options = [*TINY, "full_compress=true", "num_train_frames=1000000", "num_seed_frames=1000000"]
    command = [sys.executable, "-c", INTERRUPTED_WITHIN_A_CALL, str(call), str(TRAIN)]
    command += [f"hydra.run.dir={tmp_path / 'run'}", *options]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 130 and "Traceback" not in ended.stderr, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("train.py: interrupted; what it wrote is in ")


class Interrupts:
    """An argument for a function in C, whose conversion is interrupted."""

    @classmethod
    def from_param(cls, value: object) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return 0


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(interrupts, "_came", float("-inf"))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.watch()
    yield
    signal.signal(signal.SIGINT, before)


def test_what_a_library_makes_of_an_interrupt_is_known_to_be_one(watched):
    absolute = ctypes.CDLL(None).abs
    absolute.argtypes = [Interrupts]
    with pytest.raises(ctypes.ArgumentError):
        absolute(1)
    assert interrupts.came()


def test_it_waits_for_the_end(watched):
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.held_back():
        os.kill(os.getpid(), signal.SIGINT)
        done.append(True)
    assert done and interrupts.came()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_an_error_within_is_the_interrupts_context(watched):
    with pytest.raises(KeyboardInterrupt) as raised, interrupts.held_back():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("meanwhile")
    assert isinstance(raised.value.__context__, ValueError)


def test_other_threads_and_other_handlers_are_left_alone(watched):
    def within():
        with interrupts.held_back():
            handlers.append(signal.getsignal(signal.SIGINT))

    handlers = []
    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.watch()
    within()
    assert handlers[0] is not signal.SIG_IGN and handlers[1] is signal.SIG_IGN
