"""Who a request comes from."""

import hashlib
import hmac

from parrot.errors import AuthenticationError
from parrot.server.config import ApiKey
from parrot.types.ids import DEFAULT_TENANT, TenantId

SCHEME = b"bearer "


class Authenticator:
    """Finds the tenant of a request by its `Authorization` header."""

    def __init__(self, keys: tuple[ApiKey, ...]) -> None:
        self._keys = keys

    def tenant(self, authorization: bytes | None) -> TenantId:
        """The tenant whose key the header carries; without configured keys, always `default`.

        Every key is compared, in constant time, whichever matches.

        Raises:
            AuthenticationError: no header, another scheme, or not one of our keys.
        """
        if not self._keys:
            return DEFAULT_TENANT
        if authorization is None or authorization[: len(SCHEME)].lower() != SCHEME:
            raise AuthenticationError("send the header Authorization: Bearer KEY")
        given = hashlib.sha256(authorization[len(SCHEME) :]).digest()
        found: TenantId | None = None
        for key in self._keys:
            if hmac.compare_digest(given, key.sha256):
                found = key.tenant_id
        if found is None:
            raise AuthenticationError("the key is not valid here")
        return found
