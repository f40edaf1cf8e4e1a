"""Where a browser finds an output: by the configuration, by the environment, or nowhere."""

import pytest

from flows.addresses import address_of
from tasks.storage.location import Location

_VIEW = "https://view.example.org/token/"


@pytest.mark.parametrize(
    ("output", "root", "address"),
    [
        ("s3://results/chest", "s3://results", "https://view.example.org/token/chest"),
        ("s3://results/chest 1?", "s3://results/", "https://view.example.org/token/chest%201%3F"),
        ("/data/out/chest/", "/data/out", "https://view.example.org/token/chest"),
        ("s3://results/2026/chest", "s3://results", None),
        ("s3://others/chest", "s3://results", None),
        ("s3://results/chest", None, None),
    ],
)
def test_the_server_knows_what_lies_in_its_root_alone(
    monkeypatch: pytest.MonkeyPatch, output: str, root: str | None, address: str | None
) -> None:
    monkeypatch.setenv("COHORTLENS_VIEW_URL", _VIEW)
    if root:
        monkeypatch.setenv("COHORTLENS_VIEW_ROOT", root)
    assert address_of(Location(url=output), None) == address


def test_the_configuration_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    output = Location(url="s3://results/chest")
    assert address_of(output, "https://h/chest/") == "https://h/chest"
    assert address_of(output, None) is None
    monkeypatch.setenv("COHORTLENS_VIEW_URL", _VIEW)
    monkeypatch.setenv("COHORTLENS_VIEW_ROOT", "s3://results")
    assert address_of(output, "https://h/chest/") == "https://h/chest"
