"""Replay over several processes and machines, on Ray: frames are coded where they are born, and stay coded on the way.

`writer` adds in an actor's process, and sends what it coded in chunks, whose bytes `wire` says; a `shard` takes them in
as they are, into a buffer of its own. `coded_windows` are samples on their way to a learner elsewhere; `mixed` draws
from all shards. `service` puts these into Ray actors, which `reaching` reaches; nothing else here knows of Ray.

Needs the extra `diffreplay[ray]`.
"""

from diffreplay.distributed.service import Service, connect, start
from diffreplay.distributed.shard import Shard
from diffreplay.distributed.writer import ReplayWriter

__all__ = ["ReplayWriter", "Service", "Shard", "connect", "start"]
