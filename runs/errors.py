"""Mistakes in options, told apart from bugs: train.py prints these as one line and no traceback."""


class OptionError(ValueError):
    """An option's value cannot work. The message says what was expected, what came, and what to do."""
