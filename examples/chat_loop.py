"""Chat loop: a conversation with the blocking interface, one call a turn.

Each turn's prompt begins with the whole conversation so far, so the service goes on from the context it has.
Questions come from standard input, one a line; without a terminal there, a few are asked.

    python examples/chat_loop.py [URL]
"""

import sys
from collections.abc import Iterable, Iterator

import parrot
from parrot import Input, Output, semantic_function

QUESTIONS = ["Hello! Who are you?", "What can you do?", "Tell me one thing about parrots."]


@semantic_function(max_tokens=60, stop="\nUser:")
def reply_to(history: Input, question: Input, reply: Output) -> None:
    """You are a friendly assistant who answers briefly.
    {{history}}
    User: {{question}}
    Assistant: {{reply}}
    """


def ask() -> Iterator[str]:
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def main(url: str | None = None, questions: Iterable[str] | None = None) -> list[str]:
    if questions is None:
        questions = ask() if sys.stdin is not None and sys.stdin.isatty() else QUESTIONS
    history = ""
    replies = []
    with parrot.connect_sync(url, name="chat_loop", objective="latency") as session:
        for question in questions:
            reply = session.call(reply_to, history=history, question=question)
            for piece in reply.stream():
                print(piece, end="", flush=True)
            print()
            replies.append(reply.get())
            history += f"\nUser: {question}\nAssistant:{replies[-1]}"
    return replies


if __name__ == "__main__":
    main(*sys.argv[1:2])
