"""LangChain on Parrot: a chat model, and chains that become one application graph.

    model = ChatParrot(model="my-model", base_url="http://127.0.0.1:8321/v1")
    chain = lazy(prompt | model | StrOutputParser())

`ChatParrot` alone is eager: each call is a request to the service's OpenAI-compatible endpoint, and every
feature of LangChain works as with any other chat model. Within `lazy(…)`, a call of the model is submitted
and gives a text that stands for its answer, until something needs to read it; so the calls of a whole chain
reach the service as one graph. Needs the extra `langchain`.
"""

from parrot.errors import ConfigError

try:
    import langchain_core as _core  # noqa: F401
    import langchain_openai as _openai  # noqa: F401
except ImportError as error:
    raise ConfigError(
        f"{error.name} is not installed: pip install 'parrot-llm[langchain]'", code="missing_extra"
    ) from error

from parrot.integrations.langchain.chain import LazyChain as LazyChain
from parrot.integrations.langchain.chain import lazy as lazy
from parrot.integrations.langchain.joining import passes_text as passes_text
from parrot.integrations.langchain.joining import reads_text as reads_text
from parrot.integrations.langchain.model import ChatParrot as ChatParrot

__all__ = ["ChatParrot", "LazyChain", "lazy", "passes_text", "reads_text"]
