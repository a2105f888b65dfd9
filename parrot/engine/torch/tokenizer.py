"""The model's tokenizer, read from its own files; needs neither torch nor transformers.

Two encoders stand behind one tokenizer: one that honours added tokens (`<|im_end|>`), for markup, and one
for which they are plain text, for values. So a value can never write a control token.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from parrot.errors import ConfigError, TemplateError

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""Used when a model brings no chat template: `Role: content` on a line of its own for each message."""

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def load_tokenizer(model_dir: str) -> "TorchTokenizer":
    """The tokenizer of a model directory in Hugging Face format.

    Raises:
        ConfigError: `bad_model`; `tokenizer.json` is missing or damaged, or the chat template does not parse.
    """
    directory = Path(model_dir)
    path = directory / "tokenizer.json"
    config = _read_optional(directory / "tokenizer_config.json")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        known = {entry["id"] for entry in document.get("added_tokens", [])}
        extra = {int(k): v for k, v in _mapping(config.get("added_tokens_decoder")).items()}
        missing = [_added_token(v) for k, v in sorted(extra.items()) if k not in known]
        markup = _build(document, missing)
        plain = _build(_with_plain_added_tokens(document), [])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _bad_model(path, error) from error
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
        if type(error) is not Exception:
            raise
        raise _bad_model(path, error) from error
    plain.encode_special_tokens = True
    return TorchTokenizer(
        markup=markup, plain=plain, config=config, chat_template=_read_chat_template(directory, config)
    )


class TorchTokenizer:
    """`ports.engine.Tokenizer` over the model's own `tokenizer.json`."""

    def __init__(
        self,
        *,
        markup: FastTokenizer,
        plain: FastTokenizer,
        config: Mapping[str, object],
        chat_template: str | None,
    ) -> None:
        self._markup = markup
        self._plain = plain
        vocabulary = markup.get_vocab(with_added_tokens=True)
        self._vocab_size = max(vocabulary.values(), default=-1) + 1
        self._special = {
            token_id: token.content
            for token_id, token in markup.get_added_tokens_decoder().items()
            if _is_markup(special=token.special, content=token.content)
        }
        self._named = {
            name: content for name in _NAMED_TOKENS if (content := _token_text(config.get(name))) is not None
        }
        self._bos_ids = self._find_bos(config.get("add_bos_token"))
        self._template = _compile(chat_template or DEFAULT_CHAT_TEMPLATE)

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return self._vocab_size

    @property
    def bos_ids(self) -> tuple[int, ...]:
        """What the model's own files put before a prompt; often one id, often none."""
        return self._bos_ids

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that only markup can write."""
        return frozenset(self._special)

    def to_json(self) -> str:
        """The whole tokenizer in the form of `tokenizer.json`, with every added token."""
        return str(self._markup.to_str())

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        """The ids of `text` alone; see `ports.engine.Tokenizer`."""
        encoder = self._markup if markup else self._plain
        token_ids = tuple(encoder.encode(text, add_special_tokens=False).ids)
        if not markup and not self._special.keys().isdisjoint(token_ids):
            return self._encode_in_pieces(text)
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`; special tokens give their written form, broken characters U+FFFD."""
        return str(self._markup.decode(list(token_ids), skip_special_tokens=False))

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
    ) -> str:
        """`messages` in the model's chat format; see `ports.engine.Tokenizer`."""
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._named,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise TemplateError(
                f"the model's chat template cannot take these messages: {error}", code="bad_messages"
            ) from error

    def _find_bos(self, wanted: object) -> tuple[int, ...]:
        """An explicit `add_bos_token` decides; else what the tokenizer itself puts before a text."""
        if wanted is False:
            return ()
        if wanted is True and "bos_token" in self._named:
            token_id = self._markup.token_to_id(self._named["bos_token"])
            return () if token_id is None else (token_id,)
        alone = self._markup.encode("a", add_special_tokens=False).ids
        whole = self._markup.encode("a", add_special_tokens=True).ids
        before = len(whole) - len(alone)
        while before > 0 and whole[before : before + len(alone)] != alone:
            before -= 1
        return tuple(whole[:before])

    def _encode_in_pieces(self, text: str) -> tuple[int, ...]:
        """Encode a text for which the plain encoder has a whole-word entry for a special token: each
        occurrence is cut after its first character, so that the entry cannot match.
        """
        pieces = [text]
        for content in sorted(self._special.values(), key=len, reverse=True):
            cut = [piece.split(content) for piece in pieces]
            pieces = []
            for parts in cut:
                for before in parts[:-1]:
                    pieces += [before + content[:1], content[1:]]
                pieces.append(parts[-1])
        token_ids: list[int] = []
        for piece in filter(None, pieces):
            token_ids += self._plain.encode(piece, add_special_tokens=False).ids
        return tuple(i for i in token_ids if i not in self._special)


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks what the model wrote, for training; here it is plain."""

    tags = {"generation"}  # noqa: RUF012 - the base class's own form

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The statements inside the tag, as they are."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compile(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ConfigError(
            f"the model's chat template does not parse: {error}", code="bad_model", param="engine.model_dir"
        ) from error


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates expect it: no HTML escapes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now(tz=UTC).astimezone().strftime(pattern)


def _build(document: Mapping[str, object], extra: Sequence[AddedToken]) -> FastTokenizer:
    tokenizer = FastTokenizer.from_str(json.dumps(document))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if extra:
        tokenizer.add_tokens(list(extra))
    return tokenizer


def _is_markup(*, special: bool, content: str) -> bool:
    """Added tokens that are control tokens in fact: all but runs of white space."""
    return special or bool(content.strip())


def _with_plain_added_tokens(document: Mapping[str, object]) -> Mapping[str, object]:
    """The document with every control token marked special, as the plain encoder skips special tokens."""
    added = document.get("added_tokens")
    entries = [
        {**entry, "special": _is_markup(special=entry["special"], content=entry["content"])}
        for entry in (added if isinstance(added, list) else [])
    ]
    return {**document, "added_tokens": entries}


def _added_token(fields: object) -> AddedToken:
    values = _mapping(fields)
    return AddedToken(
        str(values["content"]),
        single_word=bool(values.get("single_word", False)),
        lstrip=bool(values.get("lstrip", False)),
        rstrip=bool(values.get("rstrip", False)),
        normalized=bool(values.get("normalized", True)),
        special=bool(values.get("special", False)),
    )


def _token_text(value: object) -> str | None:
    """A token in `tokenizer_config.json` is a string or an object with `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _read_optional(path: Path) -> Mapping[str, object]:
    if not path.exists():
        return {}
    try:
        return _mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise _bad_model(path, error) from error


def _read_chat_template(directory: Path, config: Mapping[str, object]) -> str | None:
    """From `chat_template.jinja`, else from the tokenizer's config: one template, or named ones."""
    path = directory / "chat_template.jinja"
    if path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise _bad_model(path, error) from error
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {_mapping(entry).get("name"): _mapping(entry).get("template") for entry in found}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _bad_model(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path}: cannot be read: {error}", code="bad_model", param="engine.model_dir")
