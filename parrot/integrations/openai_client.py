"""OpenAI's client of a Parrot service, for connectors that are built on it: where it goes, how it fails."""

from collections.abc import Mapping

from openai import APIConnectionError, APIStatusError, AsyncOpenAI
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from parrot.errors import (
    CODES,
    ParrotError,
    RequestError,
    UnavailableError,
    UnreachableError,
    error_from_code,
)

NO_KEY = "none"
"""Sent when no key is configured: the OpenAI client wants one."""


class Environment(BaseSettings):
    """What is not given comes from `PARROT_API_KEY` and `PARROT_BASE_URL`."""

    model_config = SettingsConfigDict(env_prefix="PARROT_", extra="ignore")

    api_key: SecretStr | None = None
    base_url: str = "http://127.0.0.1:8321/v1"


def openai_client(
    base_url: str | None, api_key: str | None, default_headers: Mapping[str, str] | None
) -> AsyncOpenAI:
    """A client; what is None comes from the environment."""
    known = Environment()
    key = api_key or (known.api_key.get_secret_value() if known.api_key is not None else NO_KEY)
    return AsyncOpenAI(base_url=base_url or known.base_url, api_key=key, default_headers=default_headers)


def service_error(error: BaseException | None) -> ParrotError | None:
    """The service's error in what the OpenAI client raised; None when it is of another kind."""
    match error:
        case APIStatusError():
            found = error.body if isinstance(error.body, dict) else {}
            message, param = str(found.get("message") or error.message), found.get("param")
            # The code may be OpenAI's; the number is always the service's.
            for code, info in CODES.items():
                if info.number == found.get("number"):
                    return error_from_code(code, message, param=param)
            kind = RequestError if error.status_code < 429 else UnavailableError
            return kind(message, param=param)
        case APIConnectionError():
            return UnreachableError(f"no service answers at {error.request.url}: {error.__cause__ or error}")
        case _:
            return None
