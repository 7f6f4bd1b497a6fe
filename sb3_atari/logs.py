"""What a run reports, through Stable-Baselines3's logger; a resumed run goes on with the files of before."""

from __future__ import annotations

import sys
from pathlib import Path

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
)

from runs.table import keep_rows, set_aside

OF_A_RUN = ("progress.csv", "evaluations.npz", "model.zip", "replay_buffer.pkl")


class ContinuedCsv(CSVOutputFormat):
    """Stable-Baselines3's CSV file, without its rows after the step `until`, which come again."""

    def __init__(self, path: Path, until: int) -> None:
        self.keys = keep_rows(path, "time/total_timesteps", until + 1)
        self.file = path.open("r+")
        self.file.seek(0, 2)
        self.separator, self.quotechar = ",", '"'


class ContinuedEvents(TensorBoardOutputFormat):
    """Stable-Baselines3's TensorBoard events; those after the step `until` of earlier files count no more."""

    def __init__(self, folder: Path, until: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes as long to import as PyTorch itself

        self.writer = SummaryWriter(str(folder), purge_step=until + 1)
        self._is_closed = False


def open_logger(folder: Path, use_tb: bool, resumed_at: int | None) -> Logger:
    """Log to the console and to `folder`.

    Args:
        folder: the run folder.
        use_tb: also write TensorBoard events.
        resumed_at: the step that a resumed run goes on from. None for a new run, which keeps what an earlier one in the
            same folder wrote as `<name>.old<suffix>`.
    """
    if resumed_at is None:
        for name in OF_A_RUN:
            set_aside(folder / name)
    until = resumed_at or 0
    formats: list[KVWriter] = [HumanOutputFormat(sys.stdout), ContinuedCsv(folder / "progress.csv", until)]
    if use_tb:
        formats.append(ContinuedEvents(folder, until))
    return Logger(str(folder), formats)
