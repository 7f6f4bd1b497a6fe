"""Builds what is compiled; everything else of the package stands in setup.cfg.

One build serves CPython 3.11 and later. Where there is no compiler, the library is installed without.
"""

from pathlib import Path

from setuptools import Extension, setup

DELTA = Path("diffreplay/codecs/delta")


def compiled(name: str, sources: list[Path], headers: list[Path]) -> Extension:
    """An extension module of that name."""
    return Extension(
        name,
        [str(path) for path in sources],
        depends=[str(path) for path in headers],
        include_dirs=sorted({str(path.parent) for path in headers}),
        extra_compile_args=["-O2", "-ftree-vectorize", "-std=gnu11", "-fvisibility=hidden", "-pthread"],
        extra_link_args=["-pthread"],
        define_macros=[("Py_LIMITED_API", "0x030b0000")],
        py_limited_api=True,
        optional=True,
    )


setup(
    ext_modules=[
        compiled("diffreplay.codecs.delta._core", sorted(DELTA.glob("*.c")), sorted(DELTA.glob("*.h"))),
        compiled("diffreplay.store._lookup", [Path("diffreplay/store/_lookup.c")], []),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
