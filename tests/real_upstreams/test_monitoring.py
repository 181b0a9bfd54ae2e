"""Prometheus scrapes itself and a target that is gone; its alert goes to an Alertmanager behind mutual TLS."""

import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mcp_types import TextContent

from tests.real_upstreams.processes import HERE, Bridge, free_port, over_stdio, program, running

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PASSWORD = "watch-the-watchers"
BCRYPT = "$2b$04$abcdefghijklmnopqrstuudFlWukOjSf1Nj8h3WXBsS3.WacAp2Hu"

PROMETHEUS = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
alerting:
  alertmanagers:
    - scheme: https
      basic_auth: {{username: bridge, password: {password}}}
      tls_config: {{ca_file: ca.pem, cert_file: client.pem, key_file: client.key}}
      static_configs: [{{targets: ["127.0.0.1:{alertmanager}"]}}]
scrape_configs:
  - job_name: prometheus
    metrics_path: /prometheus/metrics
    static_configs: [{{targets: ["127.0.0.1:{prometheus}"], labels: {{instance: own}}}}]
  - job_name: gone
    static_configs: [{{targets: ["127.0.0.1:1"], labels: {{instance: old}}}}]
"""

# It fires when both targets have been scraped.
RULES = """
groups:
  - name: targets
    rules:
      - alert: TargetDown
        expr: up{job="gone"} == 0 and on() up{job="prometheus"} == 1
        labels: {severity: critical}
        annotations: {summary: "{{ $labels.instance }} does not answer"}
"""

ALERTMANAGER = """
route: {{receiver: test, group_wait: 0s}}
receivers: [{{name: test, webhook_configs: [{{url: "http://127.0.0.1:{webhook}/"}}]}}]
"""

WEB = f"""
basic_auth_users: {{bridge: "{BCRYPT}"}}
tls_server_config:
  cert_file: server.pem
  key_file: server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.pem
