"""The reference pages that are made from the code."""

MADE = "<!-- made by tools/write_reference.py; change the code, not this page -->"


def cell(text: str) -> str:
    """Text for one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
