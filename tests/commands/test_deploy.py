"""The files in deploy/: what they name is there, and programs that they are for take them."""

import json
import re
import signal
import subprocess
import sys
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from anyio import to_thread
from ruamel.yaml import YAML

from bridge.egress import _REFUSED
from bridge.secrets import Sources
from bridge.telemetry.metrics import Metrics, Standing
from bridge.toolfiles.loader import load_once
from bridge.toolfiles.settings_file import read_configuration
from bridge.toolfiles.watch.scan import Directories
from tests.commands.conftest import ROOT, Line
from tests.commands.in_process import serving_in_process
from tests.commands.processes import restbridge
from tests.commands.test_key import new, url_of
from tests.real_upstreams.processes import free_port, program, running
from tests.serving.served import Session, call

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus.rules.yaml"
PROMETHEUS = """
global: {{scrape_interval: 300ms, scrape_timeout: 300ms, evaluation_interval: 300ms}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: bridge
    authorization: {{credentials: "{key}"}}
    static_configs: [{{targets: ["{target}"]}}]
"""


@pytest.mark.anyio
async def test_every_metric_that_is_asked_for_is_there() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = set(re.findall(r"restbridge_\w+", " ".join([*asked, RULES.read_text()])))
    text, _ = await Metrics(dict, lambda: Standing({"good": 1}, "0" * 16)).exposition("")
    families = dict(re.findall(r"# TYPE (\w+) (\w+)", text.decode()))
    known = {
        name + suffix for name, kind in families.items() for suffix in ("", "_bucket" * (kind == "histogram"))
    }
    assert names
    assert names <= known


def test_what_the_manifest_says_to_the_bridge_is_right(tmp_path: Path) -> None:
    documents = YAML(typ="safe", pure=True).load_all((DEPLOY / "kubernetes/restbridge.yaml").read_text())
    maps = {each["metadata"]["name"]: each["data"] for each in documents if each["kind"] == "ConfigMap"}
    settings = tmp_path / "restbridge.yaml"
    tools = tmp_path / "tools.d"
    tools.mkdir()
    settings.write_text(maps["restbridge-settings"]["restbridge.yaml"])
    configuration = read_configuration(settings, Sources({}))
    for name, text in maps["restbridge-tools"].items():
        (tools / name).write_text(text)
    loaded = load_once(Directories((str(tools),)), Sources({}))
    found = {each.code for each in (*configuration.diagnostics, *loaded.diagnostics)}
    assert configuration.words
    assert found == {"unset-secret"}


def test_what_the_image_is_made_of_is_there() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert copied
    assert all((ROOT / path).exists() for paths in copied for path in paths)


