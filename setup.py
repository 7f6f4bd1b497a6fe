"""Builds the compiled core of the codec `delta`; everything else of the package stands in setup.cfg.

One build serves CPython 3.11 and later. Where there is no compiler, the library is installed without.
"""

from pathlib import Path

from setuptools import Extension, setup

FOLDER = Path("diffreplay/codecs/delta")

setup(
    ext_modules=[
        Extension(
            "diffreplay.codecs.delta._core",
            sorted(str(path) for path in FOLDER.glob("*.c")),
            depends=sorted(str(path) for path in FOLDER.glob("*.h")),
            include_dirs=[str(FOLDER)],
            extra_compile_args=["-O2", "-ftree-vectorize", "-std=gnu11", "-fvisibility=hidden"],
            define_macros=[("Py_LIMITED_API", "0x030b0000")],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
