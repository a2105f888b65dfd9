"""Registered semantic functions as tools of the Model Context Protocol: `parrot mcp`.

An agent that speaks the protocol finds every function that its key's tenant has registered, with the names
of its inputs, and calls it; prompt, model and sampling stay with the service. Needs the extra `mcp`.
"""

from parrot.errors import ConfigError

try:
    import mcp as _mcp  # noqa: F401
    import mcp_types as _mcp_types  # noqa: F401
except ImportError as error:
    raise ConfigError(
        f"{error.name} is not installed: pip install 'parrot-llm[mcp]'", code="missing_extra"
    ) from error

from parrot.integrations.mcp.server import HOST as HOST
from parrot.integrations.mcp.server import function_server as function_server
from parrot.integrations.mcp.server import http_app as http_app
from parrot.integrations.mcp.server import listen as listen
from parrot.integrations.mcp.server import serve_http as serve_http
from parrot.integrations.mcp.server import serve_stdio as serve_stdio
from parrot.integrations.mcp.tools import FunctionTools as FunctionTools

__all__ = ["HOST", "FunctionTools", "function_server", "http_app", "listen", "serve_http", "serve_stdio"]
