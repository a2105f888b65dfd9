"""What a scripted engine says: tokens that follow from the seed and the prompt alone."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, count, islice

import re2

from parrot.engine.accounting import TokenArray
from parrot.engine.scripted_config import ScriptedConfig
from parrot.engine.scripted_json import sample_json
from parrot.engine.scripted_tokenizer import EOS_ID, ScriptedTokenizer
from parrot.errors import ConfigError, InvalidError
from parrot.ports.engine import TokenLogprob
from parrot.types.sampling import Grammar, Sampling

_VOCABULARY = """
    a able about above across add after again age ago air all also always am an and animal answer any
    are area as ask at away back ball base be bear became because bed been before began behind best
    better between big bird black blue boat body book both box boy bring brought build built but by call
    came can car care carry cause change check city class clear close cold color come common could
    country course cover cross cut dark day deep did differ direct do door down draw dry each early
    earth ease east eat end enough even ever every example eye face fact fall family far farm fast feel
    few field figure fill final find fine fire first fish five fly follow food foot for force form found
    four free friend from front full game gave get girl give go gold gone good got govern great green
    ground group grow had half hand happen hard has have he head hear heat help her here high hold home
    horse hot hour house how hundred idea if in inch island it just keep kind king knew know land
    language large last late laugh lay lead learn leave left less let letter life light like line list
    listen little live long look love low machine made main make man many map mark may mean measure
    might mile mind minute money moon more morning most mother mountain move much music must name near
    need never new next night north note notice noun now number object café naïve
"""
_WORDS = tuple(_VOCABULARY.split())
"""256 of them: a byte draws one."""


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]


class ScriptedText:
    """Plans outputs: each is an iterator of token ids in which `EOS_ID` marks a natural end.

    Without a grammar a plan never ends, so that an engine told to ignore the end can go on.
    """

    def __init__(self, config: ScriptedConfig, tokenizer: ScriptedTokenizer) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._seed = f"scripted {config.seed}".encode()
        self._draws = count()
        self._inner = [tokenizer.encode(" " + word) for word in _WORDS]
        self._opening = [tokenizer.encode(" " + _capital(word)) for word in _WORDS]
        self._first = [tokenizer.encode(_capital(word)) for word in _WORDS]
        self._stop = tokenizer.encode(".")
        for rule in config.answers:
            if rule.regex:
                _compile(rule.pattern)

    def plan(
        self, prompt: Iterable[TokenArray], sampling: Sampling, grammar: Grammar | None
    ) -> Iterator[int]:
        """The output's tokens. Equal prompts give equal plans when greedy, or random with equal seeds.

        Raises `InvalidError` (`grammar_unsupported`).
        """
        pieces = list(prompt)
        digest = hashlib.blake2b(self._seed, digest_size=32)
        if self._config.key == "text":
            digest.update(self._tokenizer.decode([token for piece in pieces for token in piece]).encode())
        else:
            for piece in pieces:
                digest.update(piece)
        if sampling.temperature > 0:
            seed = f"draw {next(self._draws)}" if sampling.seed is None else f"seed {sampling.seed}"
            digest.update(seed.encode())
        key = digest.digest()
        answer = self._scripted_answer(pieces)
        if grammar is not None and grammar.kind != "text_or_schema":  # its words never begin as JSON does
            return self._bounded(grammar, answer, key)
        if answer is not None:
            return chain(self._tokenizer.encode(answer), (EOS_ID,), self._tokens(key, opening=False))
        return self._tokens(key, opening=True)

    def tail(self, pieces: Sequence[TokenArray]) -> str:
        """The end of a prompt's text, as far as rules look at it."""
        wanted = self._config.answer_tail_chars
        tokens: TokenArray = array("I")
        for piece in reversed(pieces):
            tokens = piece[-wanted:] + tokens if wanted else tokens
            if len(tokens) >= wanted:
                break
        return self._tokenizer.decode(tokens)[-wanted:] if wanted else ""

    def _scripted_answer(self, pieces: Sequence[TokenArray]) -> str | None:
        if not self._config.answers:
            return None
        tail = self.tail(pieces)
        for rule in self._config.answers:
            found = _compile(rule.pattern).search(tail) is not None if rule.regex else rule.pattern in tail
            if found:
                return rule.answer
        return None

    def _bounded(self, grammar: Grammar, answer: str | None, key: bytes) -> Iterator[int]:
        if grammar.kind == "schema":
            text = answer if answer is not None and _is_json(answer) else None
            text = text or sample_json(grammar.source, (_WORDS[draw] for draw in _draws(key)))
        elif grammar.kind == "regex" and answer is not None and _matches(grammar.source, answer):
            text = answer
        else:
            raise InvalidError(
                "this engine follows a regex only with a scripted answer that matches it",
                code="grammar_unsupported",
            )
        return chain(self._tokenizer.encode(text), (EOS_ID,))

    def _tokens(self, key: bytes, *, opening: bool) -> Iterator[int]:
        draws = _draws(key)
        words = self._first if opening else self._opening
        while True:
            left = self._config.answer_words // 2 + (next(draws) * self._config.answer_words) // 256
            left = max(1, left)
            while left > 0:
                sentence = min(left, 5 + next(draws) % 8)
                left -= sentence
                yield from words[next(draws)]
                for draw in islice(draws, sentence - 1):
                    yield from self._inner[draw]
                yield from self._stop
                words = self._opening
            yield EOS_ID


def scripted_logprob(token_id: int, num_top: int) -> TokenLogprob:
    """A likelihood that follows from the token alone: it is the likeliest, bytes below 256 follow it."""
    logprob = -0.01 - (token_id * 2654435761 % 997) / 2000
    others = islice((i for i in count(32) if i != token_id), max(0, num_top - 1))
    top = [(token_id, logprob), *((other, logprob - rank) for rank, other in enumerate(others, start=2))]
    return TokenLogprob(token_id=token_id, logprob=logprob, top=tuple(top[:num_top]))


def _draws(key: bytes) -> Iterator[int]:
    """Endless numbers below 256."""
    for number in count():
        yield from hashlib.blake2b(number.to_bytes(8, "big"), key=key).digest()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@lru_cache(maxsize=256)
def _compile(pattern: str) -> "re2._Regexp[str]":
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        raise ConfigError(f"the answer pattern {pattern[:80]!r} is not RE2", param="answers") from error


def _matches(pattern: str, text: str) -> bool:
    try:
        return _compile(pattern).fullmatch(text) is not None
    except ConfigError as error:
        raise InvalidError("the regex is not RE2", code="grammar_unsupported") from error
