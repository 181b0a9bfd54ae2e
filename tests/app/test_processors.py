from pathlib import Path

import pytest

from bridge.app.processors import allowed_processors, automatic_workers

V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/cpu"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 8, id="no control groups"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "200000 100000\n"}, 2, id="2: a container"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "150000 100000\n"}, 2, id="2: rounded up"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "10000 100000\n"}, 1, id="2: at least one"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, 8, id="2: no limit"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "3000000 100000\n"}, 8, id="2: at most 8"),
        pytest.param({"proc/self/cgroup": "0::/\n"}, 8, id="2: the root has no such file"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/system.slice/restbridge.service\n",
                f"{V2}/system.slice/restbridge.service/cpu.max": "400000 100000\n",
                f"{V2}/system.slice/cpu.max": "300000 100000\n",
            },
            3,
            id="2: a group around it",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpuset:/x\n4:cpu,cpuacct:/docker/1a2b\n1:name=systemd:/docker/1a2b\n0::/\n",
                f"{V1}/cpu.cfs_quota_us": "250000\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            3,
            id="1: a container that sees the path of the host",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                f"{V1}/cpu.cfs_quota_us": "-1\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            8,
            id="1: no limit",
        ),
    ],
)  # fmt: skip
def test_the_quota_of_control_groups_bounds_the_workers(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    write(tmp_path, files)
    assert automatic_workers(64, tmp_path) == expected


@pytest.mark.parametrize(("processors", "expected"), [(1, 1), (2, 2), (64, 8)])
def test_the_processors_of_the_machine_bound_the_workers(
    tmp_path: Path, processors: int, expected: int
) -> None:
    assert automatic_workers(processors, tmp_path) == expected


def test_this_machine_has_a_processor() -> None:
    assert 1 <= automatic_workers(allowed_processors()) <= 8
