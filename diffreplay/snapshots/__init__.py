"""Buffers on disk: saved in parts that never change, under a manifest that is replaced in one step.

`saving` saves: `segments` are the files of rows, which `merging` keeps few, and `priorities` that of their priorities;
`commits` makes a state the present one; a `manifest` names the files, each by an entry (`entries`). `loading` loads:
`restore` fills a store from the files, `state` brings back all that is not a frame. `damage` finds what is damaged.
`files` is the file system: durable, locked, nothing but regular files.

Imports `store` and `codecs`, and nothing above. What others use stands here.
"""

from diffreplay.snapshots.damage import check_rest, damage_by_size, gone_rows, undecodable, verify, verify_files
from diffreplay.snapshots.entries import check_bytes, open_file
from diffreplay.snapshots.files import Lock, checksum, make_directory, open_regular, sync_directory, write_durably
from diffreplay.snapshots.loading import load
from diffreplay.snapshots.manifest import MANIFEST, FileEntry, Manifest, encode, find_manifest
from diffreplay.snapshots.priorities import read_priorities
from diffreplay.snapshots.saving import save
from diffreplay.snapshots.segments import check_segment_entry, check_set_entry, pack_rows, unpack_rows
from diffreplay.snapshots.state import make, open_rows

__all__ = [
    "MANIFEST",
    "FileEntry",
    "Lock",
    "Manifest",
    "check_bytes",
    "check_rest",
    "check_segment_entry",
    "check_set_entry",
    "checksum",
    "damage_by_size",
    "encode",
    "find_manifest",
    "gone_rows",
    "load",
    "make",
    "make_directory",
    "open_file",
    "open_regular",
    "open_rows",
    "pack_rows",
    "read_priorities",
    "save",
    "sync_directory",
    "undecodable",
    "unpack_rows",
    "verify",
    "verify_files",
    "write_durably",
]
