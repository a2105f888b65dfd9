"""Inputs that a service must refuse or bear; this is the catalogue, and `row_57b` names case b of its row 57.

`Refusal`: one request and the answer it gets. `Raw`: bytes on the wire. `Outcome`: a call that is accepted,
and what becomes of its output. Rows that take several requests are tests of their own, in
`test_bad_input_flows.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from string import ascii_lowercase
from typing import Any

from http_harness import KEY_A, call, json_bytes, output

SESSIONS = "/v1/sessions"
CALLS = "/v1/sessions/{sid}/calls"
VARIABLE = "/v1/sessions/{sid}/variables/x"
STREAM = "/v1/sessions/{sid}/variables/x/stream"

JSON = {"Content-Type": "application/json"}
BIG_SCHEMA_DEPTH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that is refused."""

    row: str
    method: str = "POST"
    path: str = CALLS
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    status: int = 422
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """Bytes that are answered with a status and the end of the connection."""

    row: str
    data: bytes
    status: int
    code: str
    absent: bytes = b"\xff"
    """What the answer must not contain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A call that is accepted."""

    row: str
    call: Mapping[str, Any]
    state: str = "ready"
    value: str | None = None
    code: str | None = None


_letters: dict[int, Callable[[], int]] = {}


def _row(number: int) -> str:
    following = _letters.setdefault(number, count().__next__)
    return f"row_{number}{ascii_lowercase[following()]}"


def _calls(number: int, code: str, *calls: object, status: int = 422) -> Refusal:
    return Refusal(row=_row(number), body=json_bytes({"calls": calls}), status=status, code=code)


def _sampling(number: int, code: str, **fields: object) -> Refusal:
    return _calls(number, code, output(sampling=fields))


def _transforms(number: int, code: str, *specs: object) -> Refusal:
    return _calls(number, code, output(transforms=specs))


def _text(number: int, code: str, text: str, *, status: int = 422, at: str = CALLS) -> Refusal:
    """A body as text, for what `json.dumps` does not write."""
    return Refusal(
        row=_row(number), path=at, body=text.encode("utf-8", "surrogatepass"), status=status, code=code
    )


def _sampling_text(number: int, code: str, text: str, *, status: int) -> Refusal:
    body = json_bytes({"calls": [output(sampling="SAMPLING")]}).decode()
    return _text(number, code, body.replace('"SAMPLING"', text), status=status)


def _session(number: int, code: str, status: int = 422, **fields: object) -> Refusal:
    return Refusal(row=_row(number), path=SESSIONS, body=json_bytes(fields), status=status, code=code)


def _get(number: int, path: str, status: int, code: str, **headers: str) -> Refusal:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Refusal(row=_row(number), method="GET", path=path, headers=named, status=status, code=code)


def _typed(number: int, content_type: str, body: bytes, **more: str) -> Refusal:
    headers = {"Content-Type": content_type, **{k.replace("_", "-"): v for k, v in more.items()}}
    return Refusal(
        row=_row(number),
        path=SESSIONS,
        body=body,
        headers=headers,
        status=415,
        code="unsupported_media_type",
    )


def _nested(depth: int) -> object:
    value: object = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


