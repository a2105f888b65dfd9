"""The engine by itself, and the control plane by itself."""

from collections.abc import Sequence

from parrot.bench.report import prose
from parrot.bench.report.files import Found, Results, newest_sections
from parrot.bench.report.markdown import code, number, section, spread_text, table
from parrot.bench.report.targets import (
    ADDED_P50_S,
    ADDED_P99_S,
    CALLS_PER_S,
    DECODE_ALONE,
    DECODE_SHARED,
    GROWTH,
    OUTSIDE,
    PREFILL,
    SESSION_CALLS,
    SHARED_OVER_EACH,
    Target,
)

Row = list[object]

CONTROL_SECTIONS = ("batches", "single", "chain", "session", "growth", "memory")
"""As `--only` names them."""


def engine(results: Results) -> str:
    """The torch engine, without a service around it."""
    if not results.engine:
        return ""
    file = results.engine[-1]
    content = file.content
    about = prose.ENGINE.format(
        model=content["model"], engine=content["engines"][0]["description"], file=file.name
    )
    rows = [
        [
            f"prefill of {number(one['num_tokens'])} tokens, tokens/s",
            spread_text(one["tokens_per_s"], digits=0),
            _times_floor(one["floor"]),
            *_judged(PREFILL if one["num_tokens"] >= 512 else None, one["tokens_per_s"]["median"]),
        ]
        for one in content["prefill"]
    ]
    rows += [
        [
            _decode_name(one),
            spread_text(one["tokens_per_s"], digits=0),
            _times_floor(one["floor"]),
            *_judged(_decode_target(one), one["tokens_per_s"]["median"]),
        ]
        for one in content["decode"]
    ]
    rows += _shared_over_each(content["decode"])
    rows += _outside(content["split"])
    rows += _int8(content)
    forks = (content["memory"] or {}).get("forks")
    if forks:
        rows.append(
            [
                f"KV blocks of {forks['num_forks']} forks of one prefix",
                number(forks["num_blocks"]),
                "–",
                f"= {number(forks['expected_blocks'])}",
                "reached" if forks["num_blocks"] == forks["expected_blocks"] else "missed",
                "",
            ]
        )
    command = code("parrot bench engine --model DIR")
    return section(
        "Engine",
        about,
        table(
            ["case", "median (min–max)", "× floor", "target", "", "measured by"],
            [[*row[:5], command] for row in rows],
        ),
    )


def control(results: Results) -> str:
    """The service with an engine that costs nothing."""
    if not results.control:
        return ""
    content, names = newest_sections(results.control, CONTROL_SECTIONS)
    rows: list[Row] = [
        [
            f"calls/s, {one['batch_calls']} in a submission, {one['num_connections']} clients",
            spread_text(one["calls_per_s"], digits=0),
            *_judged(CALLS_PER_S if key == "batches" else None, one["calls_per_s"]["median"]),
        ]
        for key in ("batches", "single")
        if (one := content[key]) is not None
    ]
    rows += [
        [
            f"the service's processor time, {one['batch_calls']} in a submission, ms a call",
            number(one["service_cpu_s_per_call"] * 1000, 3),
            "–",
            "",
        ]
        for key in ("batches", "single")
        if (one := content[key]) is not None and one["service_cpu_s_per_call"] is not None
    ]
    rows += [*_chain(content["chain"]), *_session(content["session"]), *_growth(content["growth"] or ())]
    if content["memory"] is not None:
        memory = content["memory"]
        rows += [
            ["memory when idle, MiB", number(memory["idle_bytes"] / 2**20, 0), "–", ""],
            ["memory of a call that waits, KiB", number(memory["per_waiting_call_bytes"] / 1024, 1), "–", ""],
            [
                "memory of a call that has ended, KiB",
                number(memory["per_done_call_bytes"] / 1024, 1),
                "–",
                "",
            ],
            ["memory when all is deleted, MiB", number(memory["after_delete_bytes"] / 2**20, 0), "–", ""],
        ]
    command = code("parrot bench control")
    plot = "![Cost of a call by live calls](results/control-growth.svg)" if content["growth"] else ""
    return section(
        "Control plane",
        prose.CONTROL.format(files=", ".join(map(code, names))),
        table(["what", "median (min–max)", "target", "", "measured by"], [[*row, command] for row in rows]),
        plot,
    )


