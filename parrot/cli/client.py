"""The commands' own HTTP client: what `ps`, `sessions` and `engines` ask a running service."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
import httpx2
from pydantic import BaseModel, ValidationError

from parrot.errors import UnreachableError
from parrot.wire.answers import ErrorEnvelope
from parrot.wire.errors import from_body

DEFAULT_URL = "http://127.0.0.1:8321"
TIMEOUT_S = 30.0

A = TypeVar("A", bound=BaseModel)


def service_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--url`; it is then called with a `ServiceClient` as `service`.

    The key comes from `PARROT_API_KEY`: what stands on a command line, others can see in the process list.
    """

    @click.option(
        "--url", envvar="PARROT_URL", default=DEFAULT_URL, show_default=True, help="The service's address."
    )
    @click.option("--api-key", envvar="PARROT_API_KEY", hidden=True)
    @functools.wraps(command)
    def with_service(*args: Any, url: str, api_key: str | None, **options: Any) -> Any:
        with ServiceClient(url, api_key=api_key) as service:
            return command(*args, service=service, **options)

    return with_service


class ServiceClient:
    """One connection to a service."""

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S)

    def __enter__(self) -> "ServiceClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._http.close()

    def get(self, model: type[A], path: str, **query: object) -> A:
        """The answer to a GET.

        Raises:
            UnreachableError: nothing answers, or something that is not Parrot.
            ParrotError: the service refused.
        """
        present = {name: str(value) for name, value in query.items() if value is not None}
        return self._answer(model, "GET", path, params=present)

    def post(self, model: type[A], path: str, body: Mapping[str, object]) -> A:
        """The answer to a POST; raises as `get` does."""
        return self._answer(model, "POST", path, json=dict(body))

    def put(self, model: type[A], path: str, body: Mapping[str, object]) -> A:
        """The answer to a PUT; raises as `get` does."""
        return self._answer(model, "PUT", path, json=dict(body))

    def delete(self, path: str) -> None:
        """DELETE; raises as `get` does."""
        self._request("DELETE", path)

    def _answer(self, model: type[A], method: str, path: str, **request: Any) -> A:
        response = self._request(method, path, **request)
        try:
            return model.model_validate_json(response.content)
        except ValidationError:
            raise self._not_parrot(response) from None

    def _request(self, method: str, path: str, **request: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **request)
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise UnreachableError(
                f"{self.url!r} is not an address such as {DEFAULT_URL}",
                data={"fix": "name the service's address with --url or PARROT_URL"},
            ) from error
        except httpx2.HTTPError as error:
            raise UnreachableError(f"no service answers at {self.url}: {error}") from error
        if response.status_code < 400:
            return response
        try:
            raise from_body(ErrorEnvelope.model_validate_json(response.content).error)
        except ValidationError:
            raise self._not_parrot(response) from None

    def _not_parrot(self, response: httpx2.Response) -> UnreachableError:
        return UnreachableError(
            f"what answers at {self.url} is not Parrot (status {response.status_code})", code="bad_answer"
        )
