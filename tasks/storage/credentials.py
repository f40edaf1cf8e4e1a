"""Addresses that hold a password or a signature are refused: they would be kept in plans, logs and Prefect."""

import re
from urllib.parse import unquote, urlsplit

from pydantic_core import PydanticCustomError

REFUSED = "credentials"
"""The type of the error, by which whoever shows it knows not to show the address."""

_SECRET = re.compile(
    r"(^|[?&;#/])(x-(amz|goog|oss)-[\w-]+|awsaccesskeyid|(\w*[_-])?(signature|sig|token|secret|password|passwd|pwd|"
    r"(access|api)?[_-]?key([_-]?id)?|credentials?|auth(orization)?))=",
    re.IGNORECASE,
)


def without_credentials(address: str) -> str:
    """Check that an address names a place, and neither a user with a password nor a signature or token.

    Raises
    ------
    PydanticCustomError
        Of type `REFUSED`. Its message does not hold the address.
    """
    plain = unquote(address)
    _, is_url, rest = plain.partition("://")
    authority = re.split(r"[/?#]", rest)[0]
    if is_url and ("@" in authority or _SECRET.search(rest.removeprefix(authority))):
        raise PydanticCustomError(
            REFUSED,
            "holds credentials (a user, a signature or a token): give them in the environment or in an AWS profile",
        )
    return address


def plain_address(address: str) -> str:
    """Check that the address of a server is scheme, host, port and path alone.

    Raises
    ------
    PydanticCustomError
        As `without_credentials` does, also of any query and fragment.
    """
    without_credentials(address)
    parts = urlsplit(address)
    if parts.query or parts.fragment:
        raise PydanticCustomError(
            REFUSED, "holds a query or a fragment, where credentials may be: give scheme, host, port and path alone"
        )
    return address
