"""Frames as copies from shared reference frames, and literal bytes: decoded at the speed of memory.

`codec` is the codec, `plain` the same format in Python, for tests and where no C compiler was at hand. The rest is
C, which `_core` shows to Python: `token.h` the format's constants, `decode.c` and `batch.c` from bytes to frames,
`module.c` what Python calls. The other way: `index.c` what is known of a set, `masks.h` which references have a value,
`runs.h` the longest copies from the same place, `copies.h` all that are looked at, `way.h` and `parse.h` the search for
the cheapest way, `write.c` its tokens, `encode.c` all of it for one frame.

`_core.decode_batch(log, starts, lengths, sets, set_starts, set_lengths, out, places, frame_bytes, row_bytes,
pixel_bytes, planar)` decodes any number of frames without the GIL:

- `log`, `sets`: any buffers, shared memory that is written meanwhile included;
- `starts`, `lengths`: int64, (n,): where a frame lies in `log`. As long as a raw one: raw; shorter: coded; -1: zeros;
- `set_starts`, `set_lengths`: int64, (n,): where its reference frames lie in `sets`, end to end; only if coded;
- `out`, `places`: a writable buffer, and int64 (n,): where in it each frame begins;
- `frame_bytes`, `row_bytes`, `pixel_bytes`: of a frame (H, W, C): H * W * C, W * C and C;
- `planar`: whether frames go to `out` as (C, H, W).

It returns the number of the first frame that is damaged or lies outside the buffers, or -1. Whatever the bytes are,
nothing outside the buffers is read or written.
"""

from diffreplay.codecs.delta.codec import DeltaCodec

__all__ = ["DeltaCodec"]
