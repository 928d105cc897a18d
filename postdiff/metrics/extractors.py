"""Networks behind FID and its kin: clean-fid's Inception in its three modes, or any TorchScript file; see `load`.

TorchScript holds a program beside its weights, and so runs code of its own: it is for files that one trusts.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cleanfid import inception_pytorch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor, nn

from postdiff import model_files
from postdiff.engine.errors import UsageError
from postdiff.metrics.checkpoints import WeightFile
from postdiff.metrics.features import Extractor

__all__ = ["TorchExtractor", "load", "weights_hash"]

TORCHSCRIPT = WeightFile(
    "Inception",
    "POSTDIFF_INCEPTION",
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
)
PYTORCH = WeightFile("pytorch-fid's Inception", "POSTDIFF_INCEPTION_PYTORCH", inception_pytorch.FID_WEIGHTS_URL)
RESIZE = {
    "clean": "to 299x299, PIL bicubic with antialiasing, not rounded",
    "legacy_pytorch": "to 299x299, torch bilinear without antialiasing",
    "legacy_tensorflow": "none outside the network; Inception's own, TensorFlow 1 bilinear to 299x299",
}


class TorchExtractor(Extractor):
    """A network of float images (B, 3, H, W) from 0 to 255, with clean-fid's resizing before it.

    Args:
        network: the network.
        mode: clean, legacy_pytorch or legacy_tensorflow.
        name: what to call it in a record.
        checkpoint: which weights.
        classes: gives (B, classes) probabilities of images as `network` takes them; None if it has no classes.
    """

    mode: str

    def __init__(
        self,
        network: nn.Module,
        mode: str,
        name: str,
        checkpoint: str,
        classes: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network = network.eval()
        for parameter in network.parameters():  # a TorchScript module has no requires_grad_ of its own
            parameter.requires_grad_(False)
        self.mode, self.name, self.checkpoint, self._classes = mode, name, checkpoint, classes
        self._resize = build_resizer(mode)
        with torch.no_grad():
            found = self.network(torch.zeros(1, 3, 299, 299))
        if not isinstance(found, Tensor) or found.dim() != 2:
            raise UsageError(f"extractor {name} must give features of shape (images, length); use another network")
        self.num_features = found.shape[1]

    def features(self, images: Tensor) -> Tensor:
        return self.network(self._prepared(images)).float()

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities (B, classes), float32, of images (B, 3, H, W), uint8.

        Raises:
            UsageError: the network has no classes.
        """
        if self._classes is None:
            raise UsageError(
                f"extractor {self.name} gives no class scores, which the Inception Score needs; use "
                f"{TORCHSCRIPT.file_name}, or a TorchScript file that you trust, with a method logits(images)"
            )
        return self._classes(self._prepared(images)).float()

    def _prepared(self, images: Tensor) -> Tensor:
        if self.mode == "legacy_tensorflow":
            return images.float()
        arrays = [self._resize(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
        return torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in arrays]).to(images.device)

    def identity(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "checkpoint": self.checkpoint,
            "features": f"{self.num_features} dimensions",
            "mode": self.mode,
            "resize": RESIZE[self.mode],
            "dtype": "float32, statistics in float64",
        }


class _Inception(InceptionV3W):
    """clean-fid's wrapper around a network that is read already, whatever its file is called."""

    def __init__(self, base: Any, resize_inside: bool) -> None:
        nn.Module.__init__(self)
        self.base, self.layers, self.resize_inside = base, base.layers, resize_inside


class _InceptionPytorch(nn.Module):
    """clean-fid's copy of pytorch-fid's network, fed as clean-fid feeds it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        with PYTORCH.in_place(file):
            self.network = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images / 255)[0].flatten(1)


def _source(mode: str) -> WeightFile:
    return PYTORCH if mode == "legacy_pytorch" else TORCHSCRIPT


def weights_hash(mode: str, place: str | None = None) -> str | None:
    """16 hexadecimal digits of the file that `load` reads; None if there is none."""
    file = _source(mode).given(place)
    return None if file is None or not file.is_file() else model_files.sha256(file)[:16]


def load(mode: str, place: str | None = None) -> TorchExtractor:
    """The network for a mode; nothing is ever fetched.

    Args:
        mode: clean, legacy_pytorch or legacy_tensorflow.
        place: a file, a folder that holds Inception under its own name, or None for the environment variable. Any
            TorchScript file serves that takes float images (B, 3, H, W) from 0 to 255 and gives (B, d), with an
            exported method `logits` if the Inception Score is wanted. It runs code of its own.

    Raises:
        UsageError: no file, with the address to get it from; or it is not of the right kind.
    """
    source = _source(mode)
    file = source.given(place)
    if file is None or not file.is_file():
        why = f"there is no file {file}" if file else "no file is named"
        raise UsageError(
            f"mode {mode} needs the Inception network {source.file_name}, and {why}; get it from {source.address} and "
            f"set {source.variable} to it, or give the option extractor: FILE (TorchScript: it runs code)"
        )
    return _loaded(mode, file.resolve(), file.stat().st_mtime_ns)


# One copy for all metrics and seeds; the time of change, so that a file that was replaced is read again.
@functools.lru_cache(maxsize=2)
def _loaded(mode: str, file: Path, changed: int) -> TorchExtractor:
    checkpoint = model_files.sha256(file)[:16]
    try:
        with warnings.catch_warnings():
            # torch would rather have another format, but this is the one that the weights are published in.
            warnings.simplefilter("ignore", FutureWarning)
            script = torch.jit.load(str(file), map_location="cpu").eval()
    except RuntimeError:
        if mode != "legacy_pytorch":
            raise UsageError(
                f"{file} is no TorchScript file, which mode {mode} needs; get {TORCHSCRIPT.address}"
            ) from None
        PYTORCH.found("mode legacy_pytorch needs pytorch-fid's Inception", str(file))
        try:
            network = _InceptionPytorch(file)
        except RuntimeError:
            raise UsageError(f"{file} holds no weights of pytorch-fid's Inception; get {PYTORCH.address}") from None
        return TorchExtractor(network, mode, "Inception-v3 of pytorch-fid", checkpoint)
    if not hasattr(script, "layers"):
        own = getattr(script, "logits", None)
        classes = None if own is None else lambda images: own(images).softmax(1)
        return TorchExtractor(script, mode, file.name, checkpoint, classes)
    if mode == "legacy_pytorch":
        raise UsageError(f"mode legacy_pytorch needs pytorch-fid's own weights, not {file.name}; get {PYTORCH.address}")
    # The score's authors left out the bias of the last layer by mistake, and all have done so since.
    return TorchExtractor(
        _Inception(script, resize_inside=mode == "legacy_tensorflow"),
        mode,
        "Inception-v3 of 2015-12-05",
        checkpoint,
        lambda images: script(images, no_output_bias=True),
    )