def _http(
    method: str, target: str, *headers: str, body: bytes = b"", host: str | None = "127.0.0.1"
) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Authorization: Bearer {KEY_A}", *headers]
    if host is not None:
        lines.append(f"Host: {host}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def _raw(number: int, status: int, code: str, data: bytes, absent: bytes = b"\xff") -> Raw:
    return Raw(row=_row(number), status=status, code=code, data=data, absent=absent)


CLOSE = "Connection: close"
POSTED = "Content-Type: application/json"

RAW = (
    _raw(6, 413, "too_large", _http("POST", SESSIONS, POSTED, "Content-Length: 10737418240")),
    _raw(10, 400, "bad_header", _http("GET", SESSIONS, "X-Big: " + "x" * 65536)),
    _raw(10, 400, "bad_header", _http("GET", SESSIONS, *(f"X-{i}: y" for i in range(500)))),
    _raw(11, 400, "bad_header", _http("GET", "/" + "x" * 65536)),
    _raw(
        12,
        400,
        "bad_header",
        _http("POST", SESSIONS, POSTED, "Content-Length: 2", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    _raw(
        13, 400, "bad_header", _http("POST", SESSIONS, "Content-Length: 2", "Content-Length: 3", body=b"{}")
    ),
    _raw(14, 400, "bad_header", _http("GET", SESSIONS, host="evil/?")),
    _raw(14, 400, "bad_header", _http("GET", SESSIONS, host="a#")),
    _raw(14, 400, "bad_header", _http("GET", SESSIONS, host=None)),
    _raw(
        14, 401, "unauthenticated", b"GET /v1/sessions HTTP/1.1\r\nHost: healthz\r\nConnection: close\r\n\r\n"
    ),
    _raw(15, 404, "no_route", _http("GET", "//v1/sessions", CLOSE)),
    _raw(15, 404, "no_route", _http("GET", "/v1/../internal/engines", CLOSE)),
    _raw(15, 404, "not_found", _http("GET", "/v1/sessions%2f..", CLOSE)),
    _raw(15, 404, "no_route", _http("GET", "/v1/sessions%2f..%2f", CLOSE)),
    _raw(15, 404, "not_found", _http("GET", "/v1/sessions/%00", CLOSE)),
    _raw(15, 404, "not_found", _http("GET", "/v1/sessions/%ff%fe", CLOSE)),
    _raw(15, 404, "no_route", _http("GET", "http://evil.example/v1/sessions", CLOSE)),
    _raw(18, 400, "bad_header", b"GET /v1/sessions\r\n\r\n"),
    _raw(18, 400, "bad_header", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64),
    _raw(18, 400, "bad_header", b"\x00" * 1_000_000),
    _raw(21, 404, "no_route", _http("GET", "/x", CLOSE, "X-Request-Id: tcp://evil:1"), b"evil"),
    _raw(21, 404, "no_route", _http("GET", "/x", CLOSE, "X-Request-Id: " + "e" * 10_000), b"eee"),
    _raw(21, 400, "bad_header", _http("GET", "/x", "X-Request-Id: a\rX-Evil: b"), b"Evil"),
)

TRANSPORT = (
    _text(1, "bad_json", "{", status=400),
    _text(2, "bad_json", "", status=400),
    _typed(3, "text/plain", b"{}"),
    _typed(4, "multipart/form-data; boundary=x", b"--x--"),
    _typed(4, "application/x-www-form-urlencoded", b"name=x"),
    _typed(5, "application/json", b"\x1f\x8b\x08\x00", Content_Encoding="gzip"),
    _typed(5, "application/json", b"{}", Content_Encoding="br"),
    Refusal(row=_row(16), method="TRACE", path=SESSIONS, status=405, code="method_not_allowed"),
    Refusal(row=_row(16), method="PUT", path=SESSIONS, body=b"{}", status=405, code="method_not_allowed"),
    Refusal(row=_row(16), method="PATCH", path=VARIABLE, body=b"{}", status=405, code="method_not_allowed"),
    Refusal(
        row=_row(16),
        method="POST",
        path=VARIABLE,
        headers={"X-HTTP-Method-Override": "PUT", **JSON},
        body=b'{"value": "x"}',
        status=405,
        code="method_not_allowed",
    ),
    _get(17, STREAM, 406, "not_acceptable", Accept="text/html"),
    _get(17, "/v1/sessions/{sid}/events", 406, "not_acceptable", Accept="application/json"),
    Refusal(row=_row(22), path=SESSIONS, body='{"name": "x"}'.encode("utf-16"), status=400, code="not_utf8"),
    Refusal(row=_row(22), path=SESSIONS, body='{"name": "x"}'.encode("utf-32"), status=400, code="not_utf8"),
    Refusal(row=_row(22), path=SESSIONS, body='{"name": "é"}'.encode("latin-1"), status=400, code="not_utf8"),
    Refusal(row=_row(22), path=SESSIONS, body=b'{"name": "\xc0\xaf"}', status=400, code="not_utf8"),
)

SHAPES = (
    *(_text(35, "invalid", text, at=SESSIONS) for text in ("[]", '"x"', "null", "42")),
    _text(36, "too_deep", "[" * 100_000, status=400, at=SESSIONS),
    _text(37, "too_deep", json_bytes(_nested(33)).decode(), status=400, at=SESSIONS),
    _text(38, "duplicate_key", '{"calls": [{"template": "a", "template": "b"}]}', status=400),
    *(
        _sampling_text(39, "bad_number", f'{{"temperature": {number}}}', status=400)
        for number in ("NaN", "Infinity", "-Infinity")
    ),
    _sampling_text(40, "invalid", '{"temperature": 1e400}', status=422),
    _sampling_text(41, "bad_number", f'{{"max_tokens": {"9" * 5000}}}', status=400),
    _sampling(42, "invalid", max_tokens=2**63),
    *(_sampling(43, "invalid", max_tokens=value) for value in (True, "5", 5.0, 5.5)),
    _sampling(44, "unknown_field", max_token=5),
    _calls(44, "unknown_field", {**call(), "api_base": "http://evil.example"}),
    _calls(44, "unknown_field", {**call(), "__class__": "x"}),
    _calls(44, "unknown_field", {**call(), "user_config": {"api_base": "http://evil.example"}}),
    _session(44, "unknown_field", tenant_id="b"),
    _calls(44, "unknown_field", {**call(), "cache_salt": "x"}),
    _text(45, "invalid_unicode", r'{"name": "\ud800"}', at=SESSIONS),
    _text(45, "invalid_unicode", r'{"metadata": {"k": "a\udfff"}}', at=SESSIONS),
    _text(45, "invalid_unicode", r'{"calls": [{"template": "\ud800{{out}}"}]}'),
    _text(45, "invalid_unicode", r'{"calls": [{"\ud800": 1}]}'),
    _text(46, "nul_not_allowed", r'{"name": "a\u0000"}', at=SESSIONS),
    _calls(46, "nul_not_allowed", call("{{x}} {{out}}", x={"value": "a\x00b"})),
    _sampling(46, "nul_not_allowed", stop=["a\x00"]),
    _text(
        47, "too_large", "{" + ",".join(f'"k{i}":0' for i in range(1_000_000)) + "}", status=413, at=SESSIONS
    ),
    _text(47, "too_many", '{"calls": [{' + ",".join(f'"k{i}":0' for i in range(100_000)) + "}]}"),
    _session(48, "invalid", name="x" * 300_000),
    _session(48, "invalid", metadata={"k": "x" * 300_000}),
    _session(49, "bad_name", name="a\u202eb"),
    _session(49, "bad_name", name="a\u200bb"),
    _session(49, "bad_name", name="a\nb"),
    _calls(49, "bad_name", {**call(), "name": "a\u202eb"}),
)

TEMPLATES = (
    _calls(50, "missing_field", {"parameters": {"out": {"output": {}}}}),
    _calls(50, "missing_field", {**call(), "template": None}),
    _calls(50, "invalid", {**call(), "template": 5}),
    _calls(50, "no_output", {"template": ""}),
    _calls(51, "unbound_placeholder", call("{{a}} {{out}}")),
    _calls(52, "unused_parameter", call("Say {{out}}", a={"value": "x"})),
    _text(
        53,
        "duplicate_key",
        '{"calls":[{"template":"{{a}}{{out}}","parameters":{"a":{"value":"1"},"a":{"value":"2"}}}]}',
        status=400,
    ),
    _calls(54, "duplicate_output", call("Say {{out}} {{out}}")),
    _calls(55, "no_output", {"template": "Say {{a}}", "parameters": {"a": {"value": "x"}}}),
    _calls(56, "empty_prompt", call("{{out}}")),
    *(
        _calls(57, "bad_placeholder", call(f"Say {text} {{{{out}}}}"))
        for text in ("{{a b}}", "{{}}", "{{1x}}", "{{__import__('os')}}", "{{a.b}}", "{{a|upper}}")
    ),
    _calls(58, "bad_placeholder", call("Say {{out}} {{a")),
    _calls(59, "bad_placeholder", call("Say {{7*7}} {{out}}")),
    _calls(61, "bad_placeholder", call("{{" * 100_001 + " {{out}}")),
    _calls(
        62,
        "too_many",
        {
            "template": "x" + "".join(f"{{{{p{i}}}}}" for i in range(128)) + "{{out}}",
            "parameters": {"out": {"output": {}}, **{f"p{i}": {"value": "v"} for i in range(128)}},
        },
    ),
    _calls(66, "bad_parameter", call("{{a}} {{out}}", a={"value": "x", "variable": "y"})),
    _calls(66, "bad_parameter", call("{{a}} {{out}}", a={})),
    _calls(66, "bad_parameter", call("{{a}} {{out}}", a={"output": {}, "variable": "y"})),
    _calls(66, "bad_parameter", call("{{a}} {{out}}", a={"is_output": True})),
    *(
        _calls(67, "invalid", call("{{a}} {{out}}", a={"value": value}))
        for value in ({"x": 1}, ["x"], 5, None)
    ),
    _calls(68, "too_large", call("{{a}} {{out}}", a={"value": "a" * 1_000_000}), status=413),
    _calls(69, "context_overflow", call("Say " * 4096 + "{{out}}")),
)

GRAPHS = (
    _calls(71, "cycle", call("{{a}} {{out}}", a={"variable": "o"}, out={"output": {"variable": "o"}})),
    _calls(
        72,
        "cycle",
        call("{{a}} {{out}}", a={"variable": "p"}, out={"output": {"variable": "o"}}),
        call("{{a}} {{out}}", a={"variable": "o"}, out={"output": {"variable": "p"}}),
    ),
    _calls(73, "not_found", call("{{a}} {{out}}", a={"variable": "var_" + "0" * 32}), status=404),
    _get(73, "/v1/sessions/{sid}/variables/var_" + "0" * 32, 404, "not_found"),
    _calls(74, "already_produced", output(variable="o"), output(variable="o"), status=409),
    Refusal(
        row=_row(77),
        method="PUT",
        path=VARIABLE,
        body=json_bytes({"value": "x" * ((64 << 10) + 1)}),
        status=413,
        code="too_large",
    ),
    *(_get(82, f"{VARIABLE}?wait={wait}", 422, "invalid") for wait in ("-1", "abc", "nan")),
    _get(84, "/v1/sessions/{sid}/variables/..%2F..%2Fx", 404, "no_route"),
    _get(84, "/v1/sessions/{sid}/variables/" + "x" * 7000, 404, "not_found"),
    _get(84, "/v1/sessions/{sid}/variables/" + "x" * 10_240, 400, "bad_header"),
    _get(84, "/v1/sessions/{sid}/variables/%F0%9F%A6%9C", 404, "not_found"),
    _get(84, "/v1/sessions/{sid}/variables/'%20OR%201=1--", 404, "not_found"),
    Refusal(
        row=_row(84),
        method="PUT",
        path="/v1/sessions/{sid}/variables/%F0%9F%A6%9C",
        body=b'{"value": "x"}',
        status=404,
        code="not_found",
    ),
    *(
        Refusal(
            row=_row(87),
            body=json_bytes({"calls": [call()]}),
            headers={**JSON, "Idempotency-Key": key},
            status=400,
            code="bad_header",
        )
        for key in ("x" * 256, "\u00e9", "", "a b")
    ),
)

SAMPLING = (
    *(_sampling(90, "invalid", max_tokens=value) for value in (0, -1, 10**9)),
    _sampling(91, "unknown_field", n=0),
    _sampling(91, "unknown_field", n=1_000_000),
    _sampling(91, "unknown_field", n=2, best_of=1),
    *(_sampling(92, "invalid", temperature=value) for value in (-1, 1e9, None)),
    *(_sampling(92, "invalid", top_p=value) for value in (0, 1.1)),
    _sampling(92, "invalid", top_k=-2),
    *(_sampling(93, "invalid", **{f"{kind}_penalty": 100}) for kind in ("presence", "frequency")),
    _sampling(93, "unknown_field", repetition_penalty=0),
    _sampling(94, "unknown_field", logprobs=10**6),
    _sampling(94, "unknown_field", prompt_logprobs=-1),
    _sampling(95, "too_many", stop=["x"] * 1000),
    _sampling(95, "invalid", stop=[""]),
    _sampling(95, "invalid", stop=["x" * 10_240]),
    _sampling(96, "unknown_field", stop_token_ids=[-1]),
    _sampling(96, "unknown_field", bad_words=["abc"]),
    _sampling(96, "invalid", logit_bias={str(2**31): 1}),
    _sampling(96, "invalid", logit_bias=[[2**31, 1]]),
    _sampling(96, "invalid", logit_bias=[[-1, 1]]),
    _sampling(96, "invalid", logit_bias=[["abc", 1]]),
    _sampling(97, "invalid", seed=2**64),
    _sampling(97, "invalid", seed=-1),
    *(
        _calls(98, "model_not_found", {**call(), "model": model}, status=404)
        for model in ("nope", "../../etc/passwd", "org/some-model", "")
    ),
    _session(99, "invalid", objective="admin"),
    _get(99, f"{VARIABLE}?objective=admin", 422, "invalid"),
    _calls(99, "unknown_field", {**call(), "priority": "admin"}),
    _session(100, "invalid", deadline_s=-1),
    _session(100, "invalid", deadline_s=0),
    _session(100, "invalid", deadline_s=10 * 365 * 24 * 3600),
    _calls(90, "invalid", output(sampling={"min_tokens": 9, "max_tokens": 8})),
)

TRANSFORMS = (
    _transforms(103, "regex_unsupported", {"type": "regex", "pattern": "(?=x)"}),
    _transforms(103, "regex_unsupported", {"type": "regex", "pattern": r"(a)\1"}),
    _transforms(104, "regex_too_large", {"type": "regex", "pattern": "(((a{1000}){1000}){1000})"}),
    _transforms(104, "regex_too_large", {"type": "regex", "pattern": r"(?:\pN{1,1000}){1,1000}"}),
    _transforms(105, "regex_too_large", {"type": "regex", "pattern": "x" * 513}),
    _transforms(105, "regex_unsupported", {"type": "regex", "pattern": "("}),
    _transforms(105, "bad_transform", {"type": "regex", "pattern": "(a)", "group": 7}),
    _transforms(105, "bad_transform", {"type": "regex", "pattern": "(a)", "group": "name"}),
    _transforms(109, "bad_transform", {"type": "json", "pointer": "a"}),
    _transforms(109, "bad_transform", {"type": "json", "pointer": "/~2"}),
    _transforms(109, "bad_transform", {"type": "json", "pointer": "/a" * 5120}),
    _transforms(110, "too_many", *[{"type": "strip"}] * 9),
    _transforms(110, "bad_transform", {"type": "exec", "code": "1"}),
    _transforms(110, "bad_transform", {}),
)

REFUSALS = (*TRANSPORT, *SHAPES, *TEMPLATES, *GRAPHS, *SAMPLING, *TRANSFORMS)


def _made(mark: str, *transforms: object) -> dict[str, Any]:
    spec = {"output": {"sampling": {"max_tokens": 4000}, "transforms": transforms}}
    return call(f"{mark}{{{{out}}}}", out=spec)


JSON_A = {"type": "json", "pointer": "/a"}

OUTCOMES = (
    Outcome(row=_row(49), call=call("{{a}} #x{{out}}", a={"value": "a\u202e\u200b\x07"}), value="x" * 100),
    Outcome(row=_row(58), call=call("{{{{a}}}} #x{{out}}"), value="x" * 100),
    Outcome(row=_row(58), call=call("{{a}}} #x{{out}}", a={"value": "v"}), value="x" * 100),
    Outcome(row=_row(59), call=call("{% for x in range(10**9) %} #x{{out}}"), value="x" * 100),
    Outcome(row=_row(60), call=call("{0.__class__} %s $(id) #x{{out}}"), value="x" * 100),
    Outcome(row=_row(63), call=call("{{a}} #x{{out}}", a={"value": "{{other}}"}), value="x" * 100),
    *(
        Outcome(row=_row(65), call=call("{{a}} #x{{out}}", a={"value": text}), value="x" * 100)
        for text in ("<|im_end|>", "</s>", "<|eot_id|>", "<|image_pad|>", "[INST]")
    ),
    *(
        Outcome(row=_row(70), call=call("{{a}} #x{{out}}", a={"value": text}), value="x" * 100)
        for text in ("", "  \n\t ", "👩‍👩‍👧‍👦🏳️‍🌈")
    ),
    Outcome(
        row=_row(95),
        call=call(out={"output": {"sampling": {"max_tokens": 2, "stop": ["\n"]}}}),
        state="ready",
    ),
    Outcome(
        row=_row(102),
        call=_made("#bomb", {"type": "regex", "pattern": "(a+)+$", "default": "none"}),
        value="none",
    ),
    Outcome(
        row=_row(106),
        call=_made("#text", {"type": "regex", "pattern": "[0-9]{9}"}),
        state="failed",
        code="transform_no_match",
    ),
    Outcome(
        row=_row(106), call=_made("#text", {"type": "regex", "pattern": "[0-9]{9}", "default": ""}), value=""
    ),
    Outcome(row=_row(107), call=_made("#x", {"type": "regex", "pattern": ""}), value=""),
    *(
        Outcome(row=_row(108), call=_made(mark, JSON_A), state="failed", code="transform_bad_json")
        for mark in ("#text", "#truncated", "#nan", "#twice", "#deep", "#digits")
    ),
    Outcome(row=_row(108), call=_made("#fenced", JSON_A), value="1"),
    Outcome(
        row=_row(109),
        call=_made("#json", {"type": "json", "pointer": "/a/-1"}),
        state="failed",
        code="transform_missing",
    ),
    Outcome(
        row=_row(109),
        call=_made("#json", {"type": "json", "pointer": "/__class__"}),
        state="failed",
        code="transform_missing",
    ),
    Outcome(row=_row(109), call=_made("#json", {"type": "json", "pointer": "/a/1/b~1c"}), value="é"),
    Outcome(
        row=_row(110),
        call=_made("#x", *[{"type": "template", "text": "{{value}}" * 8}] * 4),
        state="failed",
        code="value_too_large",
    ),
    Outcome(
        row=_row(64),
        call=_made("#placeholder", {"type": "template", "text": "{{value}}"}),
        value="{{x}} {{out}}",
    ),
)
