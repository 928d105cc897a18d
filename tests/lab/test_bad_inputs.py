"""Bad input to the command line: exit code 2, one line that says what, why and what to do, and nothing left behind."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock
from safetensors.torch import load_file, save_file

from postdiff import cli
from postdiff.lab import distributed, locks, models
from postdiff.lab import run as run_module
from postdiff.lab.experiment import load as load_experiment
from postdiff.lab.job import prepare
from postdiff.lab.quality import pictures
from postdiff.lab.sampling import Sampler
from postdiff.lab.schema import from_words
from tests.lab import tiny_folder
from tests.metrics import networks

RUN = ("run", "tiny", "--rows", "plain")
# No reference pictures, no features, no timing.
FEW = ("count=1", "seeds=[0]", "metrics=[]", "bench.repeats=0")


@dataclass(frozen=True)
class Bad:
    """One bad input.

    Attributes:
        words: of the command line; HERE stands for a fresh folder that is in POSTDIFF_PATH.
        told: parts of the one line, in this order: the thing, the cause, the remedy.
        files: {path below HERE: content}, written before; HERE stands for the folder in these too.
    """

    words: tuple[str, ...]
    told: tuple[str, ...]
    files: dict[str, Any] = field(default_factory=dict)


def run(*words: str) -> tuple[str, ...]:
    return (*RUN, *FEW, *words)


def experiment(content: Any, name: str = "mine") -> dict[str, Any]:
    return {f"configs/experiments/{name}.yaml": content}


def model(content: Any) -> dict[str, Any]:
    return {"configs/models/mine.yaml": content}


def data(content: Any, **files: Any) -> dict[str, Any]:
    return {"configs/data/mine.yaml": content, **files}


def preset(content: Any) -> dict[str, Any]:
    return {"configs/methods/mine.yaml": content}


def rows(**named: Any) -> dict[str, Any]:
    return {"base": {"model": "tiny", "data": "tiny"}, "rows": named}


MINE = ("run", "mine", "--rows", "plain", *FEW)
LATIN = "rows: {plain: {label: caf\xe9}}\n".encode("latin-1")
PROMPTS = {"prompts": "HERE/own.txt"}

# Told without weights, and without a look at a picture.
EARLY = {
    # experiment files
    "experiment: no YAML": Bad(MINE, ("mine.yaml", "not valid YAML at line 1, column", "mend it"), experiment("rows: [")),
    "experiment: Latin-1": Bad(MINE, ("mine.yaml", "not UTF-8 (byte 0xe9 in line 1)", "save it"), experiment(LATIN)),
    "experiment: a list": Bad(MINE, ("mine.yaml", "holds no keys", "must be a YAML mapping"), experiment("[1, 2]")),
    "experiment: a row twice": Bad(
        MINE,
        ("mine.yaml", "line 3", "two keys 'plain'", "mend it"),
        experiment("rows:\n  plain: {}\n  plain: {steps: 3}\n"),
    ),
    "experiment: unknown key": Bad(
        MINE, ("mine.yaml", "unknown key 'bsae'", "did you mean 'base'"), experiment({"bsae": {}, "rows": {"plain": {}}})
    ),
    "experiment: unknown key of a row": Bad(
        MINE, ("row 'plain' of experiment mine", "unknown key 'stps'", "'steps'"), experiment(rows(plain={"stps": 3}))
    ),
    "experiment: unknown key below a row": Bad(
        MINE,
        ("row 'plain' of experiment mine", "unknown key 'bench.warmpu'", "'bench.warmup'"),
        experiment(rows(plain={"bench": {"warmpu": 3}})),
    ),
    "experiment: wrong type": Bad(
        MINE, ("row 'plain'", "steps: Value 'ten'", "Integer", "give another value"), experiment(rows(plain={"steps": "ten"}))
    ),
    "experiment: no rows": Bad(MINE, ("mine.yaml", "'base' and 'rows'", "at least one row"), experiment({"rows": {}})),
    "experiment: row name leads out": Bad(
        ("run", "mine", *FEW), ("'../../plain'", "no name for a row", "use letters"), experiment(rows(**{"../../plain": {}}))
    ),
    "experiment: row name of another's record": Bad(
        ("run", "mine", *FEW), ("'plain.speed'", "no name for a row", "use letters"), experiment(rows(**{"plain.speed": {}}))
    ),
    "experiment: unknown": Bad(("run", "tny"), ("unknown experiment 'tny'", "did you mean 'tiny'")),
    "experiment: leads out": Bad(("run", "../tiny"), ("unknown experiment '../tiny'", "did you mean")),
    "experiment: absolute": Bad(("run", "/etc/passwd"), ("unknown experiment '/etc/passwd'", "choose from: demo")),
    "experiment: unknown method of a row": Bad(
        MINE, ("unknown method 'depcache'", "'deepcache'"), experiment(rows(plain={"methods": ["depcache"]}))
    ),
    "rows: unknown": Bad(("run", "tiny", "--rows", "plian"), ("row of experiment tiny 'plian'", "'plain'")),
    "rows: empty": Bad(("run", "tiny", "--rows", ""), ("--rows", "names no row", "leave it out")),
    # model cards
    "model: no YAML": Bad(run("model=mine"), ("mine.yaml", "not valid YAML", "mend it"), model("folder: [")),
    "model: unknown key": Bad(run("model=mine"), ("mine.yaml", "'floder'", "'folder'"), model({"floder": "x"})),
    "model: unknown key below": Bad(
        run("model=mine"),
        ("mine.yaml", "unknown key 'scheduler.nmae'", "'scheduler.name'"),
        model({"folder": "x", "scheduler": {"nmae": "ddim"}}),
    ),
    "model: wrong type": Bad(
        run("model=mine"), ("mine.yaml", "height: Value 'tall'", "Integer", "give another value"), model({"folder": "x", "height": "tall"})
    ),
    "model: folder and hub": Bad(
        run("model=mine"), ("mine.yaml", "either 'folder' or 'hub', not both"), model({"folder": "x", "hub": "a/b"})
    ),
    "model: unknown": Bad(run("model=tni"), ("unknown model 'tni'", "did you mean 'tiny'")),
    "model: no folder": Bad(run("model=/no/such"), ("model '/no/such'", "is not a folder", "postdiff list models")),
    "model: a folder of something else": Bad(
        run("model=HERE/empty"), ("empty", "no model_index.json", "save_pretrained"), {"empty/note.txt": "x"}
    ),
    "model: index is no JSON": Bad(
        run("model=HERE/m"), ("model_index.json", "not valid JSON", "save_pretrained"), {"m/model_index.json": "{"}
    ),
    "model: index is a list": Bad(
        run("model=HERE/m"), ("model_index.json", "not valid JSON", "save_pretrained"), {"m/model_index.json": "[1]"}
    ),
    "model: unknown class": Bad(
        run("model=HERE/m"),
        ("no pipeline class 'StabelDiffusion'", "install a newer one"),
        {"m/model_index.json": {"_class_name": "StabelDiffusion"}},
    ),
    "model: a class that is no pipeline": Bad(
        run("model=HERE/m"),
        ("m: 'UNet2DModel'", "is no pipeline", "name the pipeline's class"),
        {"m/model_index.json": {"_class_name": "UNet2DModel"}},
    ),
    "model: pickles only": Bad(
        run("model=HERE/m"),
        ("diffusion_pytorch_model.bin", "pickle format", "safe_serialization=True"),
        {
            "m/model_index.json": {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]},
            "m/unet/diffusion_pytorch_model.bin": b"\x80\x04.",
        },
    ),
    # data cards and files of prompts
    "data: no YAML": Bad(run("data=mine"), ("mine.yaml", "not valid YAML", "mend it"), data("prompts: {")),
    "data: unknown key": Bad(run("data=mine"), ("mine.yaml", "'promps'", "'prompts'"), data({"promps": "x"})),
    "data: wrong type": Bad(run("data=mine"), ("mine.yaml", "classes: Value 'two'"), data({**PROMPTS, "classes": "two"})),
    "data: unknown": Bad(run("data=tinny"), ("unknown data 'tinny'", "did you mean 'tiny'")),
    "data: missing file": Bad(run("data=mine"), ("prompt file", "own.txt is missing", "name another"), data(PROMPTS)),
    "data: a folder": Bad(run("data=HERE/own"), ("prompt file", "is missing", "name another"), {"own/a.txt": "a"}),
    "data: empty file": Bad(run("data=mine"), ("own.txt", "holds no prompts", "write one"), data(PROMPTS, **{"own.txt": ""})),
    "data: blank line": Bad(
        run("data=HERE/own.txt"), ("own.txt, line 2", "the prompt is empty", "remove the line"), {"own.txt": "a\n\nb\n"}
    ),
    "data: long caption": Bad(
        run("data=HERE/own.txt"), ("own.txt, line 2", "5000 characters", "shorten it"), {"own.txt": "a\n" + "b" * 5000}
    ),
    "data: Latin-1": Bad(
        run("data=HERE/own.txt"), ("own.txt", "not UTF-8 (byte 0xe9 in line 2)", "save it"), {"own.txt": b"a\ncaf\xe9\n"}
    ),
    "data: UTF-16": Bad(run("data=HERE/own.txt"), ("own.txt", "not UTF-8", "save it"), {"own.txt": "a".encode("utf-16")}),
    "data: broken JSON line": Bad(
        run("data=HERE/own.jsonl"), ("own.jsonl", "not JSON at line 2", "mend it"), {"own.jsonl": '{"prompt": "a"}\n{"pro'}
    ),
    "data: an id twice": Bad(
        run("data=HERE/own.csv"), ("own.csv", "two lines have the id '1'", "its own"), {"own.csv": "id,prompt\n1,a\n1,b\n"}
    ),
    "data: ragged table": Bad(
        run("data=HERE/own.csv"), ("own.csv, line 2", "2 fields", "put quotes"), {"own.csv": "prompt\na, b\n"}
    ),
    "data: unknown ending": Bad(
        run("data=HERE/own.docx"), ("own.docx", "are not read", "use one of .txt"), {"own.docx": "a"}
    ),
    "data: image name leads out": Bad(
        run("data=mine"),
        ("own.csv, line 2", "'../../a.png' is no file name below a folder", "a/b.png"),
        data({"prompts": "HERE/own.csv", "images": "HERE"}, **{"own.csv": "prompt,image\na,../../a.png\n"}),
    ),
    "data: truncated manifest": Bad(
        run("data=HERE/own.parquet"), ("own.parquet", "cannot be read as Parquet", "again"), {"own.parquet": b"PAR1\x00"}
    ),
    "data: negative seed": Bad(
        run("data=mine"), ("mine.yaml", "seeds=[-1]", "from 0"), data({**PROMPTS, "seeds": [-1]}, **{"own.txt": "a"})
    ),
    # values
    "unknown key": Bad(run("stps=3"), ("command line", "unknown key 'stps'", "did you mean 'steps'")),
    "unknown key of trainer": Bad(run("trainer.devcies=2"), ("'trainer.devcies'", "'trainer.devices'")),
    "unknown key of mirror": Bad(run("mirror.projct=x"), ("'mirror.projct'", "'mirror.project'")),
    "no value": Bad(run("steps="), ("steps", "value 'None'", "give another value")),
    "no key": Bad(run("=3"), ("'=3' sets nothing", "write key=value")),
    "value is no YAML": Bad(run("seeds=[0"), ("'seeds=[0'", "not valid YAML", "mend it")),
    "value below a value": Bad(run("bench=3", "bench.repeats=2"), ("bench", "one or the other")),
    "steps 0": Bad(run("steps=0"), ("steps=0", "too small", "at least 1")),
    "steps negative": Bad(run("steps=-4"), ("steps=-4", "too small", "at least 1")),
    "steps a fraction": Bad(run("steps=2.5"), ("steps: Value '2.5'", "Integer", "give another value")),
    "height 0": Bad(run("height=0"), ("height=0", "too small", "at least 1")),
    "width negative": Bad(run("width=-8"), ("width=-8", "too small", "at least 1")),
    "batch 0": Bad(run("batch_size=0"), ("batch_size=0", "too small", "at least 1")),
    "guidance NaN": Bad(run("guidance_scale=.nan"), ("guidance_scale=nan", "out of range", "use 0 or more")),
    "guidance infinite": Bad(run("guidance_scale=.inf"), ("guidance_scale=inf", "out of range", "use 0 or more")),
    "guidance negative": Bad(run("guidance_scale=-2"), ("guidance_scale=-2.0", "out of range", "use 0 or more")),
    "strength above 1": Bad(run("strength=1.5"), ("strength=1.5", "out of range", "above 0, to 1")),
    "strength NaN": Bad(run("strength=.nan"), ("strength=nan", "out of range", "above 0, to 1")),
    "strength for text": Bad(run("strength=0.5"), ("strength=0.5", "image-to-image", "leave it out")),
    "seed negative": Bad(run("seeds=[0,-1]"), ("seeds=[0, -1]", "different whole numbers from 0")),
    "seed above 2**63": Bad(run(f"seeds=[{2**63}]"), (f"seeds=[{2**63}]", "below 2**63", "for instance [0,1,2]")),
    "seeds alike": Bad(run("seeds=[3,3]"), ("seeds=[3, 3]", "different whole numbers", "for instance [0,1,2]")),
    "seeds no list": Bad(run("seeds=3"), ("seeds=3", "must be a list", "write seeds=[...]")),
    "seed a fraction": Bad(run("seeds=[0.5]"), ("seeds", "Value '0.5'", "Integer", "give another value")),
    "count above the data": Bad(run("count=6"), ("count=6", "'tiny' has 5 prompts", "use at most that")),
    "bootstrap negative": Bad(run("bootstrap=-1"), ("bootstrap=-1", "negative", "use 0 for none")),
    "store": Bad(run("store=jpeg"), ("unknown store 'jpeg'", "png")),
    "wandb": Bad(run("wandb=sometimes"), ("unknown wandb mode 'sometimes'", "off")),
    "dtype": Bad(run("dtype=flaot16"), ("unknown dtype 'flaot16'", "'float16'")),
    "scheduler": Bad(run("scheduler=dimm"), ("unknown scheduler 'dimm'", "did you mean 'ddim'")),
    "metric": Bad(run("metrics=[paird_ssim]"), ("unknown metric 'paird_ssim'", "'paired_ssim'")),
    "metric twice": Bad(run("metrics=[paired_ssim,paired_ssim]"), ("names a metric twice", "name it once")),
    "option of a metric": Bad(run("metrics=[{kid: {subset: 3}}]"), ("metric kid", "'subset'", "'subsets'")),
    "metric without options": Bad(run("metrics=[{paired_ssim: {k: 1}}]"), ("paired_ssim", "no options", "alone")),
    "method": Bad(run("methods=[tmoe]"), ("unknown method 'tmoe'", "'tome'")),
    "option of a method": Bad(run("methods=[{tome: {raito: 0.5}}]"), ("option of tome 'raito'", "'ratio'")),
    "value of a method": Bad(run("methods=[{tome: {ratio: .nan}}]"), ("ToMe: ratio=nan", "must be from 0 to 0.75")),
    "preset: no YAML": Bad(run("methods=[mine]"), ("mine.yaml", "not valid YAML", "mend it"), preset("label: [")),
    "preset: a list": Bad(run("methods=[mine]"), ("mine.yaml", "holds no keys", "YAML mapping"), preset("[1]")),
    "preset: methods no list": Bad(
        run("methods=[mine]"),
        ("mine.yaml", "methods=tome must be a list", "methods: [...]"),
        preset({"label": "x", "reference": "x", "methods": "tome", "identity": []}),
    ),
    # devices
    "device": Bad(run("device=gpu"), ("unknown device 'gpu'", "use auto, cpu, cuda or cuda:N")),
    "device: no number": Bad(run("device=cuda:²"), ("unknown device 'cuda:²'", "use auto, cpu, cuda or cuda:N")),
    "device: not there": Bad(run("device=cuda:99"), ("device=cuda:99", "this machine has", "device=auto")),
    "devices 0": Bad(run("trainer.devices=0"), ("trainer.devices=0", "too small", "at least 1")),
    "more devices than there are": Bad(
        run("trainer.devices=4096"), ("trainer.devices=4096", "this machine has", "use at most")
    ),
    "accelerator": Bad(run("trainer.accelerator=tpu"), ("trainer.accelerator 'tpu'", "gpu")),
    "device and accelerator": Bad(run("device=cpu", "trainer.accelerator=gpu"), ("device=cpu", "differ", "one of them")),
    # parts and stages
    "shard 0/2": Bad(run("--shard", "0/2"), ("--shard 0/2", "no part", "1 <= i <= n")),
    "shard 3/2": Bad(run("--shard", "3/2"), ("--shard 3/2", "no part", "1 <= i <= n")),
    "shard x": Bad(run("--shard", "x"), ("--shard x", "no part", "for instance 1/4")),
    "shard ²/3": Bad(run("--shard", "²/3"), ("--shard ²/3", "no part", "for instance 1/4")),
    "stages of one pipeline": Bad(
        run("stages={up: {steps: 3}}"), ("stages are for a cascade", "'tiny' is one pipeline", "leave them out")
    ),
    "unknown key of a stage": Bad(run("stages={up: {stpes: 3}}"), ("'stages.up.stpes'", "'stages.up.steps'")),
    "unknown stage": Bad(
        run("model=mine", "stages={upp: {steps: 3}}"),
        ("stage of model 'mine' 'upp'", "did you mean 'up'"),
        model({"stages": {"base": {"folder": "HERE/../model"}, "up": {"folder": "HERE/../model"}}}),
    ),
    # other commands
    "command": Bad(("rum",), ("argument COMMAND", "invalid choice: 'rum'", "--help")),
    "option": Bad(run("--frehs"), ("unexpected '--frehs'", "--help")),
    "format": Bad(("table", "tiny", "--format", "xml"), ("argument --format", "invalid choice: 'xml'", "markdown")),
    "table without records": Bad(("table", "tiny"), ("tiny", "postdiff run tiny")),
    "kind of list": Bad(("list", "modles"), ("'modles'", "did you mean 'models'")),
    "launch: unknown executor": Bad(("launch", "tiny", "--executor", "slrum"), ("--executor", "'slrum'", "slurm")),
    "launch: no shards": Bad(("launch", "tiny", "--shards", "0"), ("--shards 0", "too small", "use at least 1")),
    "launch: a resource of SLURM here": Bad(("launch", "tiny", "slurm.gpus=1"), ("slurm.gpus_per_node", "--executor slurm")),
    "export without pictures": Bad(
        ("export", "tiny", "--rows", "plain"), ("6 of 6 pictures of row 'plain' are missing", "postdiff run tiny")
    ),
    "export of two rows": Bad(("export", "tiny"), ("an export is of one row", "choose with --rows one of plain, cached")),
    "score without pictures": Bad(
        ("score", "tiny", "--rows", "plain"), ("row 'plain'", "there are no pictures in", "postdiff run tiny")
    ),
    "prepare: unknown": Bad(("data", "prepare", "drawbnech"), ("unknown data 'drawbnech'", "'drawbench'")),
    "prepare: name leads out": Bad(
        ("data", "prepare", "../up", "--from", "HERE/own.txt"), ("'../up' is no name", "use letters"), {"own.txt": "a"}
    ),
    "prepare: missing source": Bad(
        ("data", "prepare", "mine", "--from", "HERE/no.json"), ("no.json is no file or folder",)
    ),
    "prepare: folder without the file": Bad(
        ("data", "prepare", "coco2017_5k", "--from", "HERE/own"),
        ("own", "holds neither annotations/captions_val2017.json"),
        {"own/a.txt": "a"},
    ),
    "prepare: count 0": Bad(
        ("data", "prepare", "mine", "--from", "HERE/own.txt", "--count", "0"),
        ("--count 0", "too small", "use at least 1"),
        {"own.txt": "a"},
    ),
    "prepare: broken annotations": Bad(
        ("data", "prepare", "mine", "--from", "HERE/captions.json"),
        ("captions.json", "not JSON at line 1", "fetch it again"),
        {"captions.json": '{"images": [], "annotations": [{"id"'},
    ),
    "prepare: a caption of 5,000 characters": Bad(
        ("data", "prepare", "mine", "--from", "HERE/captions.json"),
        ("captions.json, annotation 1", "5000 characters", "shorten it"),
        {
            "captions.json": {
                "images": [{"id": 1, "file_name": "1.png"}],
                "annotations": [{"id": 1, "image_id": 1, "caption": "b" * 5000}],
            }
        },
    ),
    "prepare: two annotations alike": Bad(
        ("data", "prepare", "mine", "--from", "HERE/captions.json"),
        ("captions.json, annotation 2", "two annotations have the id 1", "fetch the file again"),
        {
            "captions.json": {
                "images": [{"id": 1, "file_name": "1.png"}],
                "annotations": [{"id": 1, "image_id": 1, "caption": "b"}] * 2,
            }
        },
    ),
    "prepare: an image that leads out": Bad(
        ("data", "prepare", "mine", "--from", "HERE/captions.json"),
        ("captions.json, image 1", "'/etc/passwd' is no file name below a folder", "a/b.png"),
        {"captions.json": {"images": [{"id": 1, "file_name": "/etc/passwd"}], "annotations": []}},
    ),
    "prepare: nested for ever": Bad(
        ("data", "prepare", "mine", "--from", "HERE/captions.json"),
        ("captions.json", "nested too deep", "fetch it again"),
        {"captions.json": '{"images": [], "annotations": ' + "[" * 100_000},
    ),
    "statistics: an empty folder": Bad(
        ("data", "statistics", "HERE/own"), ("own", "holds 0 pictures", "need at least 2"), {"own/a.txt": "a"}
    ),
    "statistics: unknown": Bad(("data", "statistics", "drawbnech"), ("unknown data 'drawbnech'", "'drawbench'")),
    "statistics: mode": Bad(("data", "statistics", "tiny", "--mode", "claen"), ("unknown mode 'claen'", "'clean'")),
    "statistics: device": Bad(
        ("data", "statistics", "tiny_pictures", "--device", "gpu"), ("unknown device 'gpu'", "use auto, cpu, cuda or cuda:N")
    ),
    "statistics: device without a number": Bad(
        ("data", "statistics", "tiny_pictures", "--device", "cuda:x"), ("unknown device 'cuda:x'", "cuda:N")
    ),
    "statistics: crop": Bad(("data", "statistics", "tiny", "--crop", "0"), ("--crop 0", "too small", "at least 1")),
}


def written(root: Path, files: dict[str, Any]) -> None:
    """Put files below a folder: bytes and text as they are, other things as YAML or JSON."""
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, (str, bytes)):
            content = yaml.safe_dump(content, sort_keys=False) if file.suffix == ".yaml" else json.dumps(content)
        if isinstance(content, str):
            content = content.replace("HERE", str(root)).encode()
        file.write_bytes(content)


@pytest.fixture
def here(tiny, tmp_path, monkeypatch):
    """A fresh folder beside `tiny` in POSTDIFF_PATH."""
    root = tmp_path / "here"
    root.mkdir()
    (tmp_path / "model").symlink_to(tiny / "model")
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{root}")
    return root


def listing(*folders: Path) -> dict[Path, int]:
    """Files with the time of their last change."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {file: file.stat().st_mtime_ns for file in files if file.name != ".guard"}