def scale(results: Results) -> str:
    """Large and many applications."""
    if not results.scale:
        return ""
    file = results.scale[-1]
    content, settings = file.content, file.content["settings"]
    about = prose.SCALE.format(
        maps=number(settings["num_maps"]),
        chats=settings["num_chats"],
        teams=settings["num_teams"],
        engines=settings["num_engines"],
        faster=f"{settings['faster']:g}",
        prefill=number(settings["prefill_tokens_per_s"]),
        step=f"{settings['decode_step_s'] * 1000:g}",
        file=file.name,
    )
    rows = [
        [
            part["name"],
            part["round"] + 1,
            number(part["num_sessions"]),
            number(part["num_calls"]),
            part["num_lost"],
            number(part["duration_s"], 1),
            number(part["calls_per_s"], 0),
            f"{number(part['result_s']['p50'])} / {number(part['result_s']['p99'])}",
            f"{number(part['answer_s']['p50'] * 1000, 1)} / {number(part['answer_s']['p99'] * 1000, 1)}",
            "–" if part["rss_bytes"] is None else number(part["rss_bytes"] / 2**20, 0),
        ]
        for part in content["parts"]
    ]
    growth = content["rss_growth"]
    said = prose.SCALE_END.format(
        lost=content["num_lost"],
        blocks=content["owned_blocks"],
        growth="not known" if growth is None else f"{number(growth)} times that after the first",
        command=content["command"],
    )
    headers = ["part", "round", "sessions", "calls", "lost", "s", "calls/s", "result p50 / p99, s"]
    return section("Scale", about, table([*headers, "loop p50 / p99, ms", "memory, MiB"], rows), said)


def soak(results: Results) -> str:
    """Long runs of random traffic, as they were written."""
    if not results.soak:
        return ""
    rows = [
        [key, number(value) if not isinstance(value, str) else value, code(file.name)]
        for file in results.soak[-1:]
        for key, value in file.content.items()
        if isinstance(value, bool | int | float) or (isinstance(value, str) and key != "schema")
    ]
    return section(
        "Soak",
        "Random traffic on the engine at full KV memory; measured by `parrot bench soak`.",
        table(["what", "value", "file"], rows),
    )


def reliability(results: Results) -> str:
    """What came of the promises when things were broken on purpose."""
    if not results.reliability:
        return ""
    rows = [
        [
            finding["scenario"],
            f"not tried: {finding['skipped']}"
            if finding["skipped"]
            else "yes"
            if finding["kept"]
            else "**no**",
            ", ".join(f"{number(count)} × {what}" for what, count in finding["faults"].items()),
            "; ".join(
                f"{zero['what']}: {int(zero['count'])} of {number(zero['of'])}" for zero in finding["zeros"]
            ),
        ]
        for finding in results.reliability[-1].content["findings"]
    ]
    return section(
        "Promises under faults",
        prose.RELIABILITY.format(file=results.reliability[-1].name),
        table(["scenario", "kept", "faults", "what must not happen"], rows),
    )


def _judged(target: Target | None, value: float) -> Row:
    return ["–", ""] if target is None else [target.text(), target.verdict(value)]


def _times_floor(floor: Found | None) -> str:
    return "–" if floor is None else number(floor["times_floor"])


def _decode_name(one: Found) -> str:
    size = f"{one['batch']} × {number(one['context_tokens'])}"
    return f"decode, {size}, {one['prefix']} prefix, attention {one['attention']}, tokens/s"


def _decode_target(one: Found) -> Target | None:
    if one["attention"] != "shared":
        return None
    if one["batch"] == 1 and one["context_tokens"] == 800:
        return DECODE_ALONE if one["prefix"] == "shared" else None
    if one["batch"] == 32 and one["prefix"] == "shared":
        return DECODE_SHARED.get(one["context_tokens"])
    return None


