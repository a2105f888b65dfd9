"""One tree of errors, the same in process, over HTTP and in the SDK.

    ParrotError
    ├── RequestError              the request is wrong as it stands; sending it again cannot help
    │   ├── MalformedError        cannot be parsed
    │   ├── InvalidError          can be parsed, is not valid
    │   │   ├── TemplateError     a template or its placeholders (carries a position)
    │   │   └── GraphError        a call does not fit into its application graph
    │   ├── NotFoundError         no such thing, or not yours
    │   ├── ConflictError         contradicts what has been accepted before
    │   ├── GoneError             it was there and has ended
    │   ├── TooLargeError         beyond a byte limit
    │   ├── MediaTypeError        a content type or encoding that is not served
    │   └── AuthenticationError   no key, or not a valid one
    ├── OverLimitError            a quota is used up; later it may go through
    ├── UnavailableError          the service cannot take it now
    ├── CallError                 a call ran, or could not run, and its variables carry this
    ├── EngineError               an engine failed; another may succeed
    ├── StoreError                the durable store failed; nothing was acknowledged
    ├── ConfigError               a setting is wrong; the command ends with exit status 2
    ├── UnreachableError          the client could not reach the service, or got something else than an answer
    ├── WaitTimeoutError          the variable was not ready within the client's time
    └── UsageError                the SDK was used in a way that cannot work

Each error carries data: a stable `code`, a `message` that says what to do, the `param` at fault, and whether
a retry makes sense. Each code has a number (`P1203`), shown by the command line and listed in the
documentation.
"""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

MAX_MESSAGE_CHARS = 600


class ParrotError(Exception):
    """Base of every error that Parrot raises on purpose.

    `code` is one of the codes that the class lists in `CODES`; `param` names the field at fault (a path such
    as `calls[3].template`); `data` holds further JSON values a program may need, such as both numbers of an
    overflow.
    """

    default_code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        data: Mapping[str, object] | None = None,
    ) -> None:
        self.code = code or self.default_code
        self.message = message[:MAX_MESSAGE_CHARS]
        self.param = param
        self.data: dict[str, object] = dict(data or {})
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.code, self.param, self.data))

    @property
    def number(self) -> str:
        """The error's number, such as `P1203`."""
        known = CODES.get(self.code)
        return known.number if known else "P0000"


class RequestError(ParrotError):
    """The request is wrong as it stands."""

    default_code = "bad_request"


class MalformedError(RequestError):
    """The request cannot be parsed."""

    default_code = "bad_json"


class InvalidError(RequestError):
    """The request can be parsed but is not valid."""

    default_code = "invalid"


class TemplateError(InvalidError):
    """A template or its parameters are wrong; `data["position"]` is a character offset when known."""

    default_code = "bad_placeholder"


class GraphError(InvalidError):
    """A call does not fit into its application graph."""

    default_code = "cycle"


class NotFoundError(RequestError):
    """No such thing, or it belongs to somebody else; the two cannot be told apart."""

    default_code = "not_found"


class ConflictError(RequestError):
    """The request contradicts something that was accepted before."""

    default_code = "conflict"


class GoneError(RequestError):
    """The session was there and has ended."""

    default_code = "session_closed"


class TooLargeError(RequestError):
    """Beyond a byte limit; `data` has `limit_bytes`."""

    default_code = "too_large"


class MediaTypeError(RequestError):
    """A content type or content encoding that is not served."""

    default_code = "unsupported_media_type"


class AuthenticationError(RequestError):
    """No key, or not a valid one."""

    default_code = "unauthenticated"


class OverLimitError(ParrotError):
    """A quota is used up; `data["retry_after_s"]` says when to try again."""

    default_code = "over_limit"
    retryable = True


class UnavailableError(ParrotError):
    """The service cannot take the request now; `data["retry_after_s"]` says when to try again."""

    default_code = "unavailable"
    retryable = True


class CallError(ParrotError):
    """A call failed; its output variables carry this error to everyone who waits for them."""

    default_code = "call_failed"


class EngineError(ParrotError):
    """An engine failed in a way that is not the request's fault, unless the code says so."""

    default_code = "engine_failed"
    retryable = True


class StoreError(ParrotError):
    """The durable store failed; nothing was acknowledged."""

    default_code = "store_unavailable"
    retryable = True


class ConfigError(ParrotError):
    """A setting is wrong; `param` names its source and key."""

    default_code = "bad_config"


class UnreachableError(ParrotError):
    """The client could not reach the service, or what answered was not Parrot."""

    default_code = "unreachable"
    retryable = True


class WaitTimeoutError(ParrotError, TimeoutError):
    """The variable was not ready within the time the client gave; its call goes on, or is yet to be taken."""

    default_code = "wait_timeout"
    retryable = True


class UsageError(ParrotError):
    """The SDK was used in a way that cannot work: after close, outside a session, a wrong value."""

    default_code = "bad_usage"


