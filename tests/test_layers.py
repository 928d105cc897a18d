"""Arrows point one way: cli -> lab -> metrics, cost, methods -> engine; `import postdiff` loads no lab library."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "postdiff"
# What each layer may import of ours. Anything else points the wrong way.
ALLOWED = {
    "engine": {"engine"},
    "safe_yaml": {"engine"},
    "catalog": {"engine", "safe_yaml"},
    "model_files": {"engine"},
    "hub": {"engine", "model_files"},
    "methods": {"engine", "catalog", "methods"},
    "presets": {"engine", "catalog", "methods"},
    "cost": {"engine", "catalog", "methods", "cost"},
    "metrics": {"engine", "model_files", "hub", "zoo", "metrics"},
    "datasets": {"engine", "datasets"},
    "zoo": {"zoo"},
    "lab": {
        "engine",
        "safe_yaml",
        "catalog",
        "model_files",
        "hub",
        "methods",
        "presets",
        "cost",
        "metrics",
        "datasets",
        "zoo",
        "lab",
    },
    "cli": {"engine", "catalog", "lab", "cli"},
    "__init__": {"engine"},
    "__main__": {"cli"},
}
# The lab's own parts, from low to high, as its docstring tells them.
LAB = (
    *(
        "quiet",
        "code_hash",
        "documented",
        "config",
        "files",
        "data",
        "pipelines",
        "devices",
        "progress",
        "metrics",
        "plan",
        "images",
    ),
    *("generate", "records", "tables", "loggers", "macs", "step_scores", "evaluation", "row", "export", "bench"),
    *("analysis", "listing", "report", "run", "launch", "planner", "app"),
)
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(file):
    """Every module of ours that a file imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name):
    """'postdiff.engine.state' -> 'engine'; names that are not ours or name no layer -> None."""
    parts = name.split(".")
    return parts[1] if parts[0] == "postdiff" and len(parts) > 1 and parts[1] in ALLOWED else None


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file):
    own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(file):
        if (target := layer(name)) is not None:
            assert target in ALLOWED[own], f"{file.relative_to(PACKAGE)} imports {name}"


def test_imports_within_the_lab_point_one_way():
    for file in sorted((PACKAGE / "lab").rglob("*.py")):
        own = file.relative_to(PACKAGE / "lab").parts[0].removesuffix(".py")
        for name in imports(file):
            if name.startswith("postdiff.lab."):
                target = name.split(".")[2]
                assert LAB.index(target) <= LAB.index(own), f"{file.relative_to(PACKAGE)} imports {name}"


def test_the_lab_reports_its_parts_in_their_order():
    text = (PACKAGE / "lab" / "__init__.py").read_text()
    message = [line.split()[0] for line in text.splitlines() if "   " in line]
    folders = {path.parent.name for path in (PACKAGE / "lab").glob("*/__init__.py")}
    assert message == [name for name in LAB if name in message] and folders <= set(message)


def test_methods_do_not_know_each_other():
    """A method's folder imports what stands in it, and what all methods share; its formula is for readers and tests."""
    plumbing = {"base", "cache", "options", "solver_cache"}
    for file in (PACKAGE / "methods").rglob("*.py"):
        [own, *_] = file.relative_to(PACKAGE / "methods").with_suffix("").parts
        formulas = {"formulas"} if own == "formulas" or file.stem == "reference" else set()
        for name in imports(file):
            if name.startswith("postdiff.methods.") and own != "__init__":
                assert name.split(".")[2] in {own, *plumbing, *formulas}, f"{own}/{file.name} imports {name}"
                assert name.split(".")[3:4] != ["reference"], f"{own}/{file.name} imports {name}"


def test_a_methods_folder_exports_its_class_alone():
    for folder in (file.parent for file in (PACKAGE / "methods").glob("*/method.py")):
        module = f"postdiff.methods.{folder.name}.method"
        [exported] = [node for node in ast.parse((folder / "__init__.py").read_text()).body[1:2]]
        [cls] = exported.names
        assert exported.module == module and cls.name[0].isupper()
        assert (folder / "preset.yaml").is_file()


def test_no_file_grows_too_large():
    for file in FILES:
        lines = len(file.read_text().splitlines())
        assert lines <= 300, f"{file.relative_to(PACKAGE)} has {lines} lines"


def test_the_base_import_is_light():
    script = "import sys, postdiff, postdiff.methods, postdiff.presets; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert "diffusers" not in loaded or "torch" in loaded
    assert not loaded & {"lightning", "pytorch_lightning", "torchmetrics", "wandb", "omegaconf", "torchvision"}


def _names_of_diffusers():
    """Classes of its pipelines and networks, with what these are made of."""
    import diffusers

    root = Path(diffusers.__file__).parent
    files = [file for part in ("pipelines", "models") for file in (root / part).rglob("*.py")]
    return {node.name for file in files for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)}


def _code_words(file):
    """Words of strings and names in a file's code: no comment, and no docstring."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else getattr(node, "id", getattr(node, "attr", None))
        if isinstance(node, ast.alias):
            text = node.name
        if isinstance(text, str):
            yield from re.findall(r"\w+", text)


# The table of rows, and the pipelines that it lacks with the reasons; a name beside it is an example in a message.
BY_CLASS = {"family.py", "unfit.py"}


def _read_only(file):
    """Formulas, which nothing that runs imports: a reference had better not find things as the method does."""
    return file.name == "reference.py" or file.parent.name == "formulas"


def test_nothing_goes_by_a_class_of_diffusers_but_the_table_of_rows():
    classes = _names_of_diffusers()
    assert {"StableDiffusionPipeline", "FluxTransformerBlock", "UNet2DConditionModel"} <= classes
    found = {
        (file.name, word)
        for layer in ("engine", "methods")
        for file in (PACKAGE / layer).rglob("*.py")
        for word in _code_words(file)
        if word in classes and file.name not in BY_CLASS and not _read_only(file)
    }
    assert not found
