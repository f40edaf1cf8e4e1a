"""A PACS, and the way in which DICOM objects get there: C-STORE by pynetdicom, or STOW-RS by dicomweb-client."""

import logging
import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian, ParametricMapStorage, SegmentationStorage

from models.errors import ConfigurationError
from tasks.storage.credentials import plain_address

TITLE, TOKEN = "COHORTLENS_AE_TITLE", "COHORTLENS_PACS_TOKEN"
CERTIFICATE, KEY = "COHORTLENS_PACS_CERTIFICATE", "COHORTLENS_PACS_KEY"

_OBJECTS = (ParametricMapStorage, SegmentationStorage, ComprehensiveSRStorage)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WAITS = (0.0, 1.0, 4.0)
"""Seconds before each try."""

_SECONDS_TO_CONNECT, _SECONDS_TO_ANSWER = 10, 300
_WHOLE = 2**40
"""A request is never cut into chunks: of one that is repeated, dicomweb-client would send none of them again."""

Store = Callable[[bytes], str | None]
"""Stores an object, and says why the PACS has refused it."""

for _library in ("pynetdicom", "dicomweb_client", "urllib3"):  # they log what they send, and where
    logging.getLogger(_library).setLevel(logging.CRITICAL + 1)


class Unreachable(OSError):
    """The PACS does not answer, or answers nobody of this name: nothing is said of a single object."""


class Pacs(NamedTuple):
    """The address of a PACS.

    Attributes
    ----------
    url
        Of the service, if it is one of DICOMweb; otherwise empty.
    title, host, port
        Of the application entity, if it is one of DIMSE.
    is_secure
        Whether that is asked by TLS.
    """

    url: str = ""
    title: str = ""
    host: str = ""
    port: int = 0
    is_secure: bool = False

    @classmethod
    def of(cls, address: str) -> "Pacs":
        """Read an address: ``dicom://AET@host:port``, by TLS ``dicoms://``; or that of DICOMweb, ``https://…``.

        Raises
        ------
        ConfigurationError
            If it is none, or holds credentials.
        """
        try:
            parts = urlsplit(address)
            if parts.scheme in ("dicom", "dicoms"):
                return cls._of_entity(parts.username, parts.password, parts.hostname, parts.port, parts.scheme)
            plain_address(address)
        except ValueError as error:
            raise ConfigurationError(f"--send: the address {error}") from None
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        if not (is_safe and parts.hostname):
            raise ConfigurationError(
                f"--send {address}: give dicom://AET@host:port, dicoms:// for TLS, or https:// of a DICOMweb service; "
                "http:// would show patients to the network, and is for this machine alone"
            )
        return cls(url=address.rstrip("/"))

    @classmethod
    def _of_entity(
        cls, title: str | None, password: str | None, host: str | None, port: int | None, scheme: str
    ) -> "Pacs":
        if password is not None:
            raise ConfigurationError("--send: the address holds a password, and a DICOM entity has none: leave it out")
        if not (title and host and port) or len(title) > 16:
            raise ConfigurationError(
                f"--send: {scheme}://AET@host:port has to name the entity, in up to 16 characters, with host and port"
            )
        return cls(title=title, host=host, port=port, is_secure=scheme == "dicoms")

    def __str__(self) -> str:
        return self.url or f"{self.title}@{self.host}:{self.port}"

    def check_asker(self) -> None:
        """Check by which title and certificate the PACS is asked.

        Raises
        ------
        ConfigurationError
            If a title is none of DICOM's, or the certificate cannot be loaded.
        """
        for what, title in (("--send", self.title), (TITLE, _own_title())) if self.title else ():
            _check_title(what, title)
        if self.is_secure or self.url:
            try:
                _tls()
            except OSError as error:
                raise ConfigurationError(
                    f"{CERTIFICATE}, {KEY}: the certificate and its key cannot be loaded ({type(error).__name__}): "
                    "name files in PEM"
                ) from None

    def connected(self) -> AbstractContextManager[Store]:
        """Connect to the PACS, for as long as objects are stored there.

        Raises
        ------
        Unreachable
            If it does not answer, or refuses who asks; also later, from the `Store`.
        """
        return _by_web(self) if self.url else _by_dimse(self)


def _own_title() -> str:
    return os.environ.get(TITLE, "COHORTLENS")


def _check_title(what: str, title: str) -> None:
    from pynetdicom import AE

    try:
        AE(ae_title=title)
    except ValueError:
        raise ConfigurationError(
            f"{what}: {title!r} is no AE title, which has up to 16 characters of ASCII, and no backslash"
        ) from None


@contextmanager
def _by_dimse(pacs: Pacs) -> Iterator[Store]:
    entity = _Entity(pacs)
    entity.associate()
    try:
        yield entity.store
    finally:
        entity.release()


