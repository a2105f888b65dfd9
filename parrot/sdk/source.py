"""Texts that templates are written in, and errors that point into them."""

import textwrap
from dataclasses import dataclass

from parrot.errors import SemanticFunctionError

_EXCERPT_CHARS = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceText:
    """One template with what is needed to say where in it something is wrong."""

    function: str
    place: str
    """`docstring` or `messages[2] (assistant)`."""
    text: str
    first_line: int = 1
    """The number, within the place, of the text's first line."""

    def error(self, message: str, position: int) -> SemanticFunctionError:
        """An error with line, column and a caret under the character at `position`."""
        before = self.text[:position]
        line_start = before.rfind("\n") + 1
        line_end = self.text.find("\n", position)
        line = self.text[line_start : line_end if line_end >= 0 else len(self.text)]
        number = self.first_line + before.count("\n")
        column = position - line_start
        cut = max(0, column - _EXCERPT_CHARS // 2)
        excerpt = line[cut : cut + _EXCERPT_CHARS].replace("\t", " ")
        caret = " " * (column - cut) + "^"
        where = f"{self.place}, line {number}, column {column + 1}"
        return SemanticFunctionError(
            f"{self.function}: {message}\n  {where}:\n    {excerpt}\n    {caret}\n",
            data={"position": position, "line": number, "column": column + 1},
        )


def docstring_source(function: str, docstring: str) -> SourceText:
    """A function's docstring as a template: common indentation removed, white space at both ends stripped.

    Lines inside keep their relative indentation and their ends.
    """
    first, newline, rest = docstring.partition("\n")
    text = first.lstrip() + newline + textwrap.dedent(rest)
    stripped = text.lstrip()
    skipped = text[: len(text) - len(stripped)]
    return SourceText(
        function=function,
        place="docstring",
        text=stripped.rstrip(),
        first_line=1 + skipped.count("\n"),
    )
