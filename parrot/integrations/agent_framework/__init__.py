"""Microsoft's Agent Framework on Parrot: a chat client, and what a workflow tells the service.

    client = ParrotChatClient("my-model", base_url="http://127.0.0.1:8321/v1")
    result = await workflow.run("a task", client_kwargs=hints(workflow))

`ParrotChatClient` makes each call a request to the service's OpenAI-compatible endpoint; streaming, tools,
middleware and agents work as with any other client. With `hints`, the requests of one run are one
application: the service knows which of them are a fan-out whose joint completion counts, and which follow
each other. Needs the extra `agent-framework`.
"""

from parrot.errors import ConfigError

try:
    import agent_framework as _agent_framework  # noqa: F401
    import agent_framework_openai as _agent_framework_openai  # noqa: F401
except ImportError as error:
    raise ConfigError(
        f"{error.name} is not installed: pip install 'parrot-llm[agent-framework]'", code="missing_extra"
    ) from error

from parrot.integrations.agent_framework.client import ParrotChatClient as ParrotChatClient
from parrot.integrations.agent_framework.hints import RequestHints as RequestHints
from parrot.integrations.agent_framework.hints import hints as hints

__all__ = ["ParrotChatClient", "RequestHints", "hints"]
