"""Files that are broken or say what cannot be: experiments, model and data cards, prompts. Told without weights."""

from __future__ import annotations

from tests.lab.bad import FEW, Bad, data, experiment, model, rows, run

MINE = ("run", "mine", "--rows", "plain", *FEW)
LATIN = "rows: {plain: {label: caf\xe9}}\n".encode("latin-1")
PROMPTS = {"prompts": "HERE/own.txt"}

FILES = {
    # experiment files
    "experiment: no YAML": Bad(
        MINE, ("mine.yaml", "not valid YAML at line 1, column", "mend it"), experiment("rows: [")
    ),
    "experiment: Latin-1": Bad(MINE, ("mine.yaml", "not UTF-8 (byte 0xe9 in line 1)", "save it"), experiment(LATIN)),
    "experiment: a list": Bad(MINE, ("mine.yaml", "holds no keys", "must be a YAML mapping"), experiment("[1, 2]")),
    "experiment: a row twice": Bad(
        MINE,
        ("mine.yaml", "line 3", "two keys 'plain'", "mend it"),
        experiment("rows:\n  plain: {}\n  plain: {steps: 3}\n"),
    ),
    "experiment: unknown key": Bad(
        MINE,
        ("mine.yaml", "unknown key 'bsae'", "did you mean 'base'"),
        experiment({"bsae": {}, "rows": {"plain": {}}}),
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
        MINE,
        ("row 'plain'", "steps: Value 'ten'", "whole number", "give another value"),
        experiment(rows(plain={"steps": "ten"})),
    ),
    "experiment: no rows": Bad(
        MINE, ("mine.yaml", "'rows' must be a mapping", "at least one row"), experiment({"rows": {}})
    ),
    "experiment: row name leads out": Bad(
        ("run", "mine", *FEW),
        ("'../../plain'", "no name for a row", "use letters"),
        experiment(rows(**{"../../plain": {}})),
    ),
    "experiment: row name of another's record": Bad(
        ("run", "mine", *FEW),
        ("'plain.speed'", "no name for a row", "use letters"),
        experiment(rows(**{"plain.speed": {}})),
    ),
    "experiment: unknown": Bad(("run", "tny"), ("unknown experiment 'tny'", "did you mean 'tiny'")),
    "experiment: leads out": Bad(("run", "../tiny"), ("unknown experiment '../tiny'", "did you mean")),
    "experiment: absolute": Bad(
        ("run", "/etc/passwd"), ("unknown experiment '/etc/passwd'", "choose from: comparison")
    ),
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
    "model: NaN for its solver": Bad(
        run("model=mine"),
        ("mine.yaml", "beta_end=nan", "not a number"),
        model({"folder": "x", "scheduler": {"options": {"beta_end": float("nan")}}}),
    ),
    "model: wrong type": Bad(
        run("model=mine"),
        ("mine.yaml", "height: Value 'tall'", "whole number", "give another value"),
        model({"folder": "x", "height": "tall"}),
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
            "m/model_index.json": {
                "_class_name": "StableDiffusionPipeline",
                "unet": ["diffusers", "UNet2DConditionModel"],
            },
            "m/unet/diffusion_pytorch_model.bin": b"\x80\x04.",
        },
    ),
    # data cards and files of prompts
    "data: no YAML": Bad(run("data=mine"), ("mine.yaml", "not valid YAML", "mend it"), data("prompts: {")),
    "data: unknown key": Bad(run("data=mine"), ("mine.yaml", "'promps'", "'prompts'"), data({"promps": "x"})),
    "data: wrong type": Bad(
        run("data=mine"), ("mine.yaml", "classes: Value 'two'"), data({**PROMPTS, "classes": "two"})
    ),
    "data: unknown": Bad(run("data=tinny"), ("unknown data 'tinny'", "did you mean 'tiny'")),
    "data: missing file": Bad(run("data=mine"), ("prompt file", "own.txt is missing", "name another"), data(PROMPTS)),
    "data: a folder": Bad(run("data=HERE/own"), ("prompt file", "is missing", "name another"), {"own/a.txt": "a"}),
    "data: empty file": Bad(
        run("data=mine"), ("own.txt", "holds no prompts", "write one"), data(PROMPTS, **{"own.txt": ""})
    ),
    "data: white space": Bad(
        run("data=HERE/own.csv"),
        ("own.csv, line 3", "nothing but white space", "write one"),
        {"own.csv": "id,prompt\n1,a\n2, \n"},
    ),
    "data: long caption": Bad(
        run("data=HERE/own.txt"), ("own.txt, line 2", "5000 characters", "shorten it"), {"own.txt": "a\n" + "b" * 5000}
    ),
    "data: Latin-1": Bad(
        run("data=HERE/own.txt"),
        ("own.txt", "not UTF-8 (byte 0xe9 in line 2)", "save it"),
        {"own.txt": b"a\ncaf\xe9\n"},
    ),
    "data: UTF-16": Bad(
        run("data=HERE/own.txt"), ("own.txt", "not UTF-8", "save it"), {"own.txt": "a".encode("utf-16")}
    ),
    "data: broken JSON line": Bad(
        run("data=HERE/own.jsonl"),
        ("own.jsonl", "not JSON at line 2", "mend it"),
        {"own.jsonl": '{"prompt": "a"}\n{"pro'},
    ),
    "data: an id twice": Bad(
        run("data=HERE/own.csv"),
        ("own.csv", "two lines have the id '1'", "its own"),
        {"own.csv": "id,prompt\n1,a\n1,b\n"},
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
        run("data=HERE/own.parquet"),
        ("own.parquet", "cannot be read as Parquet", "again"),
        {"own.parquet": b"PAR1\x00"},
    ),
    "data: negative seed": Bad(
        run("data=mine"), ("mine.yaml", "seeds=[-1]", "from 0"), data({**PROMPTS, "seeds": [-1]}, **{"own.txt": "a"})
    ),
}
