"""The files in deploy/: what they name is there, and programs that they are for take them."""

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio import to_thread

from bridge.server.metrics import Metrics
from tests.commands.conftest import ROOT, Line
from tests.commands.processes import restbridge
from tests.commands.test_key import new, url_of
from tests.real_upstreams.processes import free_port, program, running
from tests.server.support import Session, call

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus.rules.yaml"
PROMETHEUS = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: bridge
    authorization: {{credentials: "{key}"}}
    static_configs: [{{targets: ["{target}"]}}]
"""


def test_every_metric_that_is_asked_for_is_there() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = set(re.findall(r"restbridge_\w+", " ".join([*asked, RULES.read_text()])))
    text, _ = Metrics(dict).exposition("")
    families = dict(re.findall(r"# TYPE (\w+) (\w+)", text.decode()))
    known = {
        name + suffix for name, kind in families.items() for suffix in ("", "_bucket" * (kind == "histogram"))
    }
    assert names
    assert names <= known


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
        async with httpx.AsyncClient(trust_env=False) as web:
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
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as asked:
                with anyio.fail_after(30):
                    while not (found := await query(asked, 'restbridge_calls_total{tool="list_products"}')):
                        pass
                    while not (rules := await rules_of(asked)) or {rule["health"] for rule in rules} != {
                        "ok"
                    }:
                        pass
        assert (found[0]["metric"]["outcome"], found[0]["value"][1]) == ("ok", "1")
        assert len(rules) == 5
        assert await bridge.ends(signal.SIGTERM) == 0


async def query(web: httpx.AsyncClient, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await web.get("/api/v1/query", params={"query": query})).json()["data"][
        "result"
    ]
    return found


async def rules_of(web: httpx.AsyncClient) -> list[dict[str, Any]]:
    groups = (await web.get("/api/v1/rules")).json()["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]
