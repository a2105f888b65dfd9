"""How an output's tokens are chosen."""

from dataclasses import dataclass

MAX_TOKENS_CAP = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling of one output. Greedy unless `temperature` is above 0."""

    max_tokens: int = 512
    """At most so many tokens are generated."""
    min_tokens: int = 0
    """End of sequence and stop strings are not heeded before so many tokens."""
    temperature: float = 0.0
    """0 takes the most likely token; otherwise logits are divided by it."""
    top_p: float = 1.0
    """Smallest set of most likely tokens that reaches this probability (Holtzman et al. 2020)."""
    top_k: int = 0
    """Only so many most likely tokens; 0 switches it off."""
    min_p: float = 0.0
    """Only tokens at least this fraction as likely as the most likely one; 0 switches it off."""
    stop: tuple[str, ...] = ()
    """Generation ends before any of these strings; none of them is part of the output."""
    seed: int | None = None
    """Makes random sampling repeatable; without it each call draws its own."""
    ignore_eos: bool = False
    """Go on to `max_tokens` whatever the model says; for measurements."""
    frequency_penalty: float = 0.0
    """What a token's logit loses for each time that it was generated before, in this output."""
    presence_penalty: float = 0.0
    """What it loses once it was generated."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, and what is added to their logits."""
    expected_tokens: int | None = None
    """How many tokens its client expects; changes nothing but plans."""
    logprobs: int | None = None
    """Tell how likely each token was, and so many of the likeliest alternatives; None tells nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """A bound on an output's text: a JSON schema (as JSON text) or a regular expression."""

    kind: str
    """`schema`, `regex`, or `text_or_schema`: JSON under the schema, or any text that does not begin as an
    object or array does.
    """
    source: str
    """The schema's JSON text, or the pattern."""
