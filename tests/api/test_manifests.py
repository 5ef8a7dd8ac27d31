"""The manifests of docs/deploy against the types of Kubernetes' own API: no unknown field, none missing, no odd one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.api
FOLDER = Path(__file__).parents[2] / "docs" / "deploy"
#: Of KubeRay's `RayCluster`, whose types are in no Python package: field -> what is in it.
RAY: dict[str, Any] = {
    "rayVersion": str,
    "authOptions": {"mode": str},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"idleTimeoutSeconds": int},
    "headGroupSpec": {"rayStartParams": "dict(str, str)", "template": "V1PodTemplateSpec"},
    "workerGroupSpecs": [
        {
            "groupName": str,
            "replicas": int,
            "minReplicas": int,
            "maxReplicas": int,
            "rayStartParams": "dict(str, str)",
            "template": "V1PodTemplateSpec",
        }
    ],
}
PLAIN = {"str": str, "int": int, "bool": bool, "float": float, "object": object, "datetime": str}


def troubles(value: Any, kind: str, at: str) -> Iterator[str]:
    """What a value has that its type of the API does not know, or lacks."""
    client = pytest.importorskip("kubernetes.client", reason="kubernetes is not installed (`make test-api`)")
    within = re.fullmatch(r"(list\[|dict\(str, )(.+)[\])]", kind)
    if within is not None:
        wanted = list if kind.startswith("list") else dict
        if not isinstance(value, wanted):
            yield f"{at}: is no {wanted.__name__}"
            return
        for key, each in enumerate(value) if isinstance(value, list) else value.items():
            yield from troubles(each, within[2], f"{at}[{key}]")
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]) or (isinstance(value, bool) and kind not in ("bool", "object")):
            yield f"{at}: {value!r} is no {kind}"
    elif not isinstance(value, dict):
        yield f"{at}: {value!r} is no {kind}"
    else:
        model = getattr(client, kind)
        names = {outside: inside for inside, outside in model.attribute_map.items()}
        for key, each in value.items():
            if key in names:
                yield from troubles(each, model.openapi_types[names[key]], f"{at}.{key}")
            else:
                yield f"{at}: {kind} has no field {key}"
        try:
            model(**{names[key]: each for key, each in value.items() if key in names})
        except ValueError as error:
            yield f"{at}: {error}"


def ray_troubles(value: Any, known: Any, at: str) -> Iterator[str]:
    if isinstance(known, str):
        yield from troubles(value, known, at)
    elif isinstance(known, list):
        for number, each in enumerate(value):
            yield from ray_troubles(each, known[0], f"{at}[{number}]")
    elif isinstance(known, dict):
        for key, each in value.items():
            if key in known:
                yield from ray_troubles(each, known[key], f"{at}.{key}")
            else:
                yield f"{at}: there is no field {key}"
    elif type(value) is not known:
        yield f"{at}: {value!r} is no {known.__name__}"


KINDS = {
    ("v1", "PersistentVolumeClaim"): "V1PersistentVolumeClaim",
    ("v1", "Service"): "V1Service",
    ("networking.k8s.io/v1", "Ingress"): "V1Ingress",
    ("networking.k8s.io/v1", "NetworkPolicy"): "V1NetworkPolicy",
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_manifest_is_what_the_api_takes(path: Path) -> None:
    found = list(yaml.safe_load_all(path.read_text()))
    assert found
    for each in found:
        kind = (each["apiVersion"], each["kind"])
        if kind == ("ray.io/v1", "RayCluster"):
            assert list(ray_troubles(each["spec"], RAY, "spec")) == []
            assert list(troubles(each["metadata"], "V1ObjectMeta", "metadata")) == []
        else:
            assert list(troubles(each, KINDS[kind], each["kind"])) == []


def test_parts_of_the_manifests_find_each_other() -> None:
    pool = {each["kind"]: each for each in yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text())}
    door = {each["kind"]: each for each in yaml.safe_load_all((FOLDER / "ingress.yaml").read_text())}
    service, cluster = pool["Service"], pool["RayCluster"]
    backend = door["Ingress"]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend["name"] == service["metadata"]["name"]
    assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
    assert service["spec"]["selector"]["ray.io/cluster"] == cluster["metadata"]["name"]
    assert door["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == {
        "ray.io/cluster": cluster["metadata"]["name"]
    }
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    claims = {each["persistentVolumeClaim"]["claimName"] for each in head["volumes"] if "persistentVolumeClaim" in each}
    assert claims == {pool["PersistentVolumeClaim"]["metadata"]["name"]}
    volumes = {each["name"] for each in head["volumes"]}
    for container in head["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_what_is_wrong_is_found() -> None:
    for broken, why in (
        ({"metadata": {"nam": "x"}}, "no field nam"),
        ({"spec": {"ports": [{"name": "http"}]}}, "port"),
        ({"spec": {"ports": [{"port": "8700"}]}}, "is no int"),
        ({"spec": {"selector": []}}, "is no dict"),
    ):
        assert any(why in each for each in troubles(broken, "V1Service", "Service")), broken


def test_ray_on_kubernetes_is_started_as_everywhere_else() -> None:
    """What docs/deploy/ray.md says is to be set, in the words of KubeRay."""
    pool = {each["kind"]: each for each in yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text())}
    cluster = pool["RayCluster"]
    spec = cluster["spec"]
    head, *workers = spec["headGroupSpec"], *spec["workerGroupSpecs"]
    assert spec["authOptions"]["mode"] == "token"
    assert head["rayStartParams"]["num-gpus"] == "0"
    for group in (head, *workers):
        # Ray's container is the first one of its pod.
        ray = group["template"]["spec"]["containers"][0]
        environ = {each["name"]: each.get("value") for each in ray["env"]}
        assert float(environ["RAY_gcs_rpc_server_reconnect_timeout_s"]) >= 600
        assert environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert environ["RAY_health_check_timeout_ms"] == "3000"
        assert group["rayStartParams"]["num-cpus"] == "0"
        assert int(group["rayStartParams"]["object-store-memory"]) <= 2**30
        # The operator reads from these how many GPUs there are.
        limits = ray["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) is (group is not head)
        assert all(worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"] for worker in workers)
    # The service finds the operator's token: its secret is called as the cluster, with this key.
    service = head["template"]["spec"]["containers"][1]
    token = next(each for each in service["env"] if each["name"] == "RAY_AUTH_TOKEN")
    assert token["valueFrom"]["secretKeyRef"] == {"name": cluster["metadata"]["name"], "key": "auth_token"}
    assert {"name": "RAY_AUTH_MODE", "value": "token"} in service["env"]
