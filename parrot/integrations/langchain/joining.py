r"""Which functions handle texts as wholes, so that they can be given texts that are not there yet.

A function that only joins texts (`lambda xs: "\n".join(xs)`) does the same with a mark as with the text
that the mark stands for. One that looks into a text does not. Its byte code tells the two apart, and errs on
the side of a barrier: a function passes when it consists of nothing but taking things out of containers,
putting things together, loops without conditions, and calls of what is known to be harmless. Whatever is not
known, conditions, comparisons and slices among it, makes it a reader.
"""

import builtins
import dis
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from langchain_core.messages import BaseMessage
from langchain_core.prompts import BasePromptTemplate

F = TypeVar("F", bound=Callable[..., Any])

_DECLARED = "parrot_passes_text"
_MAX_DEPTH = 4

_INSTRUCTIONS = """
    RESUME NOP CACHE PRECALL CALL CALL_KW KW_NAMES PUSH_NULL COPY SWAP POP_TOP EXTENDED_ARG
    LOAD_FAST LOAD_FAST_CHECK LOAD_FAST_AND_CLEAR LOAD_FAST_BORROW LOAD_FAST_LOAD_FAST
    LOAD_FAST_BORROW_LOAD_FAST_BORROW STORE_FAST STORE_FAST_STORE_FAST STORE_FAST_LOAD_FAST
    LOAD_CONST LOAD_SMALL_INT LOAD_CLOSURE LOAD_DEREF MAKE_CELL COPY_FREE_VARS
    LOAD_GLOBAL LOAD_ATTR LOAD_METHOD
    BINARY_SUBSCR BINARY_OP FORMAT_VALUE FORMAT_SIMPLE CONVERT_VALUE
    BUILD_LIST BUILD_TUPLE BUILD_MAP BUILD_CONST_KEY_MAP BUILD_STRING
    LIST_EXTEND LIST_APPEND LIST_TO_TUPLE MAP_ADD DICT_UPDATE DICT_MERGE UNPACK_SEQUENCE
    GET_ITER FOR_ITER END_FOR POP_ITER JUMP_BACKWARD JUMP_BACKWARD_NO_INTERRUPT
    MAKE_FUNCTION SET_FUNCTION_ATTRIBUTE RETURN_VALUE RETURN_CONST RERAISE
    RETURN_GENERATOR YIELD_VALUE CALL_INTRINSIC_1 GET_AWAITABLE SEND END_SEND CLEANUP_THROW NOT_TAKEN
"""
"""None of these looks into a text, given the operators and names below."""

_NAMES = """
    join format items values keys get append extend copy
    content text page_content metadata messages invoke ainvoke
"""
"""Attributes and methods that do not."""

_FUNCTIONS: frozenset[object] = frozenset({str, list, dict, tuple, enumerate, zip, range, reversed, map})


def passes_text(function: F) -> F:
    """Declare that a function treats the texts it is given as wholes, though its code does not show it."""
    setattr(function, _DECLARED, True)
    return function


def reads_text(function: F) -> F:
    """Declare that a function looks into the texts it is given."""
    setattr(function, _DECLARED, False)
    return function


def only_passes(function: Callable[..., Any], is_lazy: Callable[[object], bool], depth: int = 0) -> bool:
    """Whether a function treats all texts as wholes; `is_lazy` tells what may be called with marks."""
    declared = getattr(function, _DECLARED, None)
    if isinstance(declared, bool):
        return declared
    target = inspect.unwrap(function)
    if not isinstance(target, types.FunctionType) or depth > _MAX_DEPTH:
        return False
    names = {**vars(builtins), **target.__globals__}
    names |= dict(zip(target.__code__.co_freevars, _cells(target), strict=True))
    return all(_harmless(code, names, is_lazy, depth) for code in _code_of(target.__code__))


def _cells(function: types.FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            # Not filled yet: nothing is known of it.
            yield None


def _code_of(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code_of(constant)


def _harmless(
    code: types.CodeType, names: dict[str, object], is_lazy: Callable[[object], bool], depth: int
) -> bool:
    for step in dis.get_instructions(code):
        argument = str(step.argval)
        match step.opname:
            case "BINARY_OP":
                fine = step.argrepr in ("+", "+=", "[]")
            case "FORMAT_VALUE" | "CONVERT_VALUE":
                fine = step.argrepr in ("", "str")
            case "LOAD_ATTR" | "LOAD_METHOD":
                fine = argument in _NAMES.split()
            case "LOAD_GLOBAL":
                fine = _known(names.get(argument), is_lazy, depth)
            case "LOAD_DEREF":
                fine = argument not in names or _known(names[argument], is_lazy, depth)
            case name:
                fine = name in _INSTRUCTIONS.split()
        if not fine:
            return False
    return True


def _known(value: object, is_lazy: Callable[[object], bool], depth: int) -> bool:
    """Whether what a name stands for may be used."""
    if isinstance(value, (str, int, float, BasePromptTemplate)):
        return True
    if isinstance(value, type):
        return value in _FUNCTIONS or issubclass(value, BaseMessage)
    if isinstance(value, types.FunctionType):
        return only_passes(value, is_lazy, depth + 1)
    return is_lazy(value)
