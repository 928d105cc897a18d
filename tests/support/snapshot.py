"""An image of every instance `__dict__` in a pipeline, to prove that nothing is left behind."""

import torch


def snapshot(pipe):
    """{path: [(key, mark of the value), ...]} for the pipeline, its modules and its ControlNet, in key order.

    Hooks, parameters and buffers are told apart one by one, and a tensor also by how often it was written to.
    """
    images = {"pipe": _entries(vars(pipe))}
    for name, component in pipe.components.items():
        if isinstance(component, torch.nn.Module):
            for path, module in component.named_modules():
                images[f"{name}.{path}"] = _entries(vars(module))
    return images


def scheduler_keys(scheduler):
    """Names on the scheduler; no callable may appear among them."""
    return sorted(vars(scheduler)), [key for key, value in vars(scheduler).items() if callable(value)]


def _entries(attributes):
    # What a pipeline notes about its own last call, set anew by every call.
    noted = {
        "_num_timesteps", "_current_timestep", "_interrupt", "_guidance_scale", "_progress_bar_config",
        "_cross_attention_kwargs", "_joint_attention_kwargs", "_attention_kwargs",
    }  # fmt: skip
    return [(key, _mark(value)) for key, value in attributes.items() if key not in noted]


def _mark(value):
    if isinstance(value, dict):  # a module's hooks, parameters, buffers and children
        return id(value), [(key, _mark(each)) for key, each in value.items()]
    if isinstance(value, torch.Tensor):
        return id(value), value._version
    return id(value)
