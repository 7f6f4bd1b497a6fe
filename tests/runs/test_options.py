"""Options as they are written on a command line."""

import pytest

from runs.errors import OptionError
from runs.options import number_of_bytes


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("4GB", 4 * 10**9),
        ("4gb", 4 * 10**9),
        ("1.1 GB", 1_100_000_000),
        ("500MB", 500 * 10**6),
        ("2GiB", 2 * 2**30),
        ("0.5TiB", 2**39),
        ("4e9", 4 * 10**9),
        (4e9, 4 * 10**9),
        ("7", 7),
    ],
)
def test_numbers_of_bytes(written, expected):
    assert number_of_bytes("size", written) == expected


@pytest.mark.parametrize("written", ["", "GB", "4XB", "-4GB", "4 G B", "1.5", "nan", float("inf"), "4GBs", "1e99999"])
def test_what_is_no_number_of_bytes(written):
    with pytest.raises(OptionError, match=r"^size=.*such as 4000000000, 4GB or 4GiB"):
        number_of_bytes("size", written)
