"""The bucket and the role: what runs do is what the policy allows, enforced by an S3 server, and no action is spare."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import hcl2
import pytest

from tasks.plan import shards as shards_module
from tasks.storage.lease import lease
from tasks.storage.location import Location
from tasks.upkeep.verify import repair, verify
from tasks.upkeep.withdraw import withdraw
from tests.tasks.outputs import Cohort, carry_out

_FOLDER = Path(__file__).resolve().parents[2] / "infra/s3"


def declared() -> dict[str, dict[str, Any]]:
    """Collect what the files declare, by type and name: ``declared()["aws_s3_bucket"]["results"]``."""
    options = hcl2.SerializationOptions(strip_string_quotes=True, explicit_blocks=False)
    blocks: dict[str, dict[str, Any]] = {}
    for file in sorted(_FOLDER.glob("*.tf")):
        with file.open() as text:
            content = hcl2.load(text, serialization_options=options)
        for block in [*content.get("resource", ()), *content.get("data", ())]:
            for kind, named in block.items():
                blocks.setdefault(kind, {}).update(named)
    return blocks


def policy(document: str, cohorts: str, results: str, without: str | None = None) -> dict[str, Any]:
    """A policy document as OpenTofu would write it, for two buckets; one action may be left out."""
    names = {"${var.cohort_bucket}": cohorts, "${aws_s3_bucket.results.arn}": f"arn:aws:s3:::{results}"}

    def filled(resource: str) -> str:
        for reference, value in names.items():
            resource = resource.replace(reference, value)
        assert "${" not in resource
        return resource

    statements = [
        {
            "Sid": statement["sid"],
            "Effect": statement.get("effect", "Allow"),
            "Action": [action for action in statement["actions"] if action != without],
            "Resource": [filled(resource) for resource in statement["resources"]],
        }
        for statement in declared()["aws_iam_policy_document"][document]["statement"]
    ]
    return {"Version": "2012-10-17", "Statement": [statement for statement in statements if statement["Action"]]}


class Site:
    """Two buckets, one that holds a cohort, and users who may do something with them."""

    def __init__(self, cohort: Location, results: Location, folder: Path) -> None:
        self.cohort, self.results = cohort, results
        self.pictures = Cohort(folder / "cohort", range(6))
        self.upload()
        self._credentials = folder / "credentials"
        os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(self._credentials)
        self._iam = botocore.session.get_session().create_client(
            "iam",
            region_name="us-east-1",
            endpoint_url=cohort.endpoint_url,
            aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        )

    def upload(self) -> None:
        for file in self.pictures.folder.iterdir():
            (self.cohort / file.name).write(file.read_bytes())

    def user(self, name: str, allowed: dict[str, Any]) -> str:
        """The AWS profile of a user to whom nothing else is allowed."""
        self._iam.create_user(UserName=name)
        self._iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=json.dumps(allowed))
        key = self._iam.create_access_key(UserName=name)["AccessKey"]
        with self._credentials.open("a") as file:
            file.write(f"[{name}]\naws_access_key_id = {key['AccessKeyId']}\n")
            file.write(f"aws_secret_access_key = {key['SecretAccessKey']}\n")
        return name

    def seen_by(self, profile: str) -> tuple[dict[str, Any], Location]:
        """A run's configuration, and its output, with the credentials of `profile`."""
        source, output = (
            Location(url=where.url, endpoint_url=where.endpoint_url, profile=profile)
            for where in (self.cohort / "manifest.csv", self.results / profile)
        )
        explainers = ["saliency", {"name": "expected_gradients", "samples": 2}]
        content = self.pictures.content(output, explainers=explainers, metrics=["gini"], results=["mean_maps"])
        content["cohort"] = {"source": source.model_dump(), "identifiers": "as given"}
        weights = self.cohort / Path(content["model"]["weights"]).name
        content["model"] = content["model"] | {"weights": source.at(weights.url).model_dump()}
        return content, output


