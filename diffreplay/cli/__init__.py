"""What `python -m diffreplay inspect` shows of a snapshot, which is opened and not loaded.

`contents` measures what there is, `report` tells it in words; `pictures` draws frames, `video` renders an episode, and
`page` writes all of it as one page, with `charts`.

Imports `offline` and what it stands on; nothing imports it but `__main__`.
"""

from diffreplay.cli import page, pictures, video
from diffreplay.cli.report import inspect, printable

__all__ = ["inspect", "page", "pictures", "printable", "video"]
