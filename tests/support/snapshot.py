"""A picture of every instance `__dict__` in a pipeline, to prove that nothing is left behind."""

import torch


def snapshot(pipe):
    """{path: [(key, identity of the value), ...]} for the pipeline, its modules and its ControlNet, in key order."""
    pictures = {"pipe": _entries(vars(pipe))}
    for name, component in pipe.components.items():
        if isinstance(component, torch.nn.Module):
            for path, module in component.named_modules():
                pictures[f"{name}.{path}"] = _entries(vars(module))
    return pictures


def scheduler_keys(scheduler):
    """Names on the scheduler; no callable may appear among them."""
    return sorted(vars(scheduler)), [key for key, value in vars(scheduler).items() if callable(value)]


def _entries(attributes):
    # What a pipeline notes about its own last call, set anew by every call.
    noted = {"_num_timesteps", "_interrupt", "_guidance_scale", "_cross_attention_kwargs", "_progress_bar_config"}
    return [(key, id(value)) for key, value in attributes.items() if key not in noted]
