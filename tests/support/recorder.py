"""A method that changes nothing and notes what passes by."""

from dataclasses import dataclass, field

from postdiff.methods.base import Method


@dataclass
class Recorder(Method):
    """Outermost in a stack it sees what the pipeline sees: latents after every step; and the sizes of inputs."""

    latents: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    sizes: list = field(default_factory=list)
    boundaries: set = field(default_factory=set)

    def step_start(self, state):
        self.boundaries |= state.boundaries

    def denoise(self, forward, sample, kwargs, state):
        self.rows.append(len(sample))
        self.sizes.append(tuple(sample.shape[-2:]))
        return forward(sample, kwargs)

    def step(self, forward, output, timestep, sample, state):
        moved = forward(output, timestep, sample)
        self.latents.append(moved.clone())
        return moved
