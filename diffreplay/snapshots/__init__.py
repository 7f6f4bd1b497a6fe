"""Buffers on disk: saved in parts that never change, under a manifest that is replaced in one step.

`saving` saves: `segments` are the files of rows, which `merging` keeps few, and `priorities` that of their priorities;
`commits` makes a state the present one; a `manifest` names the files. `loading` loads: `restore` fills a store from the
files, `state` brings back all that is not a frame. `damage` finds what is damaged. `files` is the file system: durable,
locked, nothing but regular files.

Imports `store` and `codecs`, and nothing above. What others use stands here.
"""

from diffreplay.snapshots.damage import verify
from diffreplay.snapshots.files import Lock, make_directory, open_regular, sync_directory, write_durably
from diffreplay.snapshots.loading import load
from diffreplay.snapshots.manifest import find_manifest
from diffreplay.snapshots.saving import save
from diffreplay.snapshots.segments import pack_rows, unpack_rows

__all__ = [
    "Lock",
    "find_manifest",
    "load",
    "make_directory",
    "open_regular",
    "pack_rows",
    "save",
    "sync_directory",
    "unpack_rows",
    "verify",
    "write_durably",
]
