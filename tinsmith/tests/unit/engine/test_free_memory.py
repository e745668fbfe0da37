from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from tinsmith.engine.free_memory import free_bytes, free_host_bytes


def group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


def member_of(root: Path, lines: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)


def test_without_groups_it_is_what_the_system_says(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    assert 0 < free_host_bytes(tmp_path) <= total
    assert 0 < free_bytes(torch.device("cpu")) <= total


def test_a_group_of_version_2_counts_with_those_above_it(tmp_path: Path) -> None:
    member_of(tmp_path, "0::/outer/inner\n")
    outer = tmp_path / "sys/fs/cgroup/outer"
    stat = "anon 500\ninactive_file 300"
    group(outer, {"memory.max": "1000", "memory.current": "900", "memory.stat": stat})
    group(outer / "inner", {"memory.max": "max", "memory.current": "900", "memory.stat": stat})
    assert free_host_bytes(tmp_path) == 1000 - (900 - 300)


def test_a_group_of_version_1_counts_even_if_only_its_root_can_be_seen(tmp_path: Path) -> None:
    member_of(tmp_path, "5:devices:/\n4:cpu,memory:/docker/abc\n0::/\n")
    group(
        tmp_path / "sys/fs/cgroup/memory",
        {
            "memory.limit_in_bytes": "5000",
            "memory.usage_in_bytes": "2000",
            "memory.stat": "cache 9\ntotal_inactive_file 500",
        },
    )
    assert free_host_bytes(tmp_path) == 5000 - (2000 - 500)


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    member_of(tmp_path, "0::/\n")
    files = {"memory.max": "100", "memory.current": "150", "memory.stat": "inactive_file 0"}
    group(tmp_path / "sys/fs/cgroup", files)
    assert free_host_bytes(tmp_path) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_has_memory_of_its_own() -> None:
    device = torch.device("cuda")
    assert 0 < free_bytes(device) <= torch.cuda.get_device_properties(device).total_memory
