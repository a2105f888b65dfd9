"""The compiled file: where it is, and what its functions take. Needs no torch."""

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Literal

Isa = Literal["portable", "avx2", "avx512-bf16", "amx-bf16"]
"""An instruction set that kernels are compiled for."""

ISAS: tuple[Isa, ...] = ("portable", "avx2", "avx512-bf16", "amx-bf16")
"""From the plainest to the fastest; the place is the number that the library knows it by."""

_ABI_VERSION = 5

_int, _long, _float, _pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "parrot_abi_version": (_int, ()),
    "parrot_num_isas": (_int, ()),
    "parrot_is_supported": (_int, (_int,)),
    "parrot_kernels_new": (_pointer, (_int, _int)),
    "parrot_kernels_free": (None, (_pointer,)),
    "parrot_plan_new": (_pointer, (_pointer, _int, _long, _long, _long, _long, _float)),
    "parrot_plan_free": (None, (_pointer,)),
    "parrot_plan_begin": (_int, (_pointer, _long, _long, *(_pointer,) * 4)),
    "parrot_attend": (None, (_pointer, *(_pointer, _long) * 3, _pointer, _pointer, _pointer)),
    "parrot_rotate": (None, (_pointer, _int, *(_long,) * 5, *(_pointer,) * 6, _float)),
    "parrot_add_norm": (None, (_pointer, _int, _long, _long, _pointer, _pointer, _pointer, _float, _pointer)),
    "parrot_silu_mul": (None, (_pointer, _int, _long, _long, _pointer, _pointer)),
    "parrot_has_linear": (_int, (_pointer,)),
    "parrot_pack": (None, (_pointer, _int, _long, _long, *(_pointer,) * 3)),
    "parrot_linear": (None, (_pointer, _int, _long, _long, _long, *(_pointer,) * 5)),
    "parrot_stack_new": (_pointer, (_pointer, _long, _long, _float, *(_pointer,) * 3, _long, _pointer)),
    "parrot_stack_free": (None, (_pointer,)),
    "parrot_stack_run": (_int, (_pointer, _long, *(_pointer,) * 4)),
    "parrot_sample": (
        None,
        (_pointer, _int, _long, _long, _long, _pointer, _pointer, _pointer, _long, _pointer, _pointer),
    ),
}


class NativeLibrary(ctypes.CDLL):
    """The library with its functions' types declared; a call lets go of the interpreter."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self, name)
            function.restype = result
            function.argtypes = arguments

    def supported(self) -> tuple[Isa, ...]:
        """The instruction sets that are compiled in and that this processor has, in the order of `ISAS`."""
        num_isas = self.parrot_num_isas()
        return tuple(isa for at, isa in enumerate(ISAS[:num_isas]) if self.parrot_is_supported(at))


def library_path() -> Path | None:
    """The compiled file; None where the package was built without a compiler."""
    directory = Path(__file__).parent
    paths = (directory / f"_kernels{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


@cache
def open_library() -> NativeLibrary | None:
    """The library, opened once; None where there is none that fits this package and this machine."""
    path = library_path()
    if path is None:
        return None
    try:
        library = NativeLibrary(path)
    except (OSError, AttributeError):
        return None
    return library if library.parrot_abi_version() == _ABI_VERSION else None