class SemanticFunctionError(UsageError):
    """A semantic or native function is declared wrongly; raised when the function is decorated."""

    default_code = "bad_function"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeInfo:
    """What is known of one error code: its number, the class that carries it, and what it means."""

    number: str
    error: type[ParrotError]
    meaning: str


def _rebuild(
    cls: type[ParrotError], message: str, code: str, param: str | None, data: Mapping[str, object]
) -> ParrotError:
    return cls(message, code=code, param=param, data=data)


def _table(*rows: tuple[str, str, type[ParrotError], str]) -> dict[str, CodeInfo]:
    table = {code: CodeInfo(number=number, error=error, meaning=text) for number, code, error, text in rows}
    if len(table) != len(rows) or len({row[0] for row in rows}) != len(rows):
        raise ValueError("error numbers and codes are unique")
    return table


CODES: dict[str, CodeInfo] = _table(
    ("P0001", "internal", ParrotError, "a fault of ours; the log has the request id"),
    ("P1000", "bad_request", RequestError, "the HTTP request is wrong"),
    ("P1001", "bad_json", MalformedError, "the body is not JSON"),
    ("P1002", "not_utf8", MalformedError, "the body is not UTF-8"),
    ("P1003", "too_deep", MalformedError, "JSON nested deeper than allowed"),
    ("P1004", "duplicate_key", MalformedError, "an object names one key twice"),
    ("P1005", "bad_number", MalformedError, "NaN, Infinity or a number with too many digits"),
    ("P1006", "bad_header", MalformedError, "a header has a value that cannot be used"),
    ("P1007", "bad_event_id", MalformedError, "Last-Event-ID is not one of ours"),
    ("P1100", "invalid", InvalidError, "a field has a value that is not allowed"),
    ("P1101", "unknown_field", InvalidError, "a field that does not exist"),
    ("P1102", "invalid_unicode", InvalidError, "text with a lone surrogate"),
    ("P1103", "nul_not_allowed", InvalidError, "text with U+0000"),
    ("P1104", "missing_field", InvalidError, "a field that must be there is not"),
    ("P1105", "bad_name", InvalidError, "a name that is not an identifier of at most 64 characters"),
    ("P1106", "too_many", InvalidError, "more items than allowed"),
    (
        "P1107",
        "grammar_unsupported",
        InvalidError,
        "a schema or regex this service cannot or will not compile",
    ),
    ("P1108", "unsupported", InvalidError, "a field or value that others serve and this service does not"),
    ("P1200", "bad_placeholder", TemplateError, "a placeholder that is not {{name}}"),
    ("P1201", "unbound_placeholder", TemplateError, "a placeholder without a parameter"),
    ("P1202", "unused_parameter", TemplateError, "a parameter without a placeholder"),
    ("P1203", "context_overflow", CallError, "the prompt and its outputs do not fit into the model's window"),
    ("P1204", "duplicate_output", TemplateError, "one output placeholder stands twice"),
    ("P1205", "no_output", TemplateError, "a call without an output placeholder"),
    ("P1206", "empty_prompt", TemplateError, "nothing stands before the first output"),
    ("P1207", "bad_parameter", TemplateError, "a parameter that does not agree with its placeholder"),
    ("P1208", "bad_messages", TemplateError, "chat messages that the model's chat template cannot take"),
    ("P1300", "cycle", GraphError, "calls would wait for each other"),
    ("P1301", "fan_in", GraphError, "a call consumes more variables than allowed"),
    ("P1302", "duplicate_name", GraphError, "two calls of one batch have the same name"),
    ("P1303", "too_deep_graph", GraphError, "a chain of calls longer than allowed"),
    ("P1400", "not_found", NotFoundError, "no such session, call or variable, or not yours"),
    ("P1401", "model_not_found", NotFoundError, "a model that is not served here"),
    ("P1406", "function_not_found", NotFoundError, "no such registered function or version, or not yours"),
    ("P1402", "no_route", NotFoundError, "no such route"),
    ("P1403", "method_not_allowed", RequestError, "the route exists, the method does not"),
    ("P1404", "not_acceptable", RequestError, "the Accept header excludes what the route sends"),
    ("P1405", "request_timeout", RequestError, "the body did not arrive in time"),
    ("P1500", "conflict", ConflictError, "contradicts what was accepted before"),
    ("P1501", "already_produced", ConflictError, "the variable has a producer already"),
    ("P1502", "already_set", ConflictError, "the variable has another value already"),
    ("P1503", "idempotency_mismatch", InvalidError, "the idempotency key was used with another body"),
    ("P1504", "event_from_future", ConflictError, "Last-Event-ID is ahead of the stream"),
    ("P1505", "request_in_flight", ConflictError, "the same idempotency key is being worked on; ask again"),
    ("P1600", "session_closed", GoneError, "the session was deleted"),
    ("P1601", "session_expired", GoneError, "the session's time ran out"),
    ("P1700", "too_large", TooLargeError, "the body or a value is too large"),
    ("P1800", "unsupported_media_type", MediaTypeError, "send application/json, not compressed"),
    ("P1900", "unauthenticated", AuthenticationError, "send Authorization: Bearer KEY"),
    ("P2000", "over_limit", OverLimitError, "a quota is used up"),
    ("P2100", "unavailable", UnavailableError, "the service cannot take it now"),
    ("P2101", "draining", UnavailableError, "the service is shutting down"),
    ("P2102", "engine_unavailable", UnavailableError, "no engine for the model is up"),
    ("P2103", "overloaded", UnavailableError, "more calls wait for an engine than the service lets wait"),
    ("P3000", "call_failed", CallError, "the call failed"),
    (
        "P3001",
        "upstream_failed",
        CallError,
        "a variable that the call needs has failed; data.root names the first",
    ),
    ("P3002", "cancelled", CallError, "the call was cancelled"),
    ("P3003", "deadline", CallError, "the deadline passed"),
    ("P3004", "transform_no_match", CallError, "a transform's pattern did not match the text"),
    ("P3005", "transform_bad_json", CallError, "a transform was given text that is not JSON"),
    ("P3006", "transform_missing", CallError, "a JSON pointer leads nowhere"),
    ("P3007", "value_too_large", CallError, "a value grew beyond its limit"),
    ("P3008", "quarantined", CallError, "the call brought down two engines and is not tried again"),
    ("P3009", "attempts_exhausted", CallError, "the call failed on every attempt"),
    ("P3010", "native_failed", CallError, "a native function raised an exception"),
    ("P3011", "bad_value", CallError, "an output that does not parse as the type the function declares"),
    ("P3100", "regex_unsupported", InvalidError, "a regular expression that RE2 does not know"),
    ("P3101", "regex_too_large", InvalidError, "a regular expression that needs too much memory"),
    ("P3102", "bad_transform", InvalidError, "a transform that is not known or wrongly written"),
    ("P4000", "engine_failed", EngineError, "the engine failed"),
    ("P4001", "engine_lost", EngineError, "the engine's process ended or stopped answering"),
    ("P4002", "engine_bad_output", EngineError, "the engine produced something that cannot be used"),
    ("P4003", "context_gone", EngineError, "a context was evicted before it was used"),
    ("P4004", "kv_exhausted", EngineError, "the request needs more KV memory than the engine has"),
    ("P4005", "engine_start_failed", EngineError, "the engine could not start"),
    ("P4006", "bad_model", ConfigError, "the model directory cannot be loaded"),
    ("P5000", "store_unavailable", StoreError, "the store does not answer"),
    ("P5001", "store_full", StoreError, "the store's disk is full"),
    ("P5002", "store_corrupt", StoreError, "the store's file is damaged"),
    ("P5003", "store_locked", StoreError, "another service uses this store"),
    ("P5004", "store_newer", StoreError, "the store was written by a newer version"),
    ("P5005", "store_unsafe", StoreError, "what the store holds is not known until it is opened again"),
    ("P6000", "bad_config", ConfigError, "a setting is wrong"),
    ("P6001", "no_auth_listen", ConfigError, "refusing to listen beyond this machine without keys"),
    ("P6002", "port_in_use", ConfigError, "the port is taken"),
    ("P6003", "missing_extra", ConfigError, "a part of Parrot is not installed"),
    ("P7000", "unreachable", UnreachableError, "no service answers at the address"),
    ("P7001", "bad_answer", UnreachableError, "what answered is not a Parrot service"),
    ("P7100", "wait_timeout", WaitTimeoutError, "the variable was not ready in time"),
    ("P7101", "stream_reset", ParrotError, "another attempt writes other text than was streamed already"),
    ("P7200", "bad_usage", UsageError, "the SDK was used in a way that cannot work"),
    ("P7201", "bad_function", SemanticFunctionError, "a function is declared wrongly"),
)


def fault_trace(error: BaseException) -> str:
    """What went wrong and where, for a log: kinds and stack frames, of causes too, without any message.

    A message may quote a prompt, a key or a value (that of a `KeyError` is its key), and logs have none.
    """
    chain: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = "".join(traceback.format_tb(current.__traceback__))
        inner = current.exceptions if isinstance(current, BaseExceptionGroup) else ()
        parts = (f"in it, {fault_trace(each)}" for each in inner)
        chain.append(f"{frames}{type(current).__qualname__}\n{''.join(parts)}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "which led to\n".join(reversed(chain))


def error_from_code(
    code: str, message: str, *, param: str | None = None, data: Mapping[str, object] | None = None
) -> ParrotError:
    """Build the error class that belongs to `code`; an unknown code gives a plain `ParrotError` that keeps
    it.
    """
    known = CODES.get(code)
    return (known.error if known else ParrotError)(message, code=code, param=param, data=data)