@pytest.fixture
def ends_well(here, outputs, command):
    """`ends_well("run", ...)` runs a command that must end in one line, and gives that line."""

    def end(*words: str) -> str:
        before = listing(outputs, here)
        code, out, err = command(*(word.replace("HERE", str(here)) for word in words))
        lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip()]
        assert (code, out, len(lines)) == (2, "", 1), (code, out, err)
        assert lines[0].startswith("postdiff: error: ")
        assert listing(outputs, here) == before, "something was left behind"
        return lines[0].removeprefix("postdiff: error: ")

    return end


def assert_told(line: str, told: tuple[str, ...]) -> None:
    """All parts stand in the line, in that order."""
    assert re.search(".*".join(map(re.escape, told)), line), line


@pytest.mark.parametrize("name", EARLY)
def test_told_before_anything_is_loaded(name, here, ends_well, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("weights were loaded before the mistake was told"))
    monkeypatch.setattr(run_module, "_quality", lambda *_: pytest.fail("the run began before the mistake was told"))
    monkeypatch.setattr(distributed, "crew", lambda *_: pytest.fail("processes were started before the mistake was told"))
    written(here, EARLY[name].files)
    assert_told(ends_well(*EARLY[name].words), EARLY[name].told)


# Told when the model is there, before a picture is kept.
LATE = {
    "height": (run("height=30"), ("row 'plain'", "refuses", "divisible by 8")),
    "a million steps": (run("steps=1000000"), ("row 'plain'", "steps=1000000", "use at most that")),
    "a million steps of a reference": (
        (*RUN, *FEW, "metrics=[paired_psnr]", "reference_steps=1000000"),
        ("row 'reference'", "steps=1000000", "use at most that"),
    ),
    "a million steps of a solver that refuses": (
        run("scheduler=ddim", "steps=1000000"),
        ("row 'plain'", "steps=1000000", "use at most that"),
    ),
    "option of a scheduler": (run("scheduler.options.solver_ordre=1"), ("'solver_ordre'", "'solver_order'")),
    "value of a scheduler": (run("scheduler.options.beta_start=abc"), ("beta_start=abc", "does not fit this model")),
    "methods on the same modules": (run("methods=[tome,todo]"), ("ToMe and ToDo", "both act on", "use one of them")),
    "method twice": (run("methods=[mixed_resolution,mixed_resolution]"), ("both act on 'latent size'", "use one")),
    "method refused by the network": (
        run("methods=[{deepcache: {branch: 99}}]"),
        ("branch=99", "deeper than UNet2DConditionModel", "last is 5"),
    ),
    "gate beyond the run": (
        run("methods=[{tgate: {gate: 9}}]"),
        ("gate=9", "is outside this run of 4 steps"),
    ),
    "gate of no guidance": (
        run("guidance_scale=1.0", "methods=[cfg_cutoff]"),
        ("this run has no guidance to cut off",),
    ),
    "a picture larger than memory": (
        run("height=8000000", "width=8000000"),
        ("memory is full", "can't allocate memory", "use a smaller batch_size or picture"),
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_told_before_a_picture_is_kept(name, ends_well, monkeypatch):
    monkeypatch.setattr(Sampler, "__call__", lambda *_: pytest.fail("pictures were drawn before the mistake was told"))
    assert_told(ends_well(*LATE[name][0]), LATE[name][1])


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
@pytest.mark.parametrize("length", [0, 5, 3000])
def test_weights_cut_short(tiny, here, ends_well, part, length):
    shutil.copytree(tiny / "model", here / "m")
    cut(here / "m" / f"{part}.safetensors", length)
    assert_told(ends_well(*run("model=HERE/m")), (f"{here}/m cannot be loaded", "again"))


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessor_config.json", "config.json", "tokenizer.json"])
def test_a_damaged_dual_encoder(tiny, here, ends_well, name):
    shutil.copytree(tiny / "model", here / "m")
    cut(here / "m" / "dual_encoder" / name, 20)
    line = ends_well(*run("model=HERE/m", "metrics=[emoji_text_score]"))
    assert_told(line, ("dual encoder", "cannot be read", "save_pretrained"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda file: cut(file, 30), ("mine.safetensors", "cannot be read", "again")),
        (lambda file: file.unlink(), ("mine.safetensors", "missing", "name another file")),
        (lambda file: save_file({"mean": torch.zeros(8)}, file), ("holds no count, covariance", "name another")),
        (
            lambda file: save_file(load_file(file) | {"mean": torch.zeros(4)}, file),
            ("another encoder", "4 features, not 8"),
        ),
        (
            lambda file: save_file(load_file(file), file, metadata={"encoder_sha256": "0" * 64}),
            ("another encoder",),
        ),
    ],
)
def test_statistics_that_do_not_fit(tiny, here, ends_well, change, told):
    shutil.copy(tiny / "statistics.safetensors", here / "mine.safetensors")
    change(here / "mine.safetensors")
    card = {"prompts": str(tiny / "prompts.jsonl"), "reference_statistics": "HERE/mine.safetensors"}
    written(here, data(card))
    line = ends_well(*RUN, *FEW, "count=3", "data=mine", "metrics=[emoji_frechet_distance]")
    assert_told(line, told)


@pytest.mark.parametrize("length", [0, 20, 200])
def test_a_damaged_picture_to_start_from(tiny, here, ends_well, length):
    """The first bytes of a picture cut at 200 are sound, so that one is told when it is read."""
    tiny_folder.save_pictures(here / "pictures", 5)
    cut(here / "pictures" / "0.png", length)
    card = {"folder": str(tiny / "model"), "pipeline": "StableDiffusionImg2ImgPipeline", "height": 32, "width": 32}
    written(here, model(card) | data({"prompts": str(tiny / "prompts.jsonl"), "images": "HERE/pictures"}))
    line = ends_well(*run("model=mine", "data=mine"))
    assert_told(line, ("pictures/0.png", "cannot be read", "replace"))


@pytest.mark.parametrize(
    ("package", "metrics", "told"),
    [
        (
            "open_clip",
            "[{clip_score: {model: 'open_clip:ViT-B-32/openai'}}]",
            ("needs open_clip", "not installed", 'pip install "postdiff[metrics]"'),
        ),
        ("cleanfid", "[inception_score]", ("needs cleanfid", "not installed", 'pip install "postdiff[lab]"')),
    ],
)
def test_a_metric_whose_package_is_missing(ends_well, monkeypatch, package, metrics, told):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "postdiff.metrics.extractors", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("weights were loaded before the mistake was told"))
    assert_told(ends_well(*RUN, *FEW, "count=2", f"metrics={metrics}"), told)


