"""What `python -m diffreplay` shows of a snapshot: `report` in words, `pictures` in images and videos.

Imports everything below; nothing imports it but `__main__`.
"""

from diffreplay.cli import pictures
from diffreplay.cli.report import inspect

__all__ = ["inspect", "pictures"]
