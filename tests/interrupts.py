"""Raises KeyboardInterrupt between two lines of the package, as Ctrl-C or an alarm may do anywhere."""

from __future__ import annotations

import sys
from pathlib import Path

import diffreplay

PACKAGE = str(Path(diffreplay.__file__).parent)


def interrupted(call, place):
    """Run `call`, interrupted before line number `place` that it runs inside the package; whether it got that far."""
    left = place

    def trace(frame, event, argument):
        nonlocal left
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
            left -= 1
        return trace

    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False
