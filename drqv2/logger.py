"""What a run reports: console lines, train.csv and eval.csv, TensorBoard events, a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor
from tqdm import tqdm

from runs.table import CsvTable

COMMON_COLUMNS = ("frame", "step", "episode", "episode_length", "episode_reward", "total_time")
TRAIN_COLUMNS = (
    *COMMON_COLUMNS,
    "fps",
    "buffer_size",
    "replay_bytes",  # all that the replay holds in memory
    "compression_ratio",  # of observations, against plain stacks as the task is observed
    "data_wait",  # share of the time that updates waited for data
    "samples_per_second",  # transitions learnt from
    "batch_reward",
    "critic_target_q",
    "critic_q1",
    "critic_q2",
    "critic_loss",
    "actor_loss",
)


SILENT_SECONDS = 25.0


class Logger:
    """Reports to the console and to files in one folder; a context manager.

    Args:
        directory: the run folder.
        total_frames: of the run, for the progress bar, which shows on a terminal only.
        use_tb: also write TensorBoard events, under `tb/`.
        resume_frame: the frame that a resumed run goes on from; what was logged after it is dropped, as it comes again.
            None for a new run.
        evaluates_next: whether an evaluation at `resume_frame` itself comes again.
    """

    def __init__(
        self,
        directory: Path,
        total_frames: int,
        use_tb: bool,
        resume_frame: int | None = None,
        evaluates_next: bool = True,
    ) -> None:
        # A row of training at resume_frame itself was written before the snapshot.
        below = None if resume_frame is None else resume_frame + 1
        self._train = CsvTable(directory / "train.csv", TRAIN_COLUMNS, below)
        self._eval = CsvTable(directory / "eval.csv", COMMON_COLUMNS, resume_frame if evaluates_next else below)
        self._events: Any = None
        if use_tb:
            # Takes as long to import as PyTorch itself.
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(directory / "tb"), purge_step=below)
        self._progress = tqdm(
            total=total_frames,
            initial=resume_frame or 0,
            unit="frame",
            disable=None,
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._sums: dict[str, Tensor] = {}
        self._updates = 0
        self._frame, self._total = resume_frame or 0, total_frames
        self._last_line = time.monotonic()

    def progress(self, frames: int) -> None:
        """Move the progress bar by so many frames."""
        self._frame += frames
        self._progress.update(frames)
        self._say_now_and_then("training")

    @contextmanager
    def evaluating(self, episodes: int) -> Iterator[Callable[[int], None]]:
        """While the bar stands still for an evaluation, which the time that is left does not count; call with each one.

        Args:
            episodes: how many.
        """

        def begins(episode: int) -> None:
            doing = f"evaluating {episode + 1}/{episodes}"
            self._progress.set_postfix_str(doing)
            self._say_now_and_then(doing)

        try:
            yield begins
        finally:
            self._progress.unpause()
            self._progress.set_postfix_str("")

    def message(self, text: str) -> None:
        """Print one line without tearing the progress bar."""
        tqdm.write(text)
        self._last_line = time.monotonic()

    def _say_now_and_then(self, doing: str) -> None:
        """Where there is no bar, as output goes to a file or a pipe, show that the run is alive."""
        if self._progress.disable and time.monotonic() - self._last_line >= SILENT_SECONDS:
            self.message(f"| {doing} | frame {self._frame} of {self._total} |")

    def update(self, metrics: Mapping[str, Tensor]) -> None:
        """Add an update's metrics, scalar tensors, to the means of the next training row; nothing is read yet."""
        self._updates += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def train(self, row: Mapping[str, float]) -> None:
        """Report an episode of training with `row`, whose keys are columns, and the means of the updates since."""
        means = {name: total.item() / self._updates for name, total in self._sums.items()}
        self._sums, self._updates = {}, 0
        self._train.write({**row, **means})
        self._write_events("train", {**row, **means})
        self.message(
            f"| train | frame {row['frame']:.0f} | reward {row['episode_reward']:.2f} | {_hours(row)} | "
            f"FPS {row['fps']:.1f} | wait {row['data_wait']:.1%} | ratio {row['compression_ratio']:.1f} |"
        )

    def eval(self, row: Mapping[str, float]) -> None:
        """Report an evaluation."""
        self._eval.write(row)
        self._write_events("eval", row)
        self.message(
            f"| eval  | frame {row['frame']:.0f} | reward {row['episode_reward']:.2f} | {_hours(row)} | "
            f"episode {row['episode']:.0f} | length {row['episode_length']:.0f} |"
        )

    def _write_events(self, kind: str, row: Mapping[str, float]) -> None:
        if self._events is not None:
            for name, value in row.items():
                self._events.add_scalar(f"{kind}/{name}", value, int(row["frame"]))
            self._events.flush()

    def close(self) -> None:
        """Close all files and the progress bar."""
        self._progress.close()
        self._train.close()
        self._eval.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _hours(row: Mapping[str, float]) -> str:
    """The run's time, of any number of hours."""
    minutes, seconds = divmod(int(row["total_time"]), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
