"""Other people's datasets into snapshots and back, an episode at a time.

`convert` takes episodes from a *source* and gives them to a *target*; `formats` lists both by name. To add a format:

- A source has `format`, its name, and `description`, a `Description` of what its episodes are, which is made when it is
  opened, after everything was checked that can be without reading the whole; `episodes(start)` yields each `Episode`,
  or the pieces of a long one. Sizes that a file claims are checked before memory is taken for them. `needs` imports a
  package that may be missing. Whatever is wrong with a file raises `CorruptDataError`, whatever with an argument
  `InputError`; one sentence that names the file, what was expected and what came.
- A target is made of `(path, description, conversion)`: it refuses what is there already, unless this `conversion` has
  written it and was not completed; `done` is how many episodes it holds, `write` takes each, `finish` says that these
  are all, `close` lets go.
- An entry of `FORMATS` names both. `convert` checks each episode against the description (`checking`).

An episode has T actions and T + 1 observations, or T where the source has no final one (`final_observation`). Its
arrays have the dtypes that the description says, so that nothing is rounded. What is more goes to `extras`, values of
each step, or to `attributes` of an episode or of all of them, as JSON holds it: an export finds all of it again.

`to_snapshot` writes a snapshot, `from_snapshot` reads one; `listing` is what it keeps besides, a line for each episode.

Imports `replay`, `offline` and what these do. What others use stands here.
"""

from diffreplay.datasets.command import add_arguments, run
from diffreplay.datasets.converting import Converted, convert, open_source
from diffreplay.datasets.episode import Description, Episode, Source, Target
from diffreplay.datasets.formats import FORMATS, Format
from diffreplay.datasets.iterator import from_episodes

__all__ = [
    "FORMATS",
    "Converted",
    "Description",
    "Episode",
    "Format",
    "Source",
    "Target",
    "add_arguments",
    "convert",
    "from_episodes",
    "open_source",
    "run",
]
