"""S3 that is slow, busy or away for a while: every request is patient, and what ends it says why."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from s3fs import S3FileSystem
from s3fs.core import S3_RETRYABLE_ERRORS, set_custom_error_handler

from tasks import telemetry
from tasks.storage.location import CredentialsRefused, Unavailable
from tasks.storage.media_types import media_type

logger = logging.getLogger(__name__)

ATTEMPTS = 22
"""Retries of a request; the waits between them grow to 15 s, and to more than three minutes together."""

ANSWER_SECONDS = 15

_TOLD_AT = 7
"""The attempt, some five seconds after the first, that whoever waits is told of."""

_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_TRANSIENT_CODES = {"BadDigest", "ConditionalRequestConflict", "IncompleteBody", "RequestTimeout", "SlowDown"}
_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}

_attempts: ContextVar[Iterator[int]] = ContextVar("attempts")
"""Counts those of the call that is being made."""


class PatientS3(S3FileSystem):  # type: ignore[misc]
    """s3fs with one layer of retries instead of two, one request a read, and errors that are all OSErrors.

    A body that is cut short is noticed by its length, and asked for again.
    """

    retries = ATTEMPTS

    def __init__(self, **options: Any) -> None:
        timeouts = {"connect_timeout": ANSWER_SECONDS, "read_timeout": ANSWER_SECONDS}
        config = {"retries": {"total_max_attempts": 1}, **timeouts}
        super().__init__(**{"max_concurrency": 1, "config_kwargs": config} | options)

    async def get_s3(self, bucket: str | None = None) -> Any:
        client = await super().get_s3(bucket)
        client.meta.events.register("before-send.s3", _count, unique_id="cohortlens")
        for operation in ("PutObject", "CreateMultipartUpload"):
            event = f"before-parameter-build.s3.{operation}"
            client.meta.events.register(event, _describe, unique_id=f"cohortlens-{event}")
        return client

    def split_path(self, path: str) -> tuple[str, str, None]:
        """Split a path into bucket and key: the whole key, also if it ends as s3fs lets versions be asked for."""
        bucket, key = self._find_bucket_key(self._strip_protocol(path).lstrip("/"))
        return bucket, key + path[len(path.rstrip("/")) :] if key else key, None

    async def _expand_path(
        self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None, assume_literal: bool = True
    ) -> list[str]:
        """Take paths as the names that they are: s3fs would delete and read whatever matches them as a pattern."""
        paths = [path] if isinstance(path, str) else path
        expanded: list[str] = await super()._expand_path(paths, recursive, maxdepth, assume_literal=True)
        return expanded

    async def _call_s3(self, method: str, *arguments: Any, **options: Any) -> Any:
        _attempts.set(count())
        with _plain_errors(options.get("Bucket")):
            try:
                answer = await super()._call_s3(method, *arguments, **options)
            except PermissionError:
                if method == "head_object":  # its answer has no body that would say why; this one's has
                    where = {name: options[name] for name in ("Bucket", "Key")}
                    await super()._call_s3("get_object", Range="bytes=0-0", **where)
                raise
        if method == "delete_objects" and (failed := answer.get("Errors")):  # s3fs would keep that to itself
            raise Unavailable(f"S3 did not delete {len(failed)} objects, such as {failed[0].get('Key')!r}")
        return answer

    async def _cat_file(self, *arguments: Any, **options: Any) -> Any:
        with _plain_errors():
            return await super()._cat_file(*arguments, **options)


def _count(event_name: str, request: Any, **_: Any) -> None:
    """Count a request that is sent; the event ends with its operation."""
    telemetry.REQUESTS.labels(event_name.rpartition(".")[2]).inc()
    attempt = next(_attempts.get(iter([0])))
    if attempt:
        telemetry.RETRIES.inc()
    if attempt == _TOLD_AT:
        logger.warning(
            "S3 at %s does not answer, or errs: it is asked again for some three minutes", urlsplit(request.url).netloc
        )


def _describe(params: dict[str, Any], **_: Any) -> None:
    """Say with an object what browsers need of it.

    They download a page of another type, run no module of another type, and take an object of which nothing is said
    from their own copy for a tenth of its age, so that parts of two runs would be shown as one.
    """
    params.setdefault("ContentType", media_type(params["Key"]))
    params.setdefault("CacheControl", "no-cache")


@contextmanager
def _plain_errors(bucket: str | None = None) -> Iterator[None]:
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise CredentialsRefused(
            "there are no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or "
            "name an AWS profile (`profile`, or AWS_PROFILE)"
        ) from error
    except ProfileNotFound as error:
        raise CredentialsRefused(f"{error}: it is looked for in ~/.aws, or where AWS_CONFIG_FILE says") from error
    except (BotoCoreError, *S3_RETRYABLE_ERRORS) as error:
        raise Unavailable(f"S3 did not answer, after all attempts: {error}") from error
    except OSError as error:
        refusal = error.__cause__
        if not isinstance(refusal, ClientError):
            raise
        code = refusal.response.get("Error", {}).get("Code")
        if code in _CREDENTIALS:
            raise CredentialsRefused(
                f"S3 refuses the credentials ({code}): renew them, in the environment or the profile, and run again"
            ) from refusal
        if code == "NoSuchBucket":
            raise FileNotFoundError(f"there is no bucket {bucket or ''!r}: make it, or name another") from refusal
        if code == "PreconditionFailed":  # nothing but `create` sets conditions
            raise FileExistsError(str(error)) from refusal
        if _is_transient(refusal):
            raise Unavailable(f"S3 answered {code} to all attempts: {error}") from refusal
        raise


def _is_transient(error: Exception) -> bool:
    if isinstance(error, ConnectionError):
        return not isinstance(error, SSLError)
    if not isinstance(error, ClientError):
        return False
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in _TRANSIENT_STATUS or error.response.get("Error", {}).get("Code") in _TRANSIENT_CODES


set_custom_error_handler(_is_transient)