def test_a_reference_made_with_another_network(tiny, here, ends_well, command, monkeypatch):
    tiny_folder.save_pictures(here / "real", 3)
    for seed, name in enumerate(("one", "two")):
        networks.save(networks.Small, here / f"{name}.pt", seed)
    monkeypatch.setenv("POSTDIFF_INCEPTION", str(here / "one.pt"))
    code, out, err = command("data", "statistics", str(here / "real"))
    assert code == 0, err
    file = re.search(r"statistics: (\S+),", out)[1]
    monkeypatch.setenv("POSTDIFF_INCEPTION", str(here / "two.pt"))
    line = ends_well(*RUN, *FEW, "count=2", f"metrics=[{{fid_clean: {{reference: {file}}}}}]")
    assert_told(line, ("metric fid_clean", "was made with checkpoint", "make it again"))
    line = ends_well(*RUN, *FEW, "count=2", f"metrics=[{{fid_clean: {{reference: {here / 'real'}}}}}]")
    assert_told(line, ("metric fid_clean", "finds no reference statistics", "postdiff data statistics"))


SMALL = ("bench.repeats=0", "metrics=[emoji_text_score]", "count=2", "seeds=[0]")


@pytest.fixture(scope="module")
def drawn(tiny_root, tmp_path_factory):
    """An outputs folder with the pictures of one row."""
    root = tmp_path_factory.mktemp("drawn") / "outputs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTDIFF_OUTPUTS", str(root))
        patch.setenv("POSTDIFF_PATH", str(tiny_root))
        assert cli.main([*RUN, *SMALL]) == 0
    return root