def instructions(word: str) -> list[str]:
    """What the Dockerfile says after a word, with continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.partition(" ")[2] for line in text.splitlines() if line.startswith(f"{word} ")]


def test_the_image_refuses_to_start_without_a_settings_file(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RESTBRIDGE_CONFIG", raising=False)
    (entry,), (command,) = (map(json.loads, instructions(word)) for word in ("ENTRYPOINT", "CMD"))
    assert entry == ["restbridge"]
    code, _, err = line(*command)
    assert (code, "/etc/restbridge/restbridge.yaml:1:1: error: found no such file" in err) == (2, True)


def test_the_image_starts_from_what_can_be_pinned_and_runs_as_a_user_without_rights() -> None:
    (image,) = instructions("ARG")
    assert image.startswith("PYTHON_IMAGE=python:")
    assert [line.split()[0] for line in instructions("FROM")] == ["${PYTHON_IMAGE}"] * 2
    assert instructions("USER") == ["65532:65532"]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.anyio
@pytest.mark.usefixtures("tools")
async def test_the_image_is_healthy_while_the_bridge_answers() -> None:
    (words,) = instructions("HEALTHCHECK")
    _, *command = json.loads(words.partition("CMD ")[2])
    async with serving_in_process("--http", "0") as bridge:
        port = str(urlsplit((await bridge.says(r"http://\S+"))[0]).port)
        check = [sys.executable, *(word.replace("8000", port) for word in command)]
        assert (await anyio.run_process(check)).returncode == 0
    assert (await anyio.run_process(check, check=False)).returncode != 0


def pinned(path: Path) -> dict[str, str]:
    """Names with versions, and the hashes of each."""
    return dict(re.findall(r"^(\S+==\S+)[^\n]*?((?: \\\n +--hash=\S+)+)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "extras"), [("requirements.txt", {"fast", "otel"}), ("build-requirements.txt", None)]
)
def test_the_image_holds_what_was_tested_and_nothing_more(name: str, extras: set[str] | None) -> None:
    tested, image = pinned(ROOT / ".ci/requirements.txt"), pinned(DEPLOY / name)
    assert image.items() <= tested.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if extras is None:
        wanted = project["build-system"]["requires"]
    else:
        optional = project["project"]["optional-dependencies"]
        wanted = [
            *project["project"]["dependencies"],
            *(each for extra in extras for each in optional[extra]),
        ]
    found = {each.partition("==")[0] for each in image}
    assert names_of(wanted) <= found
    assert found.isdisjoint({"pytest", "mypy", "ruff", "coverage"})


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", each)[0].replace(".", "-") for each in requirements}


def test_the_network_policy_excludes_each_address_that_is_never_contacted() -> None:
    documents = YAML(typ="safe", pure=True).load_all((DEPLOY / "kubernetes/restbridge.yaml").read_text())
    (policy,) = (each["spec"] for each in documents if each["kind"] == "NetworkPolicy")
    dns, web = policy["egress"]
    assert all("podSelector" in each and "namespaceSelector" in each for each in dns["to"])
    excluded = [ip_network(each) for block in web["to"] for each in block["ipBlock"]["except"]]
    for network, _ in _REFUSED:
        assert any(
            network.network_address in each and network.prefixlen >= each.prefixlen for each in excluded
        )


@pytest.mark.anyio
async def test_a_prometheus_scrapes_a_bridge_and_knows_its_alerts(tools: Path, shop: str, line: Line) -> None:
    prometheus = program("prometheus")
    await to_thread.run_sync(
        lambda: subprocess.run(
            [program("promtool"), "check", "rules", RULES], check=True, capture_output=True
        )
    )
    key, entry = new(line, "--name", "prometheus", "--scope", "restbridge:metrics")
    settings = {"http": {"listen": 0}, "access": {"apiKeys": [entry]}}
    (tools.parent / "restbridge.yaml").write_text(json.dumps(settings))
    async with restbridge(
        "serve", "--config", "restbridge.yaml", cwd=tools.parent, env={"SHOP_API_URL": shop}
    ) as bridge:
        url = await url_of(bridge)
        async with httpx.AsyncClient(timeout=30, trust_env=False) as web:
            session = Session(web, url)
            session.headers["authorization"] = f"Bearer {key}"
            assert not (await session.ask_modern(call("list_products")))["result"]["isError"]
        target = url.removeprefix("http://").removesuffix("/mcp")
        port, config = free_port(), tools.parent / "prometheus.yml"
        config.write_text(PROMETHEUS.format(rules=RULES, key=key, target=target))
        with running(
            prometheus,
            f"--config.file={config}",
            f"--storage.tsdb.path={tools.parent / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            ready="Server is ready to receive web requests",
        ):
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False
            ) as asked:
                with anyio.fail_after(30):
                    while not (found := await query(asked, 'restbridge_calls_total{tool="list_products"}')):
                        pass
                    while not (rules := await rules_of(asked)) or {rule["health"] for rule in rules} != {
                        "ok"
                    }:
                        pass
        assert (found[0]["metric"]["outcome"], found[0]["value"][1]) == ("ok", "1")
        assert len(rules) == 12
        assert await bridge.ends(signal.SIGTERM) == 0


async def query(web: httpx.AsyncClient, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await web.get("/api/v1/query", params={"query": query})).json()["data"][
        "result"
    ]
    return found


async def rules_of(web: httpx.AsyncClient) -> list[dict[str, Any]]:
    groups = (await web.get("/api/v1/rules")).json()["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]
