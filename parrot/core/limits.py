"""What a default deployment allows; each is a setting `limits.<name>`, and `GET /v1/limits` tells them."""

from dataclasses import dataclass

TENANT_LIMITS = frozenset(
    {
        "max_sessions",
        "max_streams",
        "requests_per_s",
        "requests_burst",
        "tokens_per_minute",
        "max_running_calls",
        "max_queued_calls",
        "max_kv_share",
        "max_stored_bytes",
    }
)
"""Limits that can be other for one tenant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what one request, session or tenant may ask for."""

    max_call_bytes: int = 1 << 20
    """A call's JSON text."""
    max_batch_bytes: int = 8 << 20
    """A request's body."""
    max_template_bytes: int = 256 << 10
    """A call's template, or all its messages' contents together."""
    max_value_bytes: int = 1 << 20
    """A variable's value."""
    max_metadata_bytes: int = 4 << 10
    """A session's metadata."""
    max_json_depth: int = 32
    """Nesting of objects and arrays in a body."""
    max_json_keys: int = 1000
    """Keys of one object."""
    max_placeholders: int = 128
    """Placeholders of one call."""
    max_batch_calls: int = 2000
    """Calls of one submission."""
    max_session_calls: int = 50_000
    """Calls of one session in its life."""
    max_pending_calls: int = 10_000
    """Calls of one session that have not ended."""
    max_session_variables: int = 100_000
    """Variables of one session."""
    max_graph_depth: int = 10_000
    """Calls in a chain."""
    max_fan_in: int = 1000
    """Variables that one call consumes."""
    max_sessions: int = 64
    """Open sessions of one tenant."""
    max_streams: int = 32
    """Event streams of one tenant at a time. This and the next eight hold for tenants with keys; 0 switches
    one off."""
    requests_per_s: float = 20.0
    """Requests of one tenant that make something (`POST`, `PUT`), a second."""
    requests_burst: int = 40
    """So many of them may come at once."""
    tokens_per_minute: int = 200_000
    """Prompt and output tokens of one tenant: the most that calls can cost is taken when they are submitted,
    what they did not use is put back when they end."""
    max_running_calls: int = 32
    """Calls of one tenant on engines at a time."""
    max_queued_calls: int = 512
    """While so many calls of one tenant have their inputs and wait for an engine, it can submit no more."""
    max_queued_calls_total: int = 4096
    """While so many calls of all tenants wait, nobody can submit more."""
    max_kv_share: float = 0.5
    """While other tenants' calls wait for an engine, a tenant that has this share of the engines' memory for
    its running calls is given no more of it."""
    max_stored_bytes: int = 1 << 30
    """What one tenant's sessions may take in the store, as JSON text; closed ones count until `retention_s`
    is over."""
    min_free_disk_bytes: int = 512 << 20
    """While the store's file system has less room than this, or than a twentieth of its size if that is less,
    nothing is accepted; what runs goes on. 0 switches it off."""
    session_idle_ttl_s: float = 3600.0
    """A session that nobody touched and in which nothing runs is closed after this."""
    session_ttl_s: float = 7 * 24 * 3600.0
    """No session lives longer."""
    retention_s: float = 24 * 3600.0
    """A closed session's log is kept so long."""
    max_wait_s: float = 60.0
    """A long poll is answered after this at the latest."""
    max_stream_s: float = 900.0
    """An event stream is closed after this; the client resumes."""
    max_stream_events: int = 1000
    """Events kept for the resumption of one stream."""
    max_regex_bytes: int = 512
    """A transform's pattern."""
    regex_memory_bytes: int = 8 << 20
    """Memory of one compiled pattern."""
    max_grammar_bytes: int = 16 << 10
    """A JSON schema or regex that bounds an output."""
    max_attempts: int = 3
    """Attempts of one call."""
    max_crash_attempts: int = 2
    """Engines one call may bring down before it is quarantined."""
    call_timeout_s: float = 1800.0
    """A call that has been runnable for longer fails with `deadline`."""
    queue_timeout_s: float = 1800.0
    """A call that waits for an engine for longer fails with `deadline`. Whole graphs are submitted at once,
    so that waiting is no fault in itself; where requests come one by one, minutes are enough."""
    execution_timeout_s: float = 600.0
    """A call that an engine has had for longer, in its present attempt, fails with `deadline`."""
    first_token_timeout_s: float = 300.0
    """An attempt that has no token after this is stopped, and the call is tried again."""
    next_token_timeout_s: float = 120.0
    """So is one that had tokens, and then none for so long."""
    max_functions: int = 1000
    """Registered functions of one tenant, each version counted."""
    max_functions_bytes: int = 16 << 20
    """Their JSON text, all versions together."""
