"""How much memory an engine may still take."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch


def free_bytes(device: torch.device) -> int:
    """Free memory of the device; of the host where the two are one."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return free_host_bytes()


def free_host_bytes(root: Path = Path("/")) -> int:
    """What the host can give without swapping, or less where a control group allows less.

    Args:
        root: where /proc and /sys are.
    """
    return max(0, min([psutil.virtual_memory().available, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> list[int]:
    """What each memory control group that we are in has left, versions 1 and 2. See the kernel's
    admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not a Linux
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        elif controllers == "":
            mount = root / "sys/fs/cgroup"
            names = ("memory.max", "memory.current", "inactive_file")
        else:
            continue
        group = mount / path.lstrip("/")
        # A limit of any group above holds as well; in a container ours may be all we can see.
        for folder in [group, *group.parents][: len(group.relative_to(mount).parts) + 1]:
            if (value := _left(folder, *names)) is not None:
                left.append(value)
    return left


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """None for a group without limit, or one that can't be seen. File pages that nobody looks at
    count as used in a group but go when memory is wanted."""
    try:
        statistics = dict(
            line.split() for line in (folder / "memory.stat").read_text().splitlines()
        )
        used = int((folder / usage).read_text()) - int(statistics.get(reclaimable, 0))
        return int((folder / limit).read_text()) - used
    except (OSError, ValueError):  # ValueError: the limit is "max"
        return None
