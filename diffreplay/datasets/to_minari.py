"""Writes Minari's datasets with Minari's own package, never as JPEG."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets import hdf5
from diffreplay.datasets.episode import Description, Episode
from diffreplay.datasets.minari_data import FIRST_INFOS, INFOS
from diffreplay.datasets.minari_files import ENDS, METADATA
from diffreplay.datasets.minari_spaces import box, dict_space, nested
from diffreplay.datasets.names import check_names
from diffreplay.datasets.needs import needs
from diffreplay.datasets.stacks import newest
from diffreplay.datasets.to_robomimic import DISCOUNTS, OLDER_FRAMES, has_other_discounts
from diffreplay.datasets.unfinished import UnfinishedPath
from diffreplay.errors import InputError

NAME = re.compile(r"[-_\w]+-v\d+")
OTHERS = "values of steps besides rewards are written as infos"
NO_FINAL = "episodes have no observation after their last action: the last one that they have stands there again"
TEXTS = ("algorithm_name", "code_permalink", "description", "env_spec", "eval_env_spec")
SETS = ("author", "author_email")


class MinariTarget:
    """Writes such a dataset, which appears when it is complete.

    `minari.load_dataset(NAME)` finds it where its folder lies in `MINARI_DATASETS_PATH`. Images are written as they are
    (`jpeg_encoding=False`). What was a Minari dataset before has its spaces and what is said of it.

    Args:
        path: of the dataset, whose name ends in -v0 or another version.
        description: of the source.
        conversion: what tells this conversion from others.

    Raises:
        InUseError: a conversion that is running writes it.
        InputError: something is there, the name is none of a dataset, or arrays would take the place of one another.
        ReplayError: Minari is not installed.
    """

    done = 0

    def __init__(self, path: Path, description: Description, conversion: dict[str, Any]) -> None:
        if not NAME.fullmatch(path.name):
            raise InputError(f"{path}: expected the name of a Minari dataset, such as walker-v0, got {path.name!r}")
        self._minari = needs("minari", str(path))
        spaces, storage = needs("minari.serialization", str(path)), needs("minari.dataset.minari_storage", str(path))
        check_names(path, [key for key in description.parts if description.parts.keys() != {""}])
        self._path, self._description = path, description
        self._infos_by_key = {key: key.removeprefix(INFOS) for key in description.extras if not self._is_end(key)}
        check_names(path, self._infos_by_key.values())
        said = description.attributes.get("minari", {})
        self._said: dict[str, Any] = said if isinstance(said, dict) else {}
        observed = nested({name: box(spec) for name, spec in description.parts.items()}, dict_space)
        space: dict[str, Any] = {
            "observation_space": self._said.get("observation_space") or json.dumps(observed),
            "action_space": self._said.get("action_space") or json.dumps(box(description.action)),
        }
        space = {name: spaces.deserialize_space(text) for name, text in space.items()}
        self._unfinished = UnfinishedPath(path)
        self._unfinished.path.mkdir()
        self._storage = storage.MinariStorage.new(
            (self._unfinished.path / "data").absolute(),  # Minari takes the size of files by this path twice
            **space,
            jpeg_encoding=False,
        )
        action = description.action
        is_index = not action.shape and np.dtype(action.dtype).kind in "iu" and "action_space" not in self._said
        self._actions = [0, 0] if is_index else None  # the lowest and the highest one, of which a Discrete is made
        self._steps, self._told = 0, set[str]()

    def write(self, episode: Episode) -> None:
        """Take an episode, or its next piece."""
        count = len(episode.actions)
        if has_other_discounts(episode):
            self._tell(DISCOUNTS)
        terminations, truncations = (self._ends(episode, key) for key in ENDS)
        buffer = needs("minari.data_collector", str(self._path)).EpisodeBuffer(
            id=self.done,
            observations=nested(self._newest(episode)),
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=terminations,
            truncations=truncations,
            infos=self._infos(episode),
        )
        self._storage.update_episodes([buffer])
        self._steps += count
        if self._actions is not None:
            low, high = self._actions
            self._actions = [min(low, int(episode.actions.min())), max(high, int(episode.actions.max()))]
        if episode.ends:
            values = episode.attributes.get(hdf5.ATTRIBUTES, {})
            told = {name: hdf5.from_json(value) for name, value in values.items()}
            told |= {"id": self.done, "total_steps": self._steps}
            self._storage.update_episode_metadata([told], [self.done])
            self.done, self._steps = self.done + 1, 0

    def _newest(self, episode: Episode) -> dict[str, NDArray[Any]]:
        parts, described = episode.parts, self._description
        if episode.stacked:
            self._tell(OLDER_FRAMES)
            parts = {key: newest(values, described.parts[key], described.frame_stack) for key, values in parts.items()}
        if episode.ends and not described.final_observation:
            self._tell(NO_FINAL)
            parts = {key: np.concatenate([values, values[-1:]]) for key, values in parts.items()}
        return parts

    def _is_end(self, key: str) -> bool:
        """Whether further values are Minari's own flags of each step."""
        return key in ENDS and not self._description.extras[key].shape

    def _ends(self, episode: Episode, key: str) -> NDArray[Any]:
        if key in episode.extras and self._is_end(key):
            return episode.extras[key].astype(bool)
        ends = np.zeros(len(episode.actions), bool)
        if key == ENDS[0] and episode.discounts is not None:
            ends[:] = episode.discounts == 0
        if episode.ends:
            ends[-1] |= episode.terminated if key == ENDS[0] else not episode.terminated
        return ends

    def _infos(self, episode: Episode) -> dict[str, Any] | None:
        first = episode.attributes.get(FIRST_INFOS, {})
        found = {}
        for key, name in self._infos_by_key.items():
            values = episode.extras[key]
            if not key.startswith(INFOS):
                self._tell(OTHERS)
            if episode.begins and key in first:
                before = np.array(first[key]["numbers"], first[key]["dtype"])
                values = np.concatenate([before[None].astype(values.dtype), values])
            found[name] = values
        return dict(nested(found)) if found else None

    def _tell(self, sentence: str) -> None:
        """Warn, once."""
        if sentence not in self._told:
            self._told.add(sentence)
            warnings.warn(f"{self._path}: {sentence}", UserWarning, stacklevel=4)

    def finish(self) -> None:
        """Write what is said of all episodes, and give the dataset its name."""
        said, name = self._said, self._path.name
        known = str(said.get("dataset_id", ""))
        told: dict[str, Any] = {
            "dataset_id": known if known.rpartition("/")[2] == name else name,
            "minari_version": self._minari.__version__,
        }
        told |= {key: said[key] for key in TEXTS if isinstance(said.get(key), str)}
        told |= {key: set(map(str, said[key])) for key in SETS if isinstance(said.get(key), list)}
        told |= {key: said[key] for key in ("ref_min_score", "ref_max_score") if isinstance(said.get(key), float)}
        if isinstance(said.get("requirements"), list):
            told["requirements"] = said["requirements"]
        self._storage.update_metadata(told)
        if self._actions is not None:
            self._make_discrete(*self._actions)
        self._unfinished.finish()

    def _make_discrete(self, low: int, high: int) -> None:
        """Say that actions are of a Discrete, which nobody knew before all were seen."""
        path = self._unfinished.path / "data" / METADATA
        metadata = json.loads(path.read_bytes())
        metadata["action_space"] = json.dumps({"type": "Discrete", "dtype": "int64", "start": low, "n": high - low + 1})
        path.write_text(json.dumps(metadata))

    def close(self) -> None:
        """Unless it was complete, it goes."""
        self._unfinished.close()
