"""The calls that the control plane is given: small prompts, since no model reads them."""

import json

SAMPLING = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}


def call(name: str, template: str, inputs: dict[str, dict[str, str]], output: str) -> dict[str, object]:
    """One call as the wire has it."""
    made = {"output": {"variable": output, "sampling": SAMPLING}}
    return {"name": name, "template": template, "parameters": {**inputs, "out": made}}


def independent(prefix: str, number: int) -> dict[str, object]:
    """A call that depends on nothing."""
    text = {"text": {"value": f"piece {number} of document {prefix}"}}
    return call(
        f"{prefix}_{number}", "Summarise this piece: {{text}} Summary: {{out}}", text, f"{prefix}_o{number}"
    )


def waiting(prefix: str, number: int, variable: str) -> dict[str, object]:
    """A call that waits for a variable."""
    inputs = {"text": {"variable": variable}, "piece": {"value": f"{prefix} {number}"}}
    return call(
        f"{prefix}_{number}", "Piece {{piece}} of {{text}} Summary: {{out}}", inputs, f"{prefix}_o{number}"
    )


def joined(prefix: str, outputs: list[str], output: str) -> dict[str, object]:
    """A call that consumes all of `outputs`."""
    inputs = {f"in_{index}": {"variable": name} for index, name in enumerate(outputs)}
    template = "Combine: " + " ".join(f"{{{{{name}}}}}" for name in inputs) + " Result: {{out}}"
    return call(f"{prefix}_join", template, inputs, output)


def linked(prefix: str, length: int) -> list[dict[str, object]]:
    """A chain in which each call consumes the one before."""
    first = call(f"{prefix}_0", "Begin: {{out}}", {}, f"{prefix}_o0")
    rest = [
        call(
            f"{prefix}_{number}",
            "Go on from {{text}} : {{out}}",
            {"text": {"variable": f"{prefix}_o{number - 1}"}},
            f"{prefix}_o{number}",
        )
        for number in range(1, length)
    ]
    return [first, *rest]


def body_of(calls: list[dict[str, object]], output: str | None = None) -> bytes:
    """A submission, or a run that is to bring the value of `output`."""
    body: dict[str, object] = {"calls": calls}
    if output is not None:
        body["follow"] = [{"variable": output}]
    return json.dumps(body, separators=(",", ":")).encode()


def map_reduce(prefix: str, num_maps: int) -> tuple[list[dict[str, object]], str]:
    """`num_maps` independent calls and one that consumes them all, and its output's name."""
    maps = [independent(prefix, number) for number in range(num_maps)]
    outputs = [f"{prefix}_o{number}" for number in range(num_maps)]
    return [*maps, joined(prefix, outputs, f"{prefix}_out")], f"{prefix}_out"
