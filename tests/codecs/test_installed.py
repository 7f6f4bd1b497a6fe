"""Codecs that installed packages register: found by name, by snapshots too; mistakes are told with their names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from says import says

from diffreplay import codecs
from diffreplay.errors import UnknownCodecError

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
from diffreplay.codecs import RawCodec, ZstdCodec
from diffreplay.testing import check_codec

class Toy(ZstdCodec):
    name = "toy"

class Other(RawCodec):
    name = "other"

class Demanding(RawCodec):
    name = "demanding"
    def __init__(self, level):
        self.level = level

made = Toy(level=3)
"""
WRITE = """
import sys, numpy as np, diffreplay
from diffreplay.testing import TimeStep
from toy_codecs import Toy
replay = diffreplay.ReplayBuffer(100, (3, 16, 16), (1,), codec=Toy(level=3))
for t in range(50):
    replay.add(TimeStep(np.full((3, 16, 16), t, np.uint8), np.array([t]), is_first=t == 0))
replay.save(sys.argv[1])
"""
READ = """
import sys, diffreplay
replay = diffreplay.ReplayBuffer.load(sys.argv[1])
print(type(replay.store.codec).__name__, replay.store.codec.options()["level"], len(replay.sample(8).obs))
"""


class Site:
    """A folder of installed packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "toy_codecs.py").write_text(MODULE)

    def install(self, package: str, *entries: str) -> None:
        info = self.folder / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join(["[diffreplay.codecs]", *entries, ""]))

    def run(self, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": f"{self.folder}:{ROOT}"}
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True
        )

    def out(self, code: str, *arguments: object) -> str:
        done = self.run(code, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def error(self, code: str, *arguments: object) -> str:
        done = self.run(code, *arguments)
        assert done.returncode == 1
        return done.stderr.strip().splitlines()[-1]


GET = "import sys, diffreplay; print(*(type(diffreplay.codecs.get(name)).__name__ for name in sys.argv[1:]))"


@pytest.fixture(name="site")
def make_site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(name="here")
def make_site_here(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The same for this process."""
    monkeypatch.syspath_prepend(site.folder)
    yield site
    sys.modules.pop("toy_codecs", None)


def test_a_codec_is_found_by_name(site: Site) -> None:
    site.install("toy-codecs", "toy = toy_codecs:Toy", "other = toy_codecs:Other")
    assert site.out(GET, "toy", "other", "zstd") == "Toy Other ZstdCodec"
    error = site.error(GET, "lz4")
    says(error, "'raw'", "'sparse'", "'zstd'", "'other'", "'toy'", "got 'lz4'")


def test_a_snapshot_finds_its_codec(site: Site) -> None:
    site.out(WRITE, site.folder / "snapshot")
    says(site.error(READ, site.folder / "snapshot"), "instance", "codec 'toy'", site.folder / "snapshot")
    site.install("toy-codecs", "toy = toy_codecs:Toy")
    assert site.out(READ, site.folder / "snapshot") == "Toy 3 8"


def test_packages_are_looked_through_for_unknown_names_alone(site: Site) -> None:
    site.install("toy-codecs", "toy = toy_codecs:Toy")
    code = """
import torch, sys, importlib.metadata
scans = []
sys.setprofile(lambda frame, event, _: scans.append(1) if frame.f_code.co_name == "entry_points" else None)
import diffreplay
diffreplay.codecs.get("zstd")
print(len(scans), "toy_codecs" in sys.modules)
diffreplay.codecs.get("toy")
print(len(scans) > 0, "toy_codecs" in sys.modules)
"""
    assert site.out(code).split() == ["0", "False", "True", "True"]


@pytest.mark.parametrize(
    ("entries", "name", "expected"),
    [
        (
            ["zstd = toy_codecs:Toy"],
            "lz4",
            "'toy-codecs' | 'zstd' | toy_codecs:Toy",
        ),
        (["toy = missing:Toy"], "toy", "missing:Toy | ModuleNotFoundError"),
        (["toy = toy_codecs:Missing"], "toy", "toy_codecs:Missing | AttributeError"),
        (["toy = nonsense of a value"], "toy", "'toy-codecs' | 'toy' | nonsense of a value"),
        (["toy = toy_codecs:made"], "toy", "toy_codecs:made | subclass of Codec | got <toy_codecs.Toy"),
        (["toy = toy_codecs:check_codec"], "toy", "subclass of Codec | got <function check_codec"),
        (["toy = toy_codecs:Other"], "toy", "toy_codecs:Other | name is 'other'"),
        (["toy = diffreplay.codecs:ZstdCodec"], "toy", "diffreplay.codecs:ZstdCodec | name is 'zstd'"),
        (["demanding = toy_codecs:Demanding"], "demanding", "'demanding' | without arguments | 'level'"),
    ],
)
def test_a_mistake_of_a_package_is_one_sentence(here: Site, entries: list[str], name: str, expected: str) -> None:
    here.install("toy-codecs", *entries)
    with pytest.raises(UnknownCodecError, match=r"^codec: ") as info:
        codecs.get(name)
    says(info, expected)
    assert "\n" not in str(info.value)
    assert name == "demanding" or "'toy-codecs'" in str(info.value)
    assert isinstance(codecs.get("zstd"), codecs.ZstdCodec)


def test_two_packages_of_one_name_are_refused(here: Site) -> None:
    here.install("toy-codecs", "toy = toy_codecs:Toy")
    here.install("more-toys", "toy = toy_codecs:Other", "other = toy_codecs:Other")
    with pytest.raises(UnknownCodecError) as info:
        codecs.get("toy")
    says(info, "'toy'", "'toy-codecs'", "'more-toys'", "uninstall one")
    assert codecs.get("other").name == "other"


def test_a_snapshot_names_the_package_that_is_broken(site: Site) -> None:
    site.out(WRITE, site.folder / "snapshot")
    site.install("toy-codecs", "toy = missing:Toy")
    error = site.error(READ, site.folder / "snapshot")
    says(error, "instance", "codec 'toy'", "'toy-codecs'", "missing:Toy")
