"""By what a result was made: commit, versions and device."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import postdiff
from postdiff.engine.errors import UsageError
from postdiff.lab.config.layers import check_device

__all__ = ["device_name", "environment", "git", "nvidia_smi", "resolve_device", "versions"]

PACKAGE = Path(postdiff.__file__).parent
# Ours and theirs: MHz and watts.
SMI = {
    "driver": "driver_version",
    "clock_mhz": "clocks.sm",
    "most_clock_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
    "power_limit_w": "power.limit",
    "power_w": "power.draw",
}


@functools.cache
def git() -> dict[str, Any]:
    """Commit of the checkout that the code runs from, and whether code or configs differ from it; empty outside one."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return {}
    questions = (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "postdiff", "configs"])
    try:
        commit, changed = (
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=30)
            for words in questions
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit.stdout.strip(), "dirty": bool(changed.stdout.strip())}


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what a number may depend on."""
    found = {"python": platform.python_version(), "postdiff": postdiff.__version__}
    for name in ("torch", "diffusers", "transformers", "lightning", "torchmetrics", "numpy", "pillow", "ftfy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def resolve_device(name: str) -> str:
    """Turn "auto" into what this machine has.

    Raises:
        UsageError: no name of a device, or the device was asked for by name and is absent.
    """
    check_device(name)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        number = int(name.partition(":")[2] or 0)
        if number >= (present := torch.cuda.device_count()):
            raise UsageError(f"device={name}: this machine has {present} CUDA devices; use device=auto")
    return name


def device_name(device: str) -> str:
    """The device as a reader knows it: the GPU's name, or the CPU's with the number of threads used."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def environment(device: str) -> dict[str, Any]:
    """What times depend on beside versions and device: driver, libraries, which attention kernels are allowed, clocks.

    Clocks and power are as they are now, right after the timing if it is asked for then; nothing is ever set.
    """
    if not device.startswith("cuda"):
        return {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}
    allowed = {
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "cudnn": torch.backends.cuda.cudnn_sdp_enabled(),
        "math": torch.backends.cuda.math_sdp_enabled(),
    }
    return {
        **nvidia_smi(device),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "attention": [name for name, enabled in allowed.items() if enabled],
    }


def nvidia_smi(device: str) -> dict[str, Any]:
    """What NVIDIA's own tool says of a GPU by the names of `SMI`; what it does not know, or all if it is absent, lacks.

    Args:
        device: "cuda" or "cuda:N".
    """
    # The tool counts all GPUs of the machine, and torch those that it is shown: only the UUID is the same to both.
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    number = device.partition(":")[2] or "0" if uuid is None else f"GPU-{uuid}"
    words = ["nvidia-smi", f"--id={number}", f"--query-gpu={','.join(SMI.values())}"]
    try:
        done = subprocess.run(
            [*words, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.partition("\n")[0].split(",")]
    if len(values) != len(SMI):
        return {}
    known = {name: value for name, value in zip(SMI, values, strict=True) if value and value[0] not in "[N"}
    return {name: value if name == "driver" else float(value) for name, value in known.items()}
