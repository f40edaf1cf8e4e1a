"""The manifests: valid against the schemas of Kubernetes and of Dask's operator, and safe."""

import shutil
import subprocess
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import kubernetes_validate
import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker
from jsonschema import Draft7Validator

from flows.cli.view import view
from flows.config import load
from tests.infra.files import INFRA, SETTINGS, documents

_VERSION = "1.34"
_CLUSTERS = ["cpu", "gpu"]
_PLAIN = ["namespace.yaml", "service-account.yaml", "network-policies.yaml", "view.yaml"]
_CRDS = files("dask_kubernetes") / "operator/deployment/helm/dask-kubernetes-operator/crds"


def pods(kind: str) -> dict[str, dict[str, Any]]:
    (cluster,) = documents(f"kubernetes/dask-{kind}.yaml")
    return {name: cluster["spec"][name]["spec"] for name in ("scheduler", "worker")}


def strict(schema: Any) -> Any:
    """A schema that refuses, as Kubernetes' strict decoding does, what it does not know."""
    if isinstance(schema, dict):
        schema = {name: strict(value) for name, value in schema.items()}
        if "properties" in schema and "x-kubernetes-preserve-unknown-fields" not in schema:
            schema.setdefault("additionalProperties", False)
    return schema


@pytest.mark.parametrize("name", _PLAIN)
def test_plain_objects_are_valid(name: str) -> None:
    for document in documents(f"kubernetes/{name}"):
        kubernetes_validate.validate(document, _VERSION, strict=True)


@pytest.mark.parametrize("kind", _CLUSTERS)
def test_pods_are_valid_and_admitted_by_the_restricted_standard(kind: str) -> None:
    for name, spec in pods(kind).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        kubernetes_validate.validate(pod, _VERSION, strict=True)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["volumes"] == [{"name": "scratch", "emptyDir": {}}]
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() >= {"cpu", "memory", "ephemeral-storage"}
            assert container["resources"]["limits"].keys() >= {"memory", "ephemeral-storage"}


def test_the_server_of_the_viewer_is_admitted_by_the_restricted_standard_and_found_by_its_service() -> None:
    deployment, service = documents("kubernetes/view.yaml")
    (dask,) = documents("kubernetes/dask-cpu.yaml")
    pod, scheduler = deployment["spec"]["template"], dask["spec"]["scheduler"]["spec"]
    (container,) = pod["spec"]["containers"]
    for setting in ("securityContext", "automountServiceAccountToken", "volumes"):
        assert pod["spec"][setting] == scheduler[setting]
    assert container["securityContext"] == scheduler["containers"][0]["securityContext"]
    told = view.make_context("view", container["command"][2:]).params
    assert (told["output"], told["host"], told["port"]) == ("s3://results", "0.0.0.0", int(SETTINGS["VIEW_PORT"]))
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["spec"]["ports"] == [{"name": "http", "port": told["port"], "targetPort": "http"}]


@pytest.mark.parametrize(
    ("name", "crd"), [("dask-cpu", "daskcluster"), ("dask-gpu", "daskcluster"), ("autoscalers", "daskautoscaler")]
)
def test_what_the_operator_is_given_fits_its_definitions(name: str, crd: str) -> None:
    definition = yaml.load((_CRDS / f"{crd}.yaml").read_text(), yaml.CSafeLoader)
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    validator = Draft7Validator(strict(schema))
    for document in documents(f"kubernetes/{name}.yaml"):
        assert document["kind"] == definition["spec"]["names"]["kind"]
        body = {"spec": document["spec"]}
        validator.validate(body)
        assert not validator.is_valid({"spec": document["spec"] | {"minimun": 1}})


@pytest.mark.parametrize("kind", _CLUSTERS)
def test_the_scheduler_is_where_the_operator_looks_for_it(kind: str) -> None:
    (cluster,) = documents(f"kubernetes/dask-{kind}.yaml")
    service = cluster["spec"]["scheduler"]["service"]
    ports = {port["name"]: port["containerPort"] for port in pods(kind)["scheduler"]["containers"][0]["ports"]}
    assert ports == {"tcp-comm": int(SETTINGS["DASK_SCHEDULER_PORT"]), "http-dashboard": 8787}
    assert {port["name"]: port["port"] for port in service["ports"]} == ports
    assert service["selector"] == {
        "dask.org/cluster-name": cluster["metadata"]["name"],
        "dask.org/component": "scheduler",
    }


@pytest.mark.parametrize("kind", _CLUSTERS)
def test_the_operator_makes_valid_deployments_whose_workers_have_its_names(kind: str) -> None:
    from dask_kubernetes.operator.controller.controller import build_scheduler_deployment_spec as scheduler
    from dask_kubernetes.operator.controller.controller import build_worker_deployment_spec as worker

    specs, name = pods(kind), f"cohortlens-{kind}"
    made = worker(f"{name}-default", "cohortlens", name, "1", specs["worker"], {}, {})
    for deployment in (made, scheduler(name, specs["scheduler"], {}, {})):
        kubernetes_validate.validate(deployment, _VERSION, strict=True)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables["DASK_SCHEDULER_ADDRESS"] == f"tcp://{name}-scheduler.cohortlens.svc.cluster.local:8786"
    assert container["command"][container["command"].index("--name") + 1] == "$(DASK_WORKER_NAME)"
    assert variables["DASK_WORKER_NAME"] == made["metadata"]["name"]