class _Entity:
    """An application entity that is asked over one association after the other, as they get lost."""

    def __init__(self, pacs: Pacs) -> None:
        from pynetdicom import AE

        self._pacs = pacs
        self._own = AE(ae_title=_own_title())
        self._own.connection_timeout = self._own.acse_timeout = _SECONDS_TO_CONNECT
        self._own.dimse_timeout = self._own.network_timeout = _SECONDS_TO_ANSWER
        for kind in _OBJECTS:
            self._own.add_requested_context(kind, ExplicitVRLittleEndian)
        self._association: Any = None

    def associate(self) -> None:
        """Make an association, unless there is one."""
        secure = (_tls(), self._pacs.host) if self._pacs.is_secure else None
        for wait in _WAITS:
            if self._association is not None and self._association.is_established:
                return
            time.sleep(wait)
            self._association = self._own.associate(
                self._pacs.host, self._pacs.port, ae_title=self._pacs.title, tls_args=secure
            )
        if self._association.is_established:
            return
        if self._association.is_rejected:
            raise Unreachable(
                f"the PACS {self._pacs} rejects the association: does it know {self._own.ae_title} ({TITLE})?"
            )
        raise Unreachable(f"the PACS {self._pacs} does not answer: is the address right, and does it want TLS?")

    def release(self) -> None:
        if self._association is not None and self._association.is_established:
            self._association.release()

    def store(self, data: bytes) -> str | None:
        made, reason = dcmread(BytesIO(data)), None
        for wait in _WAITS:
            time.sleep(wait)
            self.associate()
            if made.SOPClassUID not in [context.abstract_syntax for context in self._association.accepted_contexts]:
                return f"it takes no {made.SOPClassUID.name}"
            status = self._status(made)
            if status is None:
                reason = "it does not answer"
            elif status == 0 or 0xB000 <= status <= 0xBFFF:  # stored, perhaps with a warning
                return None
            else:
                reason = f"status 0x{status:04X}"
            if status is not None and not 0xA700 <= status <= 0xA7FF:  # which is out of resources
                return reason
        return reason

    def _status(self, made: Dataset) -> int | None:
        """Send an object, and say which status the PACS gives; None if it breaks off."""
        began = time.monotonic()
        try:
            status: int | None = self._association.send_c_store(made).get("Status")
        except RuntimeError:  # it has broken off before anything was sent
            return None
        if status is None and time.monotonic() - began >= _SECONDS_TO_ANSWER:
            raise Unreachable(f"the PACS {self._pacs} has not answered for {_SECONDS_TO_ANSWER} s")
        return status


@contextmanager
def _by_web(pacs: Pacs) -> Iterator[Store]:
    import requests
    from dicomweb_client import DICOMwebClient
    from requests.adapters import HTTPAdapter

    with requests.Session() as session:
        session.mount("http", HTTPAdapter(max_retries=len(_WAITS) - 1))
        if token := os.environ.get(TOKEN):  # otherwise requests looks into ~/.netrc
            session.auth = lambda request: _bearing(request, token)
        if certificate := os.environ.get(CERTIFICATE):
            session.cert = (certificate, os.environ.get(KEY) or certificate)
        timeouts = (_SECONDS_TO_CONNECT, _SECONDS_TO_ANSWER)
        client = DICOMwebClient(pacs.url, session=session, chunk_size=_WHOLE, timeout=timeouts)
        client.set_http_retry_params(max_attempts=len(_WAITS), wait_exponential_multiplier=int(500 * _WAITS[1]))
        yield lambda data: _post(client, data, pacs)


def _bearing(request: Any, token: str) -> Any:
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _post(client: Any, data: bytes, pacs: Pacs) -> str | None:
    import requests
    from retrying import RetryError  # type: ignore[import-untyped]

    try:
        answer: Dataset = client.store_instances([dcmread(BytesIO(data))])
    except requests.HTTPError as error:
        return _refused(error.response.status_code if error.response is not None else 0, pacs)
    except requests.JSONDecodeError:
        return "its answer cannot be read"
    except requests.RequestException as error:
        raise Unreachable(f"the PACS {pacs} does not answer ({type(error).__name__}): is the address right?") from None
    except RetryError:
        return "it is too busy"
    except (ValueError, TypeError, KeyError, AttributeError, SyntaxError):  # for the server may write anything
        return "its answer cannot be read"
    failed = answer.get("FailedSOPSequence")
    return f"status 0x{int(failed[0].get('FailureReason', 0)):04X}" if failed else None


def _refused(code: int, pacs: Pacs) -> str:
    """Tell what the PACS has against one object; raise if it is against all of them."""
    if code in (401, 403):
        raise Unreachable(f"the PACS {pacs} answers {code}: give credentials in {TOKEN}, or a .netrc")
    if code in (404, 405):
        raise Unreachable(f"the PACS {pacs} answers {code}: no DICOMweb service lies there")
    return f"HTTP status {code}"


def _tls() -> ssl.SSLContext:
    """Trust what the machine trusts (SSL_CERT_FILE), and show a certificate of ours if there is one."""
    context = ssl.create_default_context()
    if certificate := os.environ.get(CERTIFICATE):
        context.load_cert_chain(certificate, os.environ.get(KEY))
    return context