def _shared_over_each(decode: Sequence[Found]) -> list[Row]:
    rates = {
        one["attention"]: one["tokens_per_s"]["median"]
        for one in decode
        if (one["batch"], one["context_tokens"], one["prefix"]) == (32, 4000, "shared")
    }
    if "shared" not in rates or "per-request" not in rates:
        return []
    ratio = rates["shared"] / rates["per-request"]
    return [
        [
            "shared attention over attention per request, 32 × 4,000",
            number(ratio),
            "–",
            *_judged(SHARED_OVER_EACH, ratio),
        ]
    ]


def _outside(split: Sequence[Found]) -> list[Row]:
    rows: list[Row] = []
    for one in split:
        target = OUTSIDE.get(one["batch"]) if one["phase"] == "decode" else None
        if target is not None:
            step = one["step_s"]["median"]
            part = 1 - (one["matrix_s"]["median"] + one["attention_s"]["median"]) / step
            rows.append(
                [
                    f"part of a decode step outside both, {one['batch']} × {number(one['context_tokens'])}",
                    f"{part:.0%}",
                    "–",
                    target.text("{:.0%}"),
                    target.verdict(part),
                ]
            )
    return rows


def _int8(content: Found) -> list[Row]:
    """With weights in int8, and how many times as fast that is."""
    found = content.get("int8")
    if found is None:
        return []
    prefill = {one["num_tokens"]: one["tokens_per_s"]["median"] for one in content["prefill"]}
    decode = {_decode_name(one): one["tokens_per_s"]["median"] for one in content["decode"]}
    pairs = [
        (f"prefill of {number(one['num_tokens'])} tokens", one, prefill.get(one["num_tokens"]))
        for one in found["prefill"]
    ]
    pairs += [
        (f"decode, {one['batch']} × {number(one['context_tokens'])}", one, decode.get(_decode_name(one)))
        for one in found["decode"]
    ]
    return [
        [
            f"weights in int8: {name}, tokens/s",
            spread_text(one["tokens_per_s"], digits=0)
            + ("" if as_they_are is None else f", {number(one['tokens_per_s']['median'] / as_they_are)} ×"),
            "–",
            "–",
            "",
        ]
        for name, one, as_they_are in pairs
    ]


def _chain(found: Found | None) -> list[Row]:
    if found is None:
        return []
    added, trip = found["added_s"], found["round_trip_s"]
    return [
        [
            "added by a dependent call, p50, ms",
            number(added["p50"] * 1000),
            f"≤ {number(ADDED_P50_S.bound * 1000)}",
            ADDED_P50_S.verdict(added["p50"]),
        ],
        [
            "added by a dependent call, p99, ms",
            number(added["p99"] * 1000),
            f"≤ {number(ADDED_P99_S.bound * 1000)}",
            ADDED_P99_S.verdict(added["p99"]),
        ],
        ["the same, call by call from a client, p50, ms", number(trip["p50"] * 1000), "–", ""],
    ]


def _session(found: Found | None) -> list[Row]:
    if found is None:
        return []
    calls = found["num_calls"]
    return [
        [
            f"a session of {number(calls)} calls, calls/s",
            number(found["calls_per_s"], 0),
            f"{number(int(SESSION_CALLS.bound))} calls",
            SESSION_CALLS.verdict(calls),
        ],
        ["its graph, s", number(found["graph_s"]), "–", ""],
    ]


def _growth(found: Sequence[Found]) -> list[Row]:
    if not found:
        return []
    last = found[-1]
    rows: list[Row] = [
        [
            f"calls/s beside {number(one['num_live_calls'])} live calls",
            spread_text(one["calls_per_s"], digits=0),
            "–",
            "",
        ]
        for one in found
    ]
    return [
        *rows,
        [
            f"cost of a call, {number(last['num_live_calls'])} live calls over the fewest",
            number(last["against_first"]),
            GROWTH.text(),
            GROWTH.verdict(last["against_first"]),
        ],
    ]
