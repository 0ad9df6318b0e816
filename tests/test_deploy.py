"""What lies in deploy/: it can be read, its commands are ours, and what it probes and draws is there."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving_fixtures import Client
from twotower.cli.main import imported
from twotower.retrieval.publishing import store_at
from twotower.serving.hosts import Hosts
from twotower.serving.routes import ENDPOINTS

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
YAMLS = sorted([*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")])
BOARD = DEPLOY / "grafana" / "dashboards" / "twotower.json"


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def containers() -> Iterator[dict[str, Any]]:
    """Every container of the manifests."""
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for one in documents(path):
            yield from one.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])


def commands() -> Iterator[list[str]]:
    """Every command that an image of ours runs."""
    for one in documents(DEPLOY / "compose.yaml")[0]["services"].values():
        if one["image"] == "twotower":
            yield one["command"]
    for one in containers():
        if one["image"] == "twotower":
            yield one["args"]
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    yield json.loads(next(line for line in lines if line.startswith("CMD ")).removeprefix("CMD "))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_every_file_can_be_read(path: Path) -> None:
    assert documents(path)


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_manifests_have_the_schema_of_kubernetes(version: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    objects = [one for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for one in documents(path)]
    kinds = {one["kind"] for one in objects if one["kind"] != "Kustomization"}  # of a tool, not of the server
    assert {"Deployment", "StatefulSet", "Service", "Job"} <= kinds
    for one in objects:
        if one["kind"] in kinds:
            kubernetes.validate(one, version, strict=True)
    wrong = copy.deepcopy(next(one for one in objects if one["kind"] == "Deployment"))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes.ValidationError, match="livenessprobe"):
        kubernetes.validate(wrong, version, strict=True)


def test_the_proxy_is_given_directives_of_nginx_where_they_are_allowed(tmp_path: Path) -> None:
    crossplane = pytest.importorskip("crossplane")
    whole = tmp_path / "nginx.conf"  # the image's own file includes ours in its http block
    whole.write_text(f"events {{}}\nhttp {{ include {DEPLOY / 'nginx.conf'}; }}\n")
    found = crossplane.parse(str(whole), strict=True)
    assert found["errors"] == []
    assert "proxy_next_upstream" in json.dumps(found["config"][1])  # it was read, not only named


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_is_one_of_ours(words: list[str]) -> None:
    context = imported(words[0]).make_context(words[0], list(words[1:]))
    if store := context.params.get("store"):
        store_at(store)


@pytest.mark.parametrize(
    ("served", "names"),
    [
        (
            documents(DEPLOY / "compose.yaml")[0]["services"]["serve"]["command"],
            ["serve:8000", "proxy:8080", "localhost:8080"],
        ),
        (
            next(one["args"] for one in containers() if one["args"][0] == "serve"),
            ["twotower", "twotower.shop.svc.cluster.local", "10.1.2.3:8000"],
        ),
    ],
    ids=["compose", "kubernetes"],
)
def test_a_service_answers_to_the_names_that_it_is_called_by(served: list[str], names: list[str]) -> None:
    given = imported("serve").make_context("serve", served[1:]).params
    allowed = [name.replace("${SERVER_NAME:-localhost}", "localhost") for name in given["allowed_host"]]
    hosts = Hosts.listening_at(given["host"], allowed)
    assert [name for name in names if not hosts.allow(name)] == []
    assert not hosts.allow("evil.example")


def test_a_command_that_is_not_would_be_noticed() -> None:
    with pytest.raises(Exception, match="No such option: --wrokers"):
        imported("serve").make_context("serve", ["x", "--wrokers", "2"])


def test_the_service_has_every_metric_that_is_drawn_or_alerts(
    saved_bundle: Path, client_of: Callable[..., Client]
) -> None:
    client = client_of(saved_bundle)
    client.post("/v1/recommend", json={"query": {"user": 3}})
    there = set(re.findall(r"^(twotower_\w+?)(?:\{| )", client.get("/metrics").text, re.MULTILINE))
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    drawn = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    alerts = [rule["expr"] for group in documents(DEPLOY / "alerts.yml")[0]["groups"] for rule in group["rules"]]
    named = {name for text in [*drawn, *alerts] for name in re.findall(r"twotower_\w+", text)}
    assert named
    assert named <= there
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {
        documents(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")[0]["datasources"][0]["uid"]
    }


def test_probes_ask_what_the_service_answers_without_a_token() -> None:
    open_paths = {endpoint.path for endpoint in ENDPOINTS if not endpoint.guarded}
    text = (DEPLOY / "compose.yaml").read_text()
    probed = set(re.findall(r"/v2/[\w/]+", text))
    for container in containers():
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if asked := container.get(probe, {}).get("httpGet"):
                probed.add(asked["path"])
                assert ports[asked["port"]] == 8000
    assert {"/v2/health/live", "/v2/health/ready"} <= probed <= open_paths


def test_what_manifests_refer_to_is_there() -> None:
    everything = [one for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for one in documents(path)]
    kustomization = next(one for one in everything if one["kind"] == "Kustomization")
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    claims = {one["metadata"]["name"] for one in everything if one["kind"] == "PersistentVolumeClaim"}
    for one in everything:
        pod = one.get("spec", {}).get("template", {}).get("spec", {})
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        assert {
            own["persistentVolumeClaim"]["claimName"] for own in volumes.values() if "persistentVolumeClaim" in own
        } <= claims
        templates = {claim["metadata"]["name"] for claim in one.get("spec", {}).get("volumeClaimTemplates", [])}
        for container in pod.get("containers", []):
            assert {mount["name"] for mount in container["volumeMounts"]} <= {*volumes, *templates}
        if one["kind"] in ("Deployment", "StatefulSet"):
            assert one["spec"]["selector"]["matchLabels"] == one["spec"]["template"]["metadata"]["labels"]


def test_what_compose_mounts_and_names_is_there() -> None:
    compose = documents(DEPLOY / "compose.yaml")[0]
    for service in compose["services"].values():
        for secret in service.get("secrets", []):
            assert secret in compose["secrets"]
        for needed in service.get("depends_on", []):
            assert needed in compose["services"]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            is_there = (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"]
            assert is_there or source == "../bundles"  # which the user makes
    scraped = documents(DEPLOY / "prometheus.yml")[0]["scrape_configs"][0]["dns_sd_configs"][0]
    assert scraped["names"][0] in compose["services"]
    assert f"server {scraped['names'][0]}:{scraped['port']}" in (DEPLOY / "nginx.conf").read_text()


def test_the_image_copies_and_installs_what_there_is() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
    found = re.search(r"EXTRAS=(\S+)", text)
    assert found is not None
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(found[1].split(",")) <= set(extras)


def test_no_file_holds_a_secret() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"postgresql://[^@/\s]+:[^@/\s]+@", text), path
            assert not re.search(r"(?i)(password|token): +[\w-]+$", text, re.MULTILINE), path
