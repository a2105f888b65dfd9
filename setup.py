"""Builds the native CPU kernels, if it can: without a compiler the package installs all the same."""

import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("csrc")
WARNINGS = ["-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]
FLAGS = ["-std=c++17", "-O3", "-g0", "-pthread", "-fvisibility=hidden", *WARNINGS]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma"]
ISA_FLAGS = {
    "interface.cpp": [],
    "plan.cpp": [],
    "stack.cpp": [],
    "pool.cpp": [],
    "isa_portable.cpp": [],
    "isa_avx2.cpp": ["-mavx2", "-mfma"],
    "isa_avx512bf16.cpp": AVX512,
    "isa_amxbf16.cpp": [*AVX512, "-mamx-tile", "-mamx-bf16"],
}
ON_X86 = platform.machine().lower() in {"x86_64", "amd64"}
FILES = [name for name in ISA_FLAGS if ON_X86 or ("avx" not in name and "amx" not in name)]


class BuildKernels(build_ext):
    """Compiles each file for its own instruction set: which one runs is chosen when the engine starts."""

    def build_extension(self, ext: Extension) -> None:
        """Compile the files side by side and link them."""
        out = Path(self.build_temp)

        def compile_one(name: str) -> list[str]:
            return self.compiler.compile(
                [str(SOURCES / name)], output_dir=str(out), extra_postargs=[*FLAGS, *ISA_FLAGS[name]]
            )

        with ThreadPoolExecutor() as pool:
            objects = [path for paths in pool.map(compile_one, FILES) for path in paths]
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            extra_postargs=["-pthread"],
            target_lang="c++",
        )


if __name__ == "__main__":
    setup(
        ext_modules=[
            Extension(
                "parrot.engine.native._kernels",
                sources=[str(SOURCES / name) for name in FILES],
                depends=[str(path) for path in sorted(SOURCES.glob("*.h"))],
                language="c++",
                optional=True,
            )
        ],
        cmdclass={"build_ext": BuildKernels},
    )