"""


@dataclass(frozen=True)
class Monitoring:
    """Where the two servers are, and the folder of their certificates."""

    prometheus: int
    alertmanager: int
    folder: Path


@pytest.fixture(scope="module")
def monitoring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitoring]:
    prometheus, alertmanager = program("prometheus"), program("prometheus-alertmanager")
    place = Monitoring(free_port(), free_port(), tmp_path_factory.mktemp("monitoring"))
    make_certificates(place.folder)
    with first_notification() as (webhook, notified):
        ports = {"prometheus": place.prometheus, "alertmanager": place.alertmanager, "webhook": webhook}
        write(place.folder / "prometheus.yml", PROMETHEUS.format(**ports, password=PASSWORD))
        write(place.folder / "rules.yml", RULES)
        write(place.folder / "alertmanager.yml", ALERTMANAGER.format(**ports))
        write(place.folder / "web.yml", WEB)
        with (
            running(
                alertmanager,
                f"--config.file={place.folder / 'alertmanager.yml'}",
                f"--storage.path={place.folder / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{place.alertmanager}",
                f"--web.config.file={place.folder / 'web.yml'}",
                "--cluster.listen-address=",
                ready="Listening on",
            ),
            running(
                prometheus,
                f"--config.file={place.folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={place.folder / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{place.prometheus}",
                f"--web.external-url=http://127.0.0.1:{place.prometheus}/prometheus",
                ready="Server is ready to receive web requests",
            ),
        ):
            assert notified.wait(60), "no alert came through"
            yield place


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def make_certificates(folder: Path) -> None:
    """An authority, and a certificate of it for the server and for the client."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
    new = (program("openssl"), "req", "-x509", "-days", "2", *key)
    authority = ("-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    quietly(folder, *new, *authority, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for name in ("server", "client"):
        names = ("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
        uses = (
            "basicConstraints=critical,CA:FALSE",
            "subjectAltName=IP:127.0.0.1",
            f"extendedKeyUsage={name}Auth",
        )
        extensions = [word for use in uses for word in ("-addext", use)]
        quietly(folder, *new, "-CA", "ca.pem", "-CAkey", "ca.key", *names, *extensions)


def quietly(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@contextmanager
def first_notification() -> Iterator[tuple[int, threading.Event]]:
    """A webhook's port, and the event of its first call: an alert went all the way."""
    notified = threading.Event()

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            notified.set()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Not on the tests' stderr."""

    with HTTPServer(("127.0.0.1", 0), Webhook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, notified
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
async def prometheus(
    monitoring: Monitoring, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bridge]:
    log = tmp_path_factory.mktemp("bridge") / "log"
    url = f"http://127.0.0.1:{monitoring.prometheus}/prometheus"
    async with over_stdio(HERE / "prometheus", log, {"PROMETHEUS_URL": url}) as bridge:
        yield bridge


def credentials(monitoring: Monitoring) -> dict[str, str]:
    return {
        "ALERTMANAGER_URL": f"https://127.0.0.1:{monitoring.alertmanager}",
        "ALERTMANAGER_PASSWORD": PASSWORD,
        "ALERTMANAGER_CA": str(monitoring.folder / "ca.pem"),
        "ALERTMANAGER_CERT": str(monitoring.folder / "client.pem"),
        "ALERTMANAGER_KEY": str(monitoring.folder / "client.key"),
    }


@pytest.fixture(scope="module")
async def alertmanager(
    monitoring: Monitoring, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bridge]:
    log = tmp_path_factory.mktemp("bridge") / "log"
    async with over_stdio(HERE / "alertmanager", log, credentials(monitoring), mode="legacy") as bridge:
        yield bridge


# --- Prometheus ---

UP_OWN = {"__name__": "up", "instance": "own", "job": "prometheus"}
UP_OLD = {"__name__": "up", "instance": "old", "job": "gone"}


async def test_an_instant_query_keeps_the_braces_of_promql(prometheus: Bridge) -> None:
    result = await prometheus.json(
        "query_metrics", query='up{job=~"prom.+",instance!="{own}"} + 1', time="2100"
    )
    assert result == {"type": "vector", "result": []}
    now = int(time.time())
    result = await prometheus.json("query_metrics", query='up{job="gone"}', time=str(now + 2))
    assert result == {"type": "vector", "result": [{"metric": UP_OLD, "value": [now + 2, "0"]}]}


async def test_a_query_arrives_with_every_sign_it_has(prometheus: Bridge) -> None:
    text = "a b+c%20&query=1;#?/é☃\\n"
    query = f"label_replace(vector(1), 'x', '{text}', '', '')"
    result = await prometheus.json("query_metrics", query=query, time="1.5")
    assert result["result"] == [{"metric": {"x": "a b+c%20&query=1;#?/é☃\n"}, "value": [1.5, "1"]}]


async def test_a_scalar_is_given_as_it_is(prometheus: Bridge) -> None:
    assert await prometheus.json("query_metrics", query="1 / 3", time="7") == {
        "type": "scalar",
        "result": [7, "0.3333333333333333"],
    }


async def test_a_range_query_goes_as_a_form_with_its_default_step(prometheus: Bridge) -> None:
    now = int(time.time())
    query = 'sum by (job) (up{job="prometheus"} or up{instance=~"o{1}wn"})'
    result = await prometheus.json("query_metrics_range", query=query, start=now + 1, end=now + 2, step="1s")
    assert result == [{"labels": {"job": "prometheus"}, "values": [[now + 1, "1"], [now + 2, "1"]]}]
    result = await prometheus.json("query_metrics_range", query="vector(1)", start="0", end=150.5)
    assert result == [{"labels": {}, "values": [[0, "1"], [60, "1"], [120, "1"]]}]


async def test_a_mistake_in_promql_comes_back_in_prometheus_own_words(prometheus: Bridge) -> None:
    code, text = await prometheus.error("query_metrics", query="sum(up{")
    assert code == "http-400"
    assert text.startswith("Prometheus cannot evaluate this query. Fix the expression and try again.")
    assert "unexpected end of input inside braces" in text
    code, text = await prometheus.error("query_metrics", query="up * on(job) up{} * on() {__name__=~'.+'}")
    assert code == "http-422"
    assert text.startswith("The query is valid, but cannot be carried out.")


async def test_series_are_found_by_repeated_selectors(prometheus: Bridge) -> None:
    series = await prometheus.json("find_series", selectors=['up{job="gone"}', 'up{instance="own"}'])
    assert sorted(series, key=str) == [UP_OLD, UP_OWN]
    assert await prometheus.json("find_series", selectors=["up"], start="0", end="1") == []


async def test_label_values_come_as_structured_content(prometheus: Bridge) -> None:
    result = await prometheus.call("list_label_values", label="job")
    assert result.structured_content == {"result": ["gone", "prometheus"]}
    assert await prometheus.json("list_label_values", label="job", selectors=['{instance="own"}']) == {
        "result": ["prometheus"]
    }


async def test_an_argument_stands_inside_promql(prometheus: Bridge) -> None:
    assert await prometheus.json("check_service", job="gone") == {"result": [{"instance": "old", "up": 0}]}
    assert await prometheus.json("check_service", job="prometheus") == {
        "result": [{"instance": "own", "up": 1}]
    }
    assert await prometheus.json("check_service", job="no such job") == {"result": []}


async def test_an_argument_cannot_become_promql(prometheus: Bridge) -> None:
    code, text = await prometheus.error("check_service", job='x"} or up{job=~".+')
    assert code == "invalid-arguments"
    assert "job" in text


async def test_firing_alerts_are_listed(prometheus: Bridge) -> None:
    (alert,) = await prometheus.json("list_firing_alerts")
    assert alert.pop("since")
    assert alert == {
        "name": "TargetDown",
        "labels": {"alertname": "TargetDown", "instance": "old", "job": "gone", "severity": "critical"},
        "summary": "old does not answer",
    }


async def test_targets_are_listed_with_what_is_wrong(prometheus: Bridge) -> None:
    old, own = sorted(await prometheus.json("list_targets"), key=lambda target: str(target["instance"]))
    assert own == {"job": "prometheus", "instance": "own", "health": "up", "error": ""}
    assert (old["health"], "connection refused" in old["error"]) == ("down", True)
    assert await prometheus.json("list_targets", state="dropped") == []
    code, text = await prometheus.error("list_targets", state="lost")
    assert code == "invalid-arguments"
    assert "active" in text


async def test_a_metric_is_described(prometheus: Bridge) -> None:
    described = await prometheus.json("describe_metric", metric="go_goroutines")
    assert described == {"type": "gauge", "help": "Number of goroutines that currently exist."}
    nothing, doubt = (await prometheus.call("describe_metric", metric="no_such_metric")).content
    assert isinstance(nothing, TextContent)
    assert nothing.text == "null"
    assert isinstance(doubt, TextContent)
    assert doubt.text.endswith("found nothing but null in the reply.")


async def test_plain_text_is_given_as_text(prometheus: Bridge) -> None:
    assert await prometheus.text("prometheus_ready") == "Prometheus Server is Ready.\n"


async def test_a_result_has_the_structure_that_was_promised(prometheus: Bridge) -> None:
    version = (await prometheus.call("prometheus_version")).structured_content
    assert version
    assert version.keys() == {"version", "go"}


async def test_a_reading_post_is_told_as_such(prometheus: Bridge) -> None:
    tools = {tool.name: tool for tool in (await prometheus.client.list_tools()).tools}
    hints = tools["query_metrics_range"].annotations
    assert hints
    assert (hints.read_only_hint, hints.idempotent_hint, hints.destructive_hint) == (True, True, False)
    assert len(tools) == 10


# --- Alertmanager ---


def silence(*names: str, ends_at: str = "2100-01-01T00:00:00Z") -> dict[str, object]:
    matchers = [{"name": "instance", "value": name, "isRegex": False} for name in names]
    return {"matchers": matchers, "ends_at": ends_at, "comment": "Old “box” {job} is off"}


async def test_alerts_are_listed_by_repeated_matchers(alertmanager: Bridge) -> None:
    (alert,) = await alertmanager.json("list_alerts", matchers=['severity="critical"', "job=~g.ne"])
    assert (alert["name"], alert["summary"]) == ("TargetDown", "old does not answer")
    assert await alertmanager.json("list_alerts", matchers=["severity=critical", "job!=gone"]) == []


async def test_a_wrong_matcher_comes_back_in_alertmanagers_own_words(alertmanager: Bridge) -> None:
    code, text = await alertmanager.error("list_alerts", matchers=["nope"])
    assert code == "http-400"
    assert text.startswith("A matcher is not valid. Write name=value")
    assert "bad matcher format: nope" in text


async def test_a_silence_is_created_read_and_deleted(alertmanager: Bridge) -> None:
    created = await alertmanager.json("create_silence", **silence("old"), created_by="Ann")
    identity = created["id"]
    (alert,) = await alertmanager.json("list_alerts", matchers=["alertname=TargetDown"])
    assert (alert["state"], alert["silencedBy"]) == ("suppressed", [identity])
    assert await alertmanager.json("list_alerts", matchers=["alertname=TargetDown"], silenced=False) == []
    expected = {
        "id": identity,
        "state": "active",
        "matchers": [{"name": "instance", "value": "old", "isRegex": False, "isEqual": True}],
        "until": "2100-01-01T00:00:00.000Z",
        "by": "Ann (restbridge)",
        "comment": "Old “box” {job} is off",
    }
    assert await alertmanager.json("get_silence", id=identity) == expected
    assert await alertmanager.json("list_silences", matchers=['instance="old"']) == [expected]

    assert "200" in await alertmanager.text("delete_silence", id=identity)
    ended = await alertmanager.json("get_silence", id=identity)
    assert (ended["state"], ended["until"] < expected["until"]) == ("expired", True)
    (alert,) = await alertmanager.json("list_alerts", matchers=["alertname=TargetDown"])
    assert alert["state"] == "active"


async def test_a_tool_answers_to_its_old_name(alertmanager: Bridge) -> None:
    identity = (await alertmanager.json("create_silence", **silence("other")))["id"]
    assert "200" in await alertmanager.text("expire_silence", id=identity)
    assert "expire_silence" not in {tool.name for tool in (await alertmanager.client.list_tools()).tools}


async def test_a_silence_that_is_not_there_is_said_to_be_so(alertmanager: Bridge) -> None:
    code, text = await alertmanager.error("get_silence", id="00000000-0000-0000-0000-000000000000")
    assert code == "http-404"
    assert text.startswith("There is no silence with this id. Look it up with list_silences.")
    code, text = await alertmanager.error("delete_silence", id="nope")
    assert code == "http-422"
    assert "silenceID in path must be of type uuid" in text


async def test_a_silence_that_cannot_be_is_refused_before_and_by_alertmanager(alertmanager: Bridge) -> None:
    code, text = await alertmanager.error("create_silence", **silence())
    assert (code, "matchers" in text) == ("invalid-arguments", True)
    code, text = await alertmanager.error("create_silence", **silence("old", ends_at="tomorrow"))
    assert (code, "ends_at" in text) == ("invalid-arguments", True)
    code, text = await alertmanager.error("create_silence", **silence("old", ends_at="2001-01-01T00:00:00Z"))
    assert code == "http-400"
    assert "start time must be before end time" in text


async def test_a_list_is_the_whole_body(alertmanager: Bridge) -> None:
    labels = {"alertname": "ByHand", "ünïcode": "no"}
    code, text = await alertmanager.error("post_alerts", alerts=[{"labels": labels}])
    assert (code, "invalid label" in text) == ("http-400", True)
    alerts = [
        {"labels": {"alertname": "ByHand", "n": str(n)}, "annotations": {"summary": "«½»"}} for n in range(3)
    ]
    assert "200" in await alertmanager.text("post_alerts", alerts=alerts)
    listed = await alertmanager.json("list_alerts", matchers=["alertname=ByHand"])
    assert sorted((alert["labels"]["n"], alert["summary"]) for alert in listed) == [
        (str(n), "«½»") for n in range(3)
    ]


async def test_the_status_is_read(alertmanager: Bridge) -> None:
    status = await alertmanager.json("alertmanager_status")
    assert (status.keys(), status["cluster"]) == ({"version", "started", "cluster"}, "disabled")


async def test_what_keeps_the_bridge_out_is_named(monitoring: Monitoring, tmp_path: Path) -> None:
    folder, port = monitoring.folder, monitoring.alertmanager
    wrong = {
        "http-401": {"ALERTMANAGER_PASSWORD": "mistyped-password"},
        "tls-untrusted": {"ALERTMANAGER_CA": f"{folder}/client.pem"},
        "tls-name": {"ALERTMANAGER_URL": f"https://localhost:{port}"},
        "http-400": {"ALERTMANAGER_URL": f"http://127.0.0.1:{port}"},
        "connect-refused": {"ALERTMANAGER_URL": "https://127.0.0.1:1"},
    }

    tools, env = tmp_path / "tools", {}
    tools.mkdir()
    for number, changed in enumerate(wrong.values()):
        for kind in (".upstream", "_status"):
            text = (HERE / f"alertmanager/alertmanager{kind}.yaml").read_text(encoding="utf-8")
            text = text.replace("upstream: alertmanager", f"upstream: n{number}")
            write(tools / f"n{number}{kind}.yaml", text.replace("ALERTMANAGER_", f"N{number}_"))
        for name, value in (credentials(monitoring) | changed).items():
            env[name.replace("ALERTMANAGER_", f"N{number}_")] = value
    async with over_stdio(tools, tmp_path / "log", env) as bridge:
        for number, expected in enumerate(wrong):
            code, text = await bridge.error(f"n{number}_status")
            assert code == expected
            assert "assword" not in text
    assert "assword" not in (tmp_path / "log").read_text(encoding="utf-8")
