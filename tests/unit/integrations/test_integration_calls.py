"""What all integrations have in common: marks, prompts in pieces, sampling, names."""

from parrot.integrations.marks import Marks
from parrot.integrations.naming import call_name, label
from parrot.integrations.run import MAX_PLACEHOLDERS, Answer, ChatCall, Given, prompt_of
from parrot.integrations.sampling import sampling_of
from parrot.types.template import TextPiece, parse_template


def test_a_text_is_split_at_its_own_marks() -> None:
    marks, others = Marks[str](), Marks[str]()
    one, two = marks.add("one"), marks.add("two")
    text = f"a {one}{two} b {others.add('three')}"
    assert marks.split(text)[:4] == ["a ", "one", "two", " b " + text[-len(others.add("x")) :]]
    assert marks.is_marked(text)
    assert not marks.is_marked("plain")
    assert marks.split("") == []


def test_a_prompt_has_a_placeholder_for_each_piece_and_one_for_what_comes_twice() -> None:
    answer: Answer = Answer()
    made = prompt_of([("system", ["Be {{brief}}."]), ("user", ["Say ", Given("tea"), ", ", answer, answer])])
    assert made is not None
    assert made.arguments == {"text_0": "tea", "text_1": answer}
    assert made.messages[1] == {"role": "user", "content": "Say {{text_0}}, {{text_1}}{{text_1}}"}
    (constant,) = parse_template(made.messages[0]["content"])
    assert isinstance(constant, TextPiece)
    assert constant.text == "Be {{brief}}."


def test_too_many_texts_are_written_in_and_too_many_answers_are_none() -> None:
    given = [Given(str(number)) for number in range(MAX_PLACEHOLDERS + 1)]
    made = prompt_of([("user", list(given))])
    assert made is not None
    assert made.arguments == {}
    assert prompt_of([("user", [Answer() for _ in range(MAX_PLACEHOLDERS + 1)])]) is None


def test_a_call_is_a_semantic_function() -> None:
    prompt = prompt_of([("user", ["Say ", Given("tea")])])
    assert prompt is not None
    call = ChatCall(name="say", model="m", prompt=prompt, sampling={"max_tokens": 3})
    plan = call.function().plan
    assert (plan.name, plan.model, list(plan.signature.parameters)) == ("say", "m", ["text_0"])


def test_sampling_is_taken_from_a_chat_completion_or_refused_whole() -> None:
    body = {"model": "m", "messages": [], "max_completion_tokens": 5, "stop": "x", "n": 1, "stream": False}
    assert sampling_of(body) == {"temperature": 1.0, "max_tokens": 5, "stop": ("x",)}
    assert sampling_of(body | {"extra_body": {"top_k": 3}}) == sampling_of(body | {"top_k": 3})
    assert sampling_of(body | {"n": 2}) is None
    assert sampling_of(body | {"tools": []}) is None
    assert sampling_of({"temperature": 0}) is None


def test_names_and_labels_are_what_the_service_takes() -> None:
    assert call_name("my-plugin.say it") == "my_plugin_say_it"
    assert call_name("3rd") == "call_3rd"
    assert len(call_name("x" * 100)) == 48
    assert label("a\nb") == "a b"
    assert len(label("x" * 300)) == 256
