"""What prompts are made of: drawn words, or passages of articles; always fresh for a seed."""

import json
import re
import sysconfig
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Protocol

from parrot.errors import ConfigError

_NUM_WORDS = 3000
_COPILOT_SHARED_TOKENS = 5107
"""Of the search copilot's prompts, these begin alike (Lin et al., OSDI 2024)."""


class Texts(Protocol):
    """Where an application's texts come from. The same key gives the same text."""

    def words(self, num_words: int, key: str) -> str:
        """A text of so many words."""
        ...

    def of(self, part: str) -> "Texts":
        """Others, of the same kind, for a part of a run."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnTexts:
    """Frequent words in random order: nothing repeats, and they tokenise as text does."""

    seed: str
    """Another seed, other texts."""

    def words(self, num_words: int, key: str) -> str:
        """Words drawn for this key."""
        draw = Random(f"{self.seed}/{key}")  # noqa: S311 - no secret
        known = frequent_words()
        return " ".join(draw.choice(known) for _ in range(num_words))

    def of(self, part: str) -> "DrawnTexts":
        """Words drawn for a part of a run."""
        return replace(self, seed=f"{self.seed}/{part}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageTexts:
    """Passages of real documents, each from a place that is drawn for its key."""

    seed: str
    passages: Sequence[str] = field(repr=False)
    """The documents' words, in order."""

    def words(self, num_words: int, key: str) -> str:
        """A passage; it goes on at the documents' beginning when it comes to their end."""
        begin = Random(f"{self.seed}/{key}").randrange(len(self.passages))  # noqa: S311 - no secret
        found = list(self.passages[begin : begin + num_words])
        while len(found) < num_words:
            found.extend(self.passages[: num_words - len(found)])
        return " ".join(found)

    def of(self, part: str) -> "PassageTexts":
        """Passages from other places."""
        return replace(self, seed=f"{self.seed}/{part}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of request to an assistant: how long its parts are, against the mean of all kinds."""

    prompt: float = 1.0
    answer: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What `--data` gives, as far as it is there; without it, words are drawn and all are of one length."""

    articles: tuple[str, ...] = ()
    """The words of all articles."""
    team: tuple[str, ...] = ()
    """The words of a team's prompts and answers."""
    assistants: tuple[Profile, ...] = ()
    """Of the assistants with a system prompt each."""
    questions: tuple[float, ...] = ()
    """Lengths of what follows a copilot's shared prompt, as parts of that prompt."""

    def texts(self, seed: str, *, kind: str) -> Texts:
        """The texts of one run; `kind` is `team` or `articles`."""
        passages = self.team if kind == "team" and self.team else self.articles
        return PassageTexts(seed=seed, passages=passages) if passages else DrawnTexts(seed=seed)


def read_material(directory: Path | None) -> Material:
    """What a directory of workload data holds.

    Known are `article_*.txt`, `metagpt_log_3_round.jsonl`, `gpts_top4.json` and `bing_prompt_lengths.txt`.

    Raises:
        ConfigError: none of these is there, or one cannot be understood.
    """
    if directory is None:
        return Material()
    articles = [word for file in sorted(directory.glob("article_*.txt")) for word in _read(file).split()]
    material = Material(
        articles=tuple(articles),
        team=_team(directory / "metagpt_log_3_round.jsonl"),
        assistants=_assistants(directory / "gpts_top4.json"),
        questions=_questions(directory / "bing_prompt_lengths.txt"),
    )
    if material == Material():
        raise ConfigError(f"there is no workload data in {directory}", param="--data")
    return material


@cache
def frequent_words() -> tuple[str, ...]:
    """The most frequent words of the standard library's own sources, most frequent first."""
    count: Counter[str] = Counter()
    for source in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        count.update(re.findall(r"\b[a-z]{3,10}\b", source.read_text(encoding="utf-8", errors="ignore")))
    ordered = sorted(count.items(), key=lambda entry: (-entry[1], entry[0]))
    return tuple(word for word, _ in ordered[:_NUM_WORDS])


def _team(file: Path) -> tuple[str, ...]:
    """The words of all prompts and answers in a log of rounds, one JSON object a line."""
    words: list[str] = []
    if file.is_file():
        for line in _read(file).splitlines():
            words.extend(word for text in _strings(_json(file, line)) for word in text.split())
    return tuple(words)


def _strings(value: object) -> list[str]:
    """The long texts in a JSON value; short ones are identifiers."""
    if isinstance(value, str):
        return [value] if len(value) > 100 else []
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for member in members for text in _strings(member)]


def _assistants(file: Path) -> tuple[Profile, ...]:
    if not file.is_file():
        return ()
    try:
        lengths = [
            (float(app["prompt_length"]), float(app["output_length"])) for app in _json(file, _read(file))
        ]
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{file} does not list prompt and output lengths", param="--data") from None
    prompt = sum(one for one, _ in lengths) / len(lengths)
    answer = sum(one for _, one in lengths) / len(lengths)
    return tuple(Profile(prompt=p / prompt, answer=a / answer) for p, a in lengths)


def _questions(file: Path) -> tuple[float, ...]:
    if not file.is_file():
        return ()
    try:
        lengths = [int(line) for line in _read(file).split()]
    except ValueError:
        raise ConfigError(f"{file} is not a list of lengths", param="--data") from None
    return tuple(max(0, one - _COPILOT_SHARED_TOKENS) / _COPILOT_SHARED_TOKENS for one in lengths)


def _json(file: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ConfigError(f"{file} is not JSON", param="--data") from None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", param="--data") from None
