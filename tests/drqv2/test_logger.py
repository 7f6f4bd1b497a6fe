import csv
import os
import pty
import sys
import termios
import time
from contextlib import suppress

import pytest
import torch
from says import says
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from drqv2.logger import COMMON_COLUMNS, TRAIN_COLUMNS, Logger
from drqv2.throughput import Throughput


def row(frame, columns=COMMON_COLUMNS):
    return {**dict.fromkeys(columns, 1.5), "frame": frame, "step": frame // 2, "episode": frame // 10}


def train_row(frame):
    names = TRAIN_COLUMNS[: TRAIN_COLUMNS.index("batch_reward")]
    return row(frame, names)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_on_disk_at_once_and_hold_the_updates_means(tmp_path, capsys):
    with Logger(tmp_path, 100, use_tb=False) as logger:
        logger.train(train_row(10))
        for loss in (1.0, 2.0, 6.0):
            logger.update({"critic_loss": torch.tensor(loss), "batch_reward": torch.tensor(0.5)})
        logger.train(train_row(20))
        logger.eval(row(20))
        rows = read(tmp_path / "train.csv")
        assert [r["frame"] for r in rows] == ["10", "20"]
        assert tuple(rows[0]) == TRAIN_COLUMNS
        assert [(r["critic_loss"], r["batch_reward"]) for r in rows] == [("", ""), ("3.0", "0.5")]
        assert read(tmp_path / "eval.csv")[0]["frame"] == "20"
    lines = capsys.readouterr().out.splitlines()
    assert [line[:7] for line in lines] == ["| train", "| train", "| eval "]
    assert "ratio 1.5" in lines[0] and "wait 150.0%" in lines[0] and "FPS 1.5" in lines[0]
    assert not (tmp_path / "tb").exists()


def test_lines_of_long_runs_fit_100_columns(tmp_path, capsys):
    long = {"frame": 30_000_000, "step": 15_000_000, "episode": 30_000, "episode_length": 1000, "total_time": 400_000}
    figures = {"episode_reward": -1000.0, "fps": 1234.5, "data_wait": 1.0, "compression_ratio": 123.4}
    with Logger(tmp_path, 100, use_tb=False) as logger:
        logger.train({**train_row(0), **long, **figures})
        logger.eval({**row(0), **long, "episode_reward": -1000.0})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= 100, lines
    assert all("frame 30000000" in line and "111:06:40" in line for line in lines)


def test_a_resumed_run_has_neither_gaps_nor_doubled_rows(tmp_path):
    with Logger(tmp_path, 100, use_tb=False) as logger:
        for frame in (10, 20, 30):
            logger.eval(row(frame))
            logger.train(train_row(frame))
    with (tmp_path / "train.csv").open("a") as file:
        file.write("15,7")  # torn off by a crash
    with Logger(tmp_path, 100, use_tb=False, resume_frame=20) as logger:
        logger.eval(row(20))
        for frame in (30, 40):
            logger.train(train_row(frame))
    assert [r["frame"] for r in read(tmp_path / "train.csv")] == ["10", "20", "30", "40"]
    assert [r["frame"] for r in read(tmp_path / "eval.csv")] == ["10", "20"]


def test_the_bar_says_that_it_evaluates_and_leaves_that_out_of_the_time(tmp_path, monkeypatch):
    """On a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        begun = time.monotonic()
        with Logger(tmp_path, 100, use_tb=False) as logger:
            logger.progress(10)
            with logger.evaluating(3) as begins:
                for episode in range(3):
                    begins(episode)
                    time.sleep(0.3)
            spent = time.monotonic() - begun
            assert logger._progress.format_dict["elapsed"] < spent - 0.85
            logger.progress(10)
            os.set_blocking(ours, False)
            shown = b""
            with suppress(BlockingIOError):
                while True:
                    shown += os.read(ours, 1 << 12)
    os.close(ours)
    shown = shown.decode()
    places = [shown.index(f"evaluating {k}/3") for k in (1, 2, 3)]
    assert places == sorted(places)
    assert "evaluating" not in shown.rsplit("\r", 1)[-1]


def test_without_a_terminal_a_line_tells_now_and_then(tmp_path, monkeypatch, capsys):
    with Logger(tmp_path, 100, use_tb=False) as logger:
        logger.progress(10)
        assert capsys.readouterr().out == ""
        monkeypatch.setattr("drqv2.logger.SILENT_SECONDS", 0.0)
        logger.progress(10)
        with logger.evaluating(3) as begins:
            begins(1)
    assert capsys.readouterr().out.splitlines() == [
        "| training | frame 20 of 100 |",
        "| evaluating 2/3 | frame 20 of 100 |",
    ]


DAMAGE = {
    "odd bytes": lambda lines: [lines[0], b"\xff\xfe\x00" + lines[1], *lines[2:]],
    "empty frame": lambda lines: [lines[0], lines[1][2:], *lines[2:]],
    "a word": lambda lines: [lines[0], lines[1].replace(b"1.5", b"one", 1), *lines[2:]],
    "a quote": lambda lines: [lines[0], b'"' + lines[1], *lines[2:]],
    "a huge number": lambda lines: [lines[0], b"9" * 5000 + lines[1][2:], *lines[2:]],
    "too many values": lambda lines: [lines[0], b"1,2," + lines[1], *lines[2:]],
    "an empty line": lambda lines: [lines[0], b"\r\n", *lines[2:]],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_of_a_damaged_table_every_readable_row_stays(tmp_path, caplog, kind):
    path = tmp_path / "train.csv"
    with Logger(tmp_path, 100, use_tb=False) as logger:
        for frame in (10, 20, 30):
            logger.train(train_row(frame))
    damaged = b"".join(DAMAGE[kind](path.read_bytes().splitlines(keepends=True)))
    path.write_bytes(damaged)
    with Logger(tmp_path, 100, use_tb=False, resume_frame=30) as logger:
        logger.train(train_row(40))
    assert [r["frame"] for r in read(path)] == ["20", "30", "40"]
    (record,) = caplog.records
    says(record.getMessage(), f"{path}:", "1 line", tmp_path / "train.old.csv")
    assert (tmp_path / "train.old.csv").read_bytes() == damaged


@pytest.mark.parametrize("content", [b"", b"\n", b"\x00" * 99, b"a,b\n1,2\n", b"frame\n7\n\xff\n"])
def test_what_is_no_table_is_kept_aside(tmp_path, content):
    (tmp_path / "eval.csv").write_bytes(content)
    with Logger(tmp_path, 100, use_tb=False, resume_frame=30) as logger:
        logger.eval(row(30))
    assert [r["frame"] for r in read(tmp_path / "eval.csv")][-1] == "30"
    assert not content or (tmp_path / "eval.old.csv").read_bytes() == content


def test_a_table_cut_anywhere_keeps_its_whole_lines(tmp_path):
    path = tmp_path / "eval.csv"
    with Logger(tmp_path, 100, use_tb=False) as logger:
        for frame in (10, 20):
            logger.eval(row(frame))
    whole = path.read_bytes()
    header, first, _ = whole.splitlines(keepends=True)
    for keep in range(0, len(whole), 7):
        path.write_bytes(whole[:keep])
        with Logger(tmp_path, 100, use_tb=False, resume_frame=90):
            pass
        expected = ["10"] if keep >= len(header + first) - 1 else []
        assert [r["frame"] for r in read(path)] == expected, keep


def test_a_run_that_starts_over_keeps_the_earlier_rows_aside(tmp_path):
    for frame in (10, 50, 70):
        with Logger(tmp_path, 100, use_tb=False) as logger:
            logger.train(train_row(frame))
    assert [r["frame"] for r in read(tmp_path / "train.csv")] == ["70"]
    assert [r["frame"] for r in read(tmp_path / "train.old.csv")] == ["10"]
    assert [r["frame"] for r in read(tmp_path / "train.old2.csv")] == ["50"]


def test_tensorboard_gets_every_figure(tmp_path):
    with Logger(tmp_path, 100, use_tb=True) as logger:
        logger.update({"critic_loss": torch.tensor(4.0)})
        logger.train(train_row(10))
        logger.eval(row(20))
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    for name, step, value in (
        ("train/critic_loss", 10, 4.0),
        ("train/compression_ratio", 10, 1.5),
        ("eval/episode_reward", 20, 1.5),
    ):
        assert [(event.step, event.value) for event in events.Scalars(name)] == [(step, value)]


def test_an_unknown_column_is_refused(tmp_path):
    with Logger(tmp_path, 100, use_tb=False) as logger, pytest.raises(ValueError, match="nonsense"):
        logger.eval({**row(10), "nonsense": 1})


def test_throughput_leaves_evaluations_out_and_tells_waiting(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("drqv2.throughput.time.perf_counter", lambda: clock[0])

    def work(seconds):
        clock[0] += seconds

    throughput = Throughput(total_time=1000)
    work(6)
    with throughput.wait():
        work(2)
    with throughput.pause():
        work(50)
    throughput.count(frames=40)
    throughput.count(samples=80)
    assert throughput.report() == {"fps": 5, "samples_per_second": 10, "data_wait": 0.25, "total_time": 1058}
    work(1)
    assert throughput.report() == {"fps": 0, "samples_per_second": 0, "data_wait": 0, "total_time": 1059}
