"""What a sentence must say, whatever its words: an argument's name, a number, a path, a command."""

from __future__ import annotations


def says(sentence: object, *needles: object) -> None:
    """Look for each needle in a sentence, an error or what `pytest.raises` caught; " | " separates several in one."""
    text = str(getattr(sentence, "value", sentence))
    parts = [part for needle in needles for part in str(needle).split(" | ")]
    missing = [part for part in parts if part not in text]
    assert not missing, f"expected {missing} in {text!r}"