@pytest.fixture
def stored(drawn, outputs, here, capsys):
    """The same in this test's outputs; gives the file of the row's second picture."""
    capsys.readouterr()
    shutil.copytree(drawn, outputs)
    [job] = prepare(load_experiment("tiny", from_words(SMALL)).select(["plain"]))
    return pictures(job).file(job.samples[1])


@pytest.mark.parametrize("length", [0, 30, 500])
@pytest.mark.parametrize("command_name", ["score", "export"])
def test_a_damaged_picture_among_those_stored(stored, ends_well, command_name, length):
    cut(stored, length)
    line = ends_well(command_name, "tiny", "--rows", "plain", *SMALL)
    assert_told(line, (str(stored), "cannot be read", "remove it and run the row again"))


def test_a_missing_picture_is_not_exported(stored, ends_well):
    stored.unlink()
    line = ends_well("export", "tiny", "--rows", "plain", *SMALL)
    assert_told(line, ("1 of 2 pictures of row 'plain' are missing", "make them with 'postdiff run tiny"))


def test_scores_that_need_pictures_that_are_not_there(stored, ends_well):
    line = ends_well("score", "tiny", "--rows", "plain", *SMALL, "metrics=[paired_psnr]")
    assert_told(line, ("row 'plain'", "a run of 6 steps, which has no pictures", "name other metrics"))


