"""An optimiser for little computing: steps of matrices are made orthogonal, everything else is AdamW's.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") takes the momentum of a weight
matrix and brings all of its singular values near 1, so that rare directions are learnt as fast as common ones. torch
has it for matrices, in bfloat16, which most CPUs only emulate; here kernels of convolutions are matrices too, and the
numbers are those of the weights.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

# Five steps of this polynomial bring a singular value between 0 and 1 near 1: within 0.7 and 1.2, which is enough.
QUINTIC, STEPS = (3.4445, -4.7750, 2.0315), 5
# Root mean square of a step at rate 1: what AdamW's steps have, so that one rate serves both.
SIZE = 0.2


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix (rows, columns) with the same singular vectors, and singular values near 1."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    one = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    left = one
    # The polynomial is odd: a product of matrices of the short side, which is applied to the long one at the end.
    for _ in range(STEPS):
        factor = QUINTIC[0] * one + QUINTIC[1] * gram + QUINTIC[2] * (gram @ gram)
        left, gram = factor @ left, factor @ gram @ factor
    wide = left @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def groups(module: nn.Module, apart: Iterable[str]) -> list[dict[str, Any]]:
    """Parameters in two groups: inner matrices, and the rest.

    Args:
        module: What is trained.
        apart: Parts of names that go to the rest though they are matrices: what reads input and what writes output.
    """
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        parts[parameter.ndim > 1 and not any(part in name for part in apart)].append(parameter)
    return [{"params": parameters, "matrices": kind} for kind, parameters in parts.items()]


class Muon(torch.optim.Optimizer):
    """Muon for groups with `matrices`, AdamW for the others.

    Args:
        groups: What `groups` gives.
        lr: Rate of both.
        momentum: Of Muon, Nesterov's.
        betas: Of AdamW.
        decay: Of the weights, times the rate.
        threads: On a CPU, over which the matrices are spread.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        decay: float = 0.01,
        threads: int = 1,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "decay": decay, "matrices": False})
        self.threads = threads

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient; what `closure` gives, if there is one."""
        loss = None if closure is None else closure()
        jobs = list(self._jobs())
        with ThreadPoolExecutor(self.threads) as pool:
            list((pool.map if self.threads > 1 else map)(self._change, *zip(*jobs, strict=True)))
        return loss

    def _jobs(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        for group in self.param_groups:
            # The largest first, so that no thread is left with one at the end.
            for parameter in sorted(group["params"], key=lambda one: -one.numel()):
                if parameter.grad is not None:
                    yield parameter, group

    @torch.no_grad()
    def _change(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, lr = self.state[parameter], group["lr"]
        change = _muon if group["matrices"] else _adam
        # A step that is taken within a training step in mixed precision is not itself in half precision.
        with torch.autocast(parameter.device.type, enabled=False):
            parameter.mul_(1 - lr * group["decay"]).sub_(change(parameter.grad, state, group), alpha=lr)


def _kept(state: dict[str, Any], name: str, like: Tensor) -> Tensor:
    if name not in state:
        state[name] = torch.zeros_like(like)
    return state[name]


def _muon(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    mean = _kept(state, "mean", gradient).lerp_(gradient, 1 - group["momentum"])
    # Kernels of convolutions too: what comes out by what goes in.
    flat = gradient.lerp(mean, group["momentum"]).flatten(1)
    # An orthogonal matrix has entries of 1 / sqrt(its longer side).
    return (orthogonal(flat) * SIZE * max(flat.shape) ** 0.5).view_as(gradient)


def _adam(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    first, second = group["betas"]
    state["step"] = state.get("step", 0) + 1
    mean = _kept(state, "mean", gradient).lerp_(gradient, 1 - first)
    square = _kept(state, "square", gradient).lerp_(gradient.square(), 1 - second)
    spread = (square / (1 - second ** state["step"])).sqrt_() + 1e-8
    return mean / (1 - first ** state["step"]) / spread
