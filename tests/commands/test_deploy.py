"""The files in deploy/: what they name is there, and programs that they are for take them."""

import json
import re
import signal
import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
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
from bridge.errors import CODES
from bridge.events import NOT_MADE
from bridge.secrets import Sources
from bridge.telemetry.metrics import Metrics, StatusGauges
from bridge.toolfiles.loader import load_once
from bridge.toolfiles.place import Directories
from bridge.toolfiles.settings_file import read_settings_file
from tests.commands.conftest import ROOT, Line
from tests.commands.in_process import serving_in_process
from tests.commands.processes import restbridge
from tests.commands.test_key import new, url_of
from tests.real_upstreams.processes import free_port, program, running
from tests.serving.messages import call
from tests.serving.session import Session

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
async def test_every_metric_in_rules_and_dashboards_exists() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = set(re.findall(r"restbridge_\w+", " ".join([*asked, RULES.read_text()])))
    text, _ = await Metrics(dict, lambda: StatusGauges({"good": 1}, "0" * 16)).exposition("")
    families = dict(re.findall(r"# TYPE (\w+) (\w+)", text.decode()))
    known = {
        name + suffix for name, kind in families.items() for suffix in ("", "_bucket" * (kind == "histogram"))
    }
    assert names
    assert names <= known


def test_outcomes_that_raise_no_alert_are_codes_of_calls() -> None:
    match = re.search(r'outcome!~"([^"]+)\|http-4', RULES.read_text())
    assert match
    assert set(match[1].split("|")) - {"ok", "cancelled"} <= CODES.keys() | NOT_MADE


def test_the_command_and_settings_in_the_manifest_are_valid(tmp_path: Path) -> None:
    documents = YAML(typ="safe", pure=True).load_all((DEPLOY / "kubernetes/restbridge.yaml").read_text())
    maps = {each["metadata"]["name"]: each["data"] for each in documents if each["kind"] == "ConfigMap"}
    settings = tmp_path / "restbridge.yaml"
    tools = tmp_path / "tools.d"
    tools.mkdir()
    settings.write_text(maps["restbridge-settings"]["restbridge.yaml"])
    configuration = read_settings_file(settings, Sources({}))
    for name, text in maps["restbridge-tools"].items():
        (tools / name).write_text(text)
    loaded = load_once(Directories((str(tools),)), Sources({}))
    found = {each.code for each in (*configuration.diagnostics, *loaded.diagnostics)}
    assert configuration.settings
    assert found == {"unset-secret"}


def test_the_image_is_built_from_all_that_the_wheel_holds() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    copied = {path for paths in copies for path in paths}
    assert all((ROOT / path).exists() for path in copied)
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*wheel["packages"], *wheel["force-include"]} <= copied
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    sent = [line[1:] for line in ignored if line.startswith("!")]
    assert all(any(fnmatchcase(path, pattern) for pattern in sent) for path in copied)


@pytest.mark.slow
def test_systemd_reads_the_units(tmp_path: Path) -> None:
    text = (DEPLOY / "restbridge.service").read_text()
    assert (
        "\nExecStart=/opt/restbridge/bin/restbridge serve --config /etc/restbridge/restbridge.yaml\n" in text
    )
    unit = tmp_path / "restbridge.service"
    unit.write_text(text.replace("/opt/restbridge/bin/restbridge", "/bin/true"))
    port = tmp_path / "restbridge.socket"
    port.write_text((DEPLOY / "restbridge.socket").read_text())
    done = subprocess.run(
        [program("systemd-analyze"), "verify", unit, port], check=True, capture_output=True, text=True
    )
    assert str(tmp_path) not in done.stderr


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


def test_the_image_has_pinned_bases_and_an_unprivileged_user() -> None:
    (image,) = instructions("ARG")
    assert image.startswith("PYTHON_IMAGE=python:")
    assert [line.split()[0] for line in instructions("FROM")] == ["${PYTHON_IMAGE}"] * 2
    assert instructions("USER") == ["65532:65532"]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.usefixtures("tools")
async def test_the_image_is_healthy_while_the_bridge_answers() -> None:
    (words,) = instructions("HEALTHCHECK")
    _, *command = json.loads(words.partition("CMD ")[2])
    async with serving_in_process("--http", "0") as bridge:
        port = str(urlsplit((await bridge.wait_for_log(r"http://\S+"))[0]).port)
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


@pytest.mark.slow
@pytest.mark.anyio
async def test_prometheus_scrapes_the_bridge_and_loads_the_alerts(tools: Path, shop: str, line: Line) -> None:
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
        assert len(rules) == 15
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0


async def query(web: httpx.AsyncClient, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await web.get("/api/v1/query", params={"query": query})).json()["data"][
        "result"
    ]
    return found


async def rules_of(web: httpx.AsyncClient) -> list[dict[str, Any]]:
    groups = (await web.get("/api/v1/rules")).json()["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]