@pytest.mark.parametrize(("out", "told"), [("x.zip", "must end in .npz"), ("folder.npz", "is a folder; name a file")])
def test_an_export_that_has_no_place(stored, here, ends_well, out, told):
    (here / "folder.npz").mkdir()
    assert_told(ends_well("export", "tiny", "--rows", "plain", *SMALL, "--out", f"HERE/{out}"), (out, told))


@pytest.mark.parametrize("words", [run(), ("bench", "tiny"), ("data", "statistics", "tiny_pictures")])
def test_an_outputs_folder_that_is_a_file(words, here, ends_well, monkeypatch):
    (here / "file").write_text("mine")
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(here / "file"))
    assert_told(ends_well(*words), (f"{here}/file", "cannot be written", "set POSTDIFF_OUTPUTS"))


def test_a_folder_inside_outputs_that_is_a_file(ends_well, outputs):
    (outputs).mkdir()
    (outputs / "pictures").write_text("mine")
    assert_told(ends_well(*run()), ("directory", str(outputs / "pictures"), "free or change the folder"))


def test_a_folder_of_extras_that_is_not_there(tiny, ends_well, monkeypatch):
    monkeypatch.setenv("POSTDIFF_PATH", "/no/such")
    assert_told(ends_well(*run()), ("POSTDIFF_PATH", "'/no/such', which is not a folder", "unset the variable"))


def test_a_locked_folder_is_waited_for_and_left_alone(here, outputs, command, monkeypatch):
    """Nobody says for how long: Ctrl-C ends the waiting, and the pictures are the other process's."""
    [job] = prepare(load_experiment("tiny", from_words(FEW)).select(["plain"]))
    place = outputs / "locks" / pictures(job).folder.name
    place.mkdir(parents=True)
    waits = []

    def ends_after_three(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(locks.time, "sleep", ends_after_three)
    with FileLock(place / "all.lock"):
        before = listing(outputs)
        code, out, err = command(*run())
        assert (code, out, len(waits)) == (130, "", 3), err
        assert err.count("waiting for another process") == 1 and "interrupted" in err.splitlines()[-1]
        assert listing(outputs) == before
    assert command(*run())[0] == 0


def test_wandb_off_is_no_truth_value(here, command, outputs):
    """YAML reads the word as false."""
    assert load_experiment("tiny", from_words(["wandb=off"])).rows[0].config.wandb == "off"
