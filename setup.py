"""What pyproject.toml can't say: the extension modules, and packages whose folders lie beside linuxsync/."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

HERE = Path(__file__).parent
PACKAGES = {
    "linuxsync": "linuxsync",
    "linuxsync._native": "native",
    "linuxsync.cli": "linuxsync/cli",
    "linuxsync.inspect": "linuxsync/inspect",
    "linuxsync.pytest_plugin": "linuxsync/pytest_plugin",
    "linuxsync.trace": "linuxsync/trace",
    "linuxsync.vm": "vm",
}
MODULES = [path.stem for path in sorted((HERE / "native").glob("*.pyx"))]

# Set where nothing may warn: CI. The three that are off are about code which Cython writes, not we.
STRICT = [
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
]


def native_modules() -> list[Extension]:
    """The modules of native/, compiled under the name of the package that they are installed in."""
    # A module that uses another's C types must find its .pxd under the package's name, which the folder does not have.
    view = HERE / "build" / "pxd" / "linuxsync"
    view.mkdir(parents=True, exist_ok=True)
    (view / "__init__.pxd").touch()
    link = view / "_native"
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(HERE / "native", view))
    flags = STRICT if os.environ.get("LINUXSYNC_STRICT") else []
    extensions = [
        Extension(
            f"linuxsync._native.{name}",
            [f"native/{name}.pyx"],
            include_dirs=["native"],
            depends=["native/uapi.h"],
            extra_compile_args=["-O2", *flags],
        )
        for name in MODULES
    ]
    return cythonize(
        extensions,
        include_path=["build/pxd", "native"],
        build_dir="build/cython",
        compiler_directives={"language_level": 3, "binding": True, "embedsignature": True},
    )


setup(
    packages=list(PACKAGES),
    include_package_data=False,  # what package_data names, and no more
    package_dir=PACKAGES,
    package_data={
        "linuxsync": ["py.typed"],
        "linuxsync._native": ["*.pyi", "*.pxd", "*.h", "fencedev/*.[ch]", "fencedev/COPYING", "fencedev/Makefile"],
        "linuxsync.trace": ["page/*.css", "page/*.html", "page/*.js"],
        "linuxsync.vm": ["kernel.config", "debug.config", "qemu-wrapper", "guest.sh", "run"],
    },
    data_files=[("share/man/man1", [str(path.relative_to(HERE)) for path in sorted(HERE.glob("docs/man/*.1"))])],
    ext_modules=native_modules(),
    # Objects left by an earlier build were not compiled with these flags.
    options={"build_ext": {"force": bool(os.environ.get("LINUXSYNC_STRICT"))}},
)
