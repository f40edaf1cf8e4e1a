"""No URL that a configuration holds has a password, a signature or a token in it."""

import pytest
from pydantic import ValidationError

from flows.config import explain_errors
from tasks.storage.location import Location


@pytest.mark.parametrize(
    "value",
    [
        "s3://AKIA:secret@bucket/x",
        "s3://key@bucket/x",
        "s3://bucket/x?X-Amz-Signature=secret&X-Amz-Expires=3600",
        "s3://bucket/x?a=b&x-amz-security-token=secret",
        "s3://bucket/x?AWSAccessKeyId=secret",
        "s3://bucket/x?token=secret",
        "s3://bucket/x#access_token=secret",
        "s3://bucket/x%3Ftoken%3Dsecret",
        "http://user:secret@host/x",
        "https://host/x?sig=secret",
        {"url": "s3://b", "endpoint_url": "http://key:secret@host"},
        {"url": "s3://b", "endpoint_url": "http://secret@host"},
        {"url": "s3://b", "endpoint_url": "http://host?token=secret"},
        {"url": "s3://b", "endpoint_url": "http://host/#secret"},
    ],
)
def test_credentials_in_any_part_of_a_url_are_refused_and_not_shown(value: object) -> None:
    with pytest.raises(ValidationError) as error:
        Location.model_validate(value)
    (line,) = explain_errors(error.value).splitlines()
    assert ("credentials" in line) and "secret" not in line


@pytest.mark.parametrize("url", ["s3://bucket/who?", "s3://bucket/a=b", "/data/x?token=1", "s3://bucket/key=1/b=c"])
def test_names_that_only_look_like_queries_are_names(url: str) -> None:
    assert Location(url=url).url == url
