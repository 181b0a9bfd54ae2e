import re
from pathlib import Path

import anyio
import pytest
from prometheus_client import values

from bridge.events import (
    AuditWritten,
    CallFinished,
    CallStarted,
    CircuitChanged,
    HandshakeRefused,
    QuotaKind,
    RequestRefused,
    RequestRetried,
    SnapshotReplaced,
    TokenRequested,
)
from bridge.telemetry.metrics import SHARED, Metrics, StatusGauges, forget

pytestmark = pytest.mark.anyio

FILES = StatusGauges({}, "0" * 16)
USAGE: dict[QuotaKind, int] = {"calls": 1, "streams": 3, "results": 4}


async def figures(metrics: Metrics) -> dict[str, float]:
    """Every figure of ours by its name and labels."""
    text, media_type = await metrics.exposition("")
    assert media_type.startswith("text/plain; version=")
    lines = [line for line in text.decode().splitlines() if line.startswith("restbridge_")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def replaced(*broken: str, visible: bool = False) -> SnapshotReplaced:
    return SnapshotReplaced((), (), (), broken, visible=visible, rerouted=False, seconds=0.02)


async def test_events_are_counted() -> None:
    statuses = [
        StatusGauges(
            {"good": 3, "broken": 1},
            "00000000000fffff",
            1.8e9,
            is_settings_file_broken=True,
            certificate_starts=1.7e9,
            certificate_expires=1.9e9,
            is_certificate_broken=True,
        )
    ]
    metrics = Metrics(lambda: USAGE, lambda: statuses[0])
    for outcome, status in (("ok", 200), ("ok", 201), ("http-404", 404), ("timeout", None)):
        metrics.on_event(CallFinished("get", outcome, 0.3, "shop", status, read=100, answered=10))
    metrics.on_event(CallFinished("nosuch", "unknown-tool", 0, None))
    metrics.on_event(RequestRetried("shop", 1, "timeout", 0.1))
    metrics.on_event(TokenRequested("shop", "token-refused", 0.1))
    metrics.on_event(RequestRefused(401))
    metrics.on_event(HandshakeRefused("10.0.0.1"))
    metrics.on_event(CallStarted("pay", "POST", "shop", "c1"))
    for failure in (None, "full", "full"):
        metrics.on_event(AuditWritten(failure))
    metrics.on_event(CircuitChanged("shop", is_open=True, failures=5))
    metrics.on_event(CircuitChanged("other", is_open=True, failures=5))
    metrics.on_event(CircuitChanged("other", is_open=False, failures=7))
    metrics.on_event(replaced("a.yaml:1:1", visible=True))
    found = await figures(metrics)
    assert {
        'restbridge_calls_total{outcome="ok",tool="get"}': 2,
        'restbridge_calls_total{outcome="http-404",tool="get"}': 1,
        'restbridge_calls_total{outcome="timeout",tool="get"}': 1,
        'restbridge_calls_total{outcome="unknown-tool",tool="unknown"}': 1,
        'restbridge_call_seconds_count{tool="get"}': 4,
        'restbridge_call_seconds_bucket{le="0.25",tool="get"}': 0,
        'restbridge_call_seconds_bucket{le="0.5",tool="get"}': 4,
        'restbridge_reply_bytes_total{tool="get"}': 400,
        'restbridge_result_bytes_total{tool="get"}': 40,
        'restbridge_upstream_replies_total{status="200",upstream="shop"}': 1,
        'restbridge_upstream_replies_total{status="404",upstream="shop"}': 1,
        'restbridge_upstream_retries_total{reason="timeout",upstream="shop"}': 1,
        "restbridge_audit_failures_total": 2,
        "restbridge_audit_failing": 1,
        'restbridge_tokens_total{outcome="token-refused",upstream="shop"}': 1,
        'restbridge_requests_refused_total{status="401"}': 1,
        "restbridge_tls_handshakes_refused_total": 1,
        'restbridge_circuit_open{upstream="shop"}': 1,
        'restbridge_circuit_open{upstream="other"}': 0,
        'restbridge_reloads_total{outcome="broken"}': 1,
        "restbridge_list_changes_total": 1,
        "restbridge_last_good_reload_timestamp_seconds": 0,
        'restbridge_tool_files{state="good"}': 3,
        'restbridge_tool_files{state="broken"}': 1,
        "restbridge_files_digest": 0xF,
        "restbridge_next_key_expiry_timestamp_seconds": 1.8e9,
        "restbridge_settings_file_broken": 1,
        "restbridge_certificate_start_timestamp_seconds": 1.7e9,
        "restbridge_certificate_expiry_timestamp_seconds": 1.9e9,
        "restbridge_certificate_files_broken": 1,
        "restbridge_calls_in_flight": 1,
        "restbridge_streams": 3,
        "restbridge_unread_result_bytes": 4,
    }.items() <= found.items()
    metrics.on_event(replaced())
    statuses[0] = StatusGauges({"good": 4}, "0" * 16)
    found = await figures(metrics)
    assert found["restbridge_last_good_reload_timestamp_seconds"] > 1_700_000_000
    assert found['restbridge_tool_files{state="broken"}'] == 0
    assert found["restbridge_list_changes_total"] == 1


async def test_workers_that_share_a_directory_answer_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHARED, str(tmp_path))
    found: list[dict[str, float]] = []
    for process in (1, 2):
        of_process = values.MultiProcessValue(lambda process=process: process)  # type: ignore[no-untyped-call]
        monkeypatch.setattr(values, "ValueClass", of_process)
        metrics = Metrics(lambda: USAGE, lambda: FILES, str(process))
        metrics.on_event(CallFinished("get", "ok", 0.3, "shop", 200))
        metrics.record_restart()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(metrics.run)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        found.append(await figures(metrics))
    calls = 'restbridge_calls_total{outcome="ok",tool="get"}'
    assert [each[calls] for each in found] == [1, 2]
    assert [each["restbridge_streams"] for each in found] == [3, 6]
    assert [each["restbridge_worker_restarts_total"] for each in found] == [1, 2]
    assert all(found[1][f'restbridge_worker_resident_memory_bytes{{worker="{each}"}}'] > 0 for each in (1, 2))
    forget(1, tmp_path)
    left = await figures(metrics)
    assert (left[calls], left["restbridge_streams"]) == (2, 3)
    assert 'restbridge_worker_open_fds{worker="1"}' not in left


async def test_the_number_of_label_values_is_limited() -> None:
    metrics = Metrics(lambda: USAGE, lambda: FILES)
    for number in range(1010):
        metrics.on_event(CallFinished(f"t{number}", "ok", 0.1, f"u{number}", 200))
        metrics.on_event(CallFinished("t1", "ok", 0.1, "u1", 200))
    found = await figures(metrics)
    assert len([name for name in found if name.startswith("restbridge_calls_total")]) == 1001
    assert len([name for name in found if name.startswith("restbridge_upstream_replies_total")]) == 1001
    assert found['restbridge_calls_total{outcome="ok",tool="other"}'] == 10
    assert found['restbridge_calls_total{outcome="ok",tool="t1"}'] == 1011


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=1.0.0", "*/*"])
async def test_the_format_follows_the_accept_header(accept: str) -> None:
    text, media_type = await Metrics(lambda: USAGE, lambda: FILES).exposition(accept)
    assert media_type.startswith("application/openmetrics-text" if "open" in accept else "text/plain")
    assert text.endswith(b"# EOF\n") is ("open" in accept)
    assert re.search(rb"^process_cpu_seconds_total ", text, re.MULTILINE)
