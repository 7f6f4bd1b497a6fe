"""Train DrQ-v2: `python train.py task=walker_walk full_compress=true`. cfgs/config.yaml explains every option.

Train QR-DQN or PPO on Atari: `python train.py --config-name=atari env=Pong alg=qrdqn full_compress=true`.
cfgs/atari.yaml explains every option.
"""

import errno
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

try:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf

    from drqv2.config import Config, parse_config
    from runs import interrupts
    from runs.errors import OptionError
    from runs.help import help_text
    from runs.mistakes import config_name, explain
    from runs.options import option_names, shortened, what_is_left
    from sb3_atari.config import AtariConfig
    from sb3_atari.config import parse_config as parse_atari_config
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"train.py: expected the package {missing.name}, which is not installed: make setup, or in an environment of "
        "your own pip install -c constraints.txt '.[drqv2,atari]'"
    ) from None

RunConfig = TypeVar("RunConfig")


def fail(reason: str, status: int = 1) -> NoReturn:
    """End with one line and an exit status."""
    print(f"train.py: {reason}", file=sys.stderr)
    raise SystemExit(status)


# The options of each file in cfgs that a run can start from; `task` is a choice of hydra's, not a value.
KNOWN_OPTIONS = {"config": ["task", *option_names(Config)], "atari": option_names(AtariConfig)}
INTERRUPTED = 130  # as shells have it
RUN_FOLDER_ERRORS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EACCES, errno.EROFS, errno.ENOSPC)

# Compute threads that spin while they wait would take the processor from the loader's workers. PyTorch's OpenMP reads
# this when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


OmegaConf.register_new_resolver("short", shortened, replace=True)


@hydra.main(version_base="1.3", config_path="cfgs", config_name="config")
def train(options: DictConfig) -> None:
    """Run what `options` describe in hydra's run folder."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        if HydraConfig.get().job.config_name == "atari":
            run_alone(train_atari, parse_atari_config(options), folder)
        else:
            run_alone(train_drqv2, parse_config(options), folder)
    except OptionError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail_interrupted(folder, options)
    except Exception:
        if not interrupts.came():
            raise
        fail_interrupted(folder, options)  # a library made this of it


def fail_interrupted(folder: Path, options: DictConfig) -> NoReturn:
    """End as interrupted, and say what there is."""
    fail(f"interrupted; {what_is_left(folder, bool(options.save_snapshot))}", INTERRUPTED)


def run_alone(run: Callable[[RunConfig, Path], None], config: RunConfig, folder: Path) -> None:
    """Run, unless another process does in the same folder: the two would destroy each other's files."""
    from diffreplay.errors import InUseError
    from diffreplay.snapshots import Lock

    try:
        with Lock(folder):
            run(config, folder)
    except InUseError as error:
        raise OptionError(f"{error}; hydra.run.dir=... chooses it") from error


# PyTorch, MuJoCo and the games are imported this late so that they do not delay the report of a mistaken option.
def train_drqv2(config: Config, folder: Path) -> None:
    """Train DrQ-v2."""
    # Workers that sleep until a batch is needed may well outnumber the processors.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    from diffreplay.errors import ReplayError
    from drqv2.workspace import Workspace

    try:
        with Workspace(config, folder) as workspace:
            workspace.train()
    except ReplayError as error:
        if not config.actors:
            raise
        raise OptionError(str(error)) from error  # a shard that is gone for good


def train_atari(config: AtariConfig, folder: Path) -> None:
    """Train QR-DQN or PPO."""
    from sb3_atari.training import train as run

    run(config, folder)


def main() -> None:
    """Report mistakes of the command line in one line each; anything else is a bug and shows its traceback."""
    config = config_name(sys.argv[1:])
    if {"-h", "--help"} & set(sys.argv[1:]) and config in KNOWN_OPTIONS:
        print(help_text(config, Path(__file__).parent / "cfgs"))
        return
    # Makes hydra raise its errors to here instead of printing them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    interrupts.watch()
    try:
        train()
    except HydraException as error:
        fail(explain(error, sys.argv[1:], KNOWN_OPTIONS))
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)  # before it began
    except OSError as error:
        if error.errno not in RUN_FOLDER_ERRORS:
            raise
        fail(f"{error}; choose another run folder with hydra.run.dir=...")


if __name__ == "__main__":
    main()
