"""What tests that compile C need to know of the machine."""

from __future__ import annotations

import os
import subprocess


def compiles(*flags: str) -> bool:
    """Whether there is a gcc that takes these flags."""
    try:
        found = subprocess.run(["gcc", *flags, "-x", "c", "-", "-o", os.devnull], input=b"int main(void){return 0;}")
    except FileNotFoundError:
        return False
    return found.returncode == 0


SANITIZE = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
