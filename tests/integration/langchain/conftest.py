"""A service for LangChain's chains."""

from collections.abc import Iterator

import pytest
from scripted_service import TEXT_KEYED, scripted_service


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """A service whose answers follow from the text of the prompt."""
    with scripted_service(TEXT_KEYED) as address:
        yield address
