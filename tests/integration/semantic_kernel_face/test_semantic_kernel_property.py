"""Random trees of prompt functions: the graph gives what request after request gives, and its edges are the
calls that the templates write.
"""

import asyncio
from dataclasses import dataclass

import pytest

pytest.importorskip("semantic_kernel", reason="needs the extra semantic-kernel: nox -s semantic_kernel")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from semantic_kernel import Kernel

from parrot.integrations.semantic_kernel import ParrotChatCompletion, compile_prompt, lazy


@dataclass(frozen=True)
class Tree:
    """A prompt function: what its template has before, between and after the functions that it calls."""

    texts: tuple[str, ...]
    called: tuple["Tree", ...]


WORDS = st.sampled_from(
    ["tea", "a < b", "fish & chips", "«ship»", "{{$text}}", "{{$text}} and {{$other}}", " "]
)
LEAVES = st.builds(lambda text: Tree((f"Say {text}.",), ()), WORDS)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
        lambda called: st.lists(WORDS, min_size=len(called) + 1, max_size=len(called) + 1).map(
            lambda texts: Tree((f"About {texts[0]}: ", *texts[1:-1], f" {texts[-1]}?"), tuple(called))
        )
    ),
    max_leaves=4,
)


def add(kernel: Kernel, tree: Tree, edges: list[tuple[int, int]], count: list[int]) -> int:
    """Add the functions of a tree; the number of the last."""
    inner = [add(kernel, called, edges, count) for called in tree.called]
    number = count[0]
    count[0] += 1
    pieces = [tree.texts[0]]
    for called, text in zip(inner, tree.texts[1:], strict=True):
        pieces += [f"{{{{tree.f{called}}}}}", text]
        edges.append((called, number))
    kernel.add_function("tree", prompt="".join(pieces), function_name=f"f{number}")
    return number


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tree=TREES, text=st.sampled_from(["a parrot", "<b>x</b> & y", "“quoted”"]))
def test_lazy_is_eager_and_edges_are_nested_calls(url: str, tree: Tree, text: str) -> None:
    async def both() -> None:
        chat = ParrotChatCompletion("scripted", base_url=f"{url}/v1")
        kernel = Kernel(services=chat)
        edges: list[tuple[int, int]] = []
        root = kernel.get_function("tree", f"f{add(kernel, tree, edges, [0])}")
        arguments = {"text": text, "other": "more"}
        eager = str(await kernel.invoke(root, **arguments))
        graphs = lazy(kernel, keep_graph=True)
        assert str(await kernel.invoke(root, **arguments)) == eager
        assert sorted(compile_prompt(kernel, root).edges()) == sorted(edges)
        found = [] if not graphs.last_graphs else graphs.last_graphs[0].edges
        number = {f"tree_f{index}_{index + 1}": index for index in range(len(edges) + 1)}
        assert sorted((number[edge.source], number[edge.target]) for edge in found) == sorted(edges)
        await chat.client.close()

    asyncio.run(both())
