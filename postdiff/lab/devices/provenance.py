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
from postdiff.lab.settings.resolving import check_device

__all__ = ["device_name", "environment", "git", "resolve_device", "versions"]

PACKAGE = Path(postdiff.__file__).parent


@functools.cache
def git() -> dict[str, Any]:
    """Commit of the checkout that the code runs from, and whether code or configs differ from it; empty outside one."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return {}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "postdiff", "configs")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "dirty": bool(changed)}


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


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
    threads = torch.get_num_threads()
    return f"{_cpu()}, {threads} thread{'s' if threads > 1 else ''}"


def environment(device: str) -> dict[str, Any]:
    """What times depend on beside versions and device: driver, libraries, and which attention kernels are allowed."""
    if not device.startswith("cuda"):
        return {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}
    allowed = {
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "cudnn": torch.backends.cuda.cudnn_sdp_enabled(),
        "math": torch.backends.cuda.math_sdp_enabled(),
    }
    return {
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "attention": [name for name, enabled in allowed.items() if enabled],
    }


def _driver() -> str | None:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()[0].strip() if done.stdout.strip() else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
