"""Pseudonyms: what stands in an output for what the cohort calls an image, a subject, a file or a series."""

import hmac
import os
import secrets
from functools import cached_property, lru_cache

from pydantic import BaseModel, ConfigDict, Field

from models.errors import ConfigurationError

VARIABLE = "COHORTLENS_PSEUDONYM_KEY"

_SHORTEST = 16
_DIGITS = 16
_CONSTANT = "cohortlens: which key is this?"


class Key(BaseModel):
    """The key of an output's pseudonyms, as the output keeps it.

    Attributes
    ----------
    fingerprint
        Tells one key from another.
    kept
        The key itself, if it was made for this output; None if it comes from the environment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    kept: str | None = Field(None, repr=False)

    @classmethod
    def make(cls) -> "Key":
        """Take the key of the environment, or make a random one.

        Raises
        ------
        ConfigurationError
            If the one of the environment can be guessed.
        """
        given = os.environ.get(VARIABLE)
        if given and len(given) < _SHORTEST:
            raise ConfigurationError(
                f"{VARIABLE} has {len(given)} characters, so that it can be guessed: give it at least {_SHORTEST}, "
                "such as those of `openssl rand -hex 32`"
            )
        key = given or secrets.token_hex(32)
        return cls(fingerprint=_hmac(key, _CONSTANT), kept=None if given else key)

    @cached_property
    def secret(self) -> str:
        """The key itself.

        Raises
        ------
        ConfigurationError
            If it is not at hand, or the environment holds another.
        """
        given = os.environ.get(VARIABLE)
        if given and _hmac(given, _CONSTANT) != self.fingerprint:
            raise ConfigurationError(
                f"{VARIABLE} is not the key of this output's pseudonyms: "
                + (
                    "unset it, since the output has a key of its own"
                    if self.kept
                    else "set it to the one it was begun with"
                )
                + ", or name another output"
            )
        if found := self.kept or given:
            return found
        raise ConfigurationError(
            f"the pseudonyms of this output need the key that it was begun with: set {VARIABLE} to it"
        )

    def pseudonym(self, identifier: str) -> str:
        """The first 16 hexadecimal digits of the identifier's HMAC-SHA256."""
        return _hmac(self.secret, identifier)

    @property
    def about(self) -> str:
        """A sentence about the key for whoever starts a run."""
        if self.kept is None:
            return f"pseudonyms with the key in {VARIABLE}"
        return (
            "pseudonyms with a random key, which the output holds: whoever has the output can check a guessed "
            f"identifier, and other outputs have other pseudonyms; set {VARIABLE} to avoid both"
        )


def _hmac(key: str, text: str) -> str:
    keyed = _keyed(key).copy()
    keyed.update(text.encode(errors="surrogateescape"))  # names of files are bytes, which need not be UTF-8
    return keyed.hexdigest()[:_DIGITS]


@lru_cache(1)
def _keyed(key: str) -> hmac.HMAC:
    """Take the key in once, not for each of a million names."""
    return hmac.new(key.encode(), digestmod="sha256")
