"""Addresses that hold a password or a signature are refused: they would be kept in plans, logs and Prefect."""

import re
from urllib.parse import unquote, urlsplit

_SECRET = re.compile(
    r"://[^/?#\s]*@|[?&;#](x-(amz|goog|oss)-[\w-]+|awsaccesskeyid|(\w*[_-])?(signature|sig|token|secret|password|"
    r"passwd|pwd|(access|api)?[_-]?key([_-]?id)?|credentials?|auth(orization)?))=",
    re.IGNORECASE,
)


def holds_credentials(text: str) -> bool:
    """Tell whether an address in a text names a user, or has a signature or token."""
    return bool(_SECRET.search(unquote(text)))


def without_credentials(address: str) -> str:
    """Check that an address names a place, and neither a user nor a signature or token.

    Raises
    ------
    ValueError
        With a message that does not hold the address.
    """
    if "://" in address and holds_credentials(address):
        raise ValueError(
            "holds credentials (a user, a signature or a token): give them in the environment or in an AWS profile"
        )
    return address


def plain_address(address: str) -> str:
    """Check that the address of a server is scheme, host, port and path alone.

    Raises
    ------
    ValueError
        As `without_credentials` does, also of any query and fragment.
    """
    parts = urlsplit(without_credentials(address))
    if parts.query or parts.fragment:
        raise ValueError("has a query or a fragment, where credentials may be: give scheme, host, port and path alone")
    return address