@pytest.fixture
def site(
    bucket: Location, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Site:
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 4)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "")
    cohort = Location(url=f"{bucket.url}-cohort", endpoint_url=s3_endpoint)
    cohort.filesystem.mkdir(cohort.path)
    return Site(cohort, bucket, tmp_path)


def everything(site: Site, profile: str) -> None:
    """Do all that is ever done to a cohort and an output."""
    content, output = site.seen_by(profile)
    with lease(output, "a test"):
        carry_out(content, report=True)
    assert carry_out(content).explained == 6
    carry_out(content | {"explainers": [*content["explainers"], "input_x_gradient"]}, extend=True)
    damaged = next(name for name in output.sizes() if "/c/" in name)
    (output / damaged).remove()
    found = verify(output)
    assert found
    repair(output, found)
    assert verify(output) == []
    withdraw(output, "patient-2")
    carry_out(content | {"explainers": ["saliency"]}, overwrite=True)
    assert verify(output) == []


def test_everything_can_be_done_and_nothing_else(site: Site) -> None:
    profile = site.user("runs", policy("runs", site.cohort.path, site.results.path))
    everything(site, profile)

    _, output = site.seen_by(profile)
    cohort = output.at(site.cohort.url)
    elsewhere = output.at("s3://elsewhere-entirely/file")
    forbidden: dict[str, Callable[[], object]] = {
        "write to the cohort": lambda: (cohort / "new").write(b"x"),
        "delete from the cohort": lambda: output.filesystem.call_s3("delete_object", Bucket=cohort.path, Key="0.npy"),
        "make a bucket": lambda: output.filesystem.call_s3("create_bucket", Bucket="one-more-bucket"),
        "delete the bucket": lambda: output.filesystem.call_s3("delete_bucket", Bucket=site.results.path),
        "read elsewhere": elsewhere.read,
        "write elsewhere": lambda: elsewhere.write(b"x"),
    }
    for what, attempt in forbidden.items():
        with pytest.raises(PermissionError):
            pytest.fail(f"could {what}: {attempt()}")


def _actions() -> list[str]:
    statements = policy("runs", "cohorts", "results")["Statement"]
    return [action for statement in statements for action in statement["Action"]]


@pytest.mark.parametrize("action", _actions())
def test_no_action_is_spare(site: Site, action: str) -> None:
    lacking = site.user(action.partition(":")[2].lower(), policy("runs", site.cohort.path, site.results.path, action))
    with pytest.raises(OSError, match=r"Access Denied|did not delete"):
        everything(site, lacking)
    assert "*" not in action


def test_outputs_are_encrypted_closed_to_the_public_without_versions_and_spoken_to_by_tls() -> None:
    resources = declared()
    encryption = resources["aws_s3_bucket_server_side_encryption_configuration"]["results"]["rule"][0]
    assert encryption["apply_server_side_encryption_by_default"][0]["sse_algorithm"] == "aws:kms"
    closed = resources["aws_s3_bucket_public_access_block"]["results"]
    assert all(
        closed[setting] is True or closed[setting] == "true"
        for setting in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    )
    assert "aws_s3_bucket_versioning" not in resources  # a withdrawn image must be gone
    (rule,) = resources["aws_s3_bucket_lifecycle_configuration"]["results"]["rule"]
    assert rule["status"] == "Enabled" and rule["abort_incomplete_multipart_upload"][0]["days_after_initiation"] == 1
    (refusal,) = resources["aws_iam_policy_document"]["tls_only"]["statement"]
    assert refusal["effect"] == "Deny" and refusal["actions"] == ["s3:*"]
    assert refusal["condition"] == [{"test": "Bool", "variable": "aws:SecureTransport", "values": ["false"]}]
    assert all(
        named["bucket"] == "${aws_s3_bucket.results.id}"
        for kind, blocks in resources.items()
        if kind.startswith("aws_s3_bucket_")
        for named in blocks.values()
    )