@pytest.mark.parametrize("kind", _CLUSTERS)
def test_dask_understands_its_commands(kind: str) -> None:
    """The GPU workers' command by dask-cuda where CUDA's bindings are installed, and by Dask elsewhere."""
    worker = dask_worker.main
    if kind == "gpu" and find_spec("dask_cuda") and find_spec("cuda.bindings"):
        from dask_cuda.cli import worker
    clis = {"scheduler": dask_scheduler.main, "worker": worker}
    for name, spec in pods(kind).items():
        dask, *arguments = (part for part in spec["containers"][0]["command"] if part != "cuda")
        assert (dask, arguments.pop(0)) == ("dask", name)
        told = clis[name].make_context(name, arguments).params
        assert told.get("scheduler") is None and not told["preload_argv"]  # where Dask puts what it does not know
        assert told["dashboard_address"] == {"scheduler": ":8787", "worker": ":8788"}[name]


def test_a_gpu_worker_has_one_gpu_and_one_process() -> None:
    (worker,) = pods("gpu")["worker"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker["command"][:3] == ["dask", "cuda", "worker"]
    (scheduler,) = pods("gpu")["scheduler"]["containers"]
    assert "nvidia.com/gpu" not in scheduler["resources"]["limits"]


def test_autoscalers_bound_the_clusters_that_there_are() -> None:
    clusters = {documents(f"kubernetes/dask-{kind}.yaml")[0]["metadata"]["name"] for kind in _CLUSTERS}
    bounds = {scaler["spec"]["cluster"]: scaler["spec"] for scaler in documents("kubernetes/autoscalers.yaml")}
    assert bounds.keys() == clusters
    assert all(spec["minimum"] == 0 < spec["maximum"] for spec in bounds.values())


def test_everything_is_applied_with_the_settings_of_make_up() -> None:
    (kustomization,) = documents("kubernetes/kustomization.yaml")
    manifests = {path.name for path in (INFRA / "kubernetes").glob("*.yaml")}
    assert set(kustomization["resources"]) == manifests - {"kustomization.yaml", "prefect-worker.yaml", "cohort.yaml"}
    (settings,) = kustomization["configMapGenerator"]
    assert settings["envs"] == ["../settings.env"]
    for kind in _CLUSTERS:
        for spec in pods(kind).values():
            assert spec["containers"][0]["envFrom"] == [{"configMapRef": {"name": settings["name"]}}]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl: not built by kustomize")
def test_kustomize_builds_what_the_files_say() -> None:
    command = ["kubectl", "kustomize", "--load-restrictor", "LoadRestrictionsNone", INFRA / "kubernetes"]
    built = list(yaml.safe_load_all(subprocess.check_output(command, text=True)))
    assert all(document["metadata"].get("namespace", "cohortlens") == "cohortlens" for document in built)
    (settings,) = [document["data"] for document in built if document["kind"] == "ConfigMap"]
    assert {name: value.strip('"') for name, value in settings.items()} == SETTINGS
    clusters = {
        document["metadata"]["name"]: document["spec"] for document in built if document["kind"] == "DaskCluster"
    }
    for kind in _CLUSTERS:
        assert {name: clusters[f"cohortlens-{kind}"][name]["spec"] for name in ("scheduler", "worker")} == pods(kind)


def test_prefects_worker_is_started_as_by_make_up_with_its_secrets_from_kubernetes() -> None:
    (values,) = documents("kubernetes/prefect-worker.yaml")
    worker = values["worker"]
    assert worker["args"][worker["args"].index("--pool") + 1] == worker["config"]["workPool"] == SETTINGS["WORK_POOL"]
    assert worker["args"][worker["args"].index("--type") + 1] == worker["config"]["type"] == "process"
    for context in (worker["podSecurityContext"], worker["containerSecurityContext"]):
        assert context["runAsNonRoot"] is True and context["runAsUser"] == 1001
    assert worker["containerSecurityContext"]["readOnlyRootFilesystem"] is True
    (secret,) = [variable for variable in worker["extraEnvVars"] if variable["name"] == "COHORTLENS_PSEUDONYM_KEY"]
    assert secret.keys() == {"name", "valueFrom"} and "secretKeyRef" in secret["valueFrom"]
    assert worker["selfHostedServerApiConfig"]["basicAuth"].keys() == {"enabled", "existingSecret"}


def test_the_example_cohort_goes_to_the_gpu_scheduler() -> None:
    compute = load(INFRA / "kubernetes/cohort.yaml").compute
    assert compute.scheduler == "tcp://cohortlens-gpu-scheduler.cohortlens.svc.cluster.local:8786"
