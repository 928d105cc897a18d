"""Values, names and words of the command line that are wrong. Told without weights."""

from __future__ import annotations

from tests.lab.bad import Bad, model, preset, run

VALUES = {
    # values
    "unknown key": Bad(run("stps=3"), ("command line", "unknown key 'stps'", "did you mean 'steps'")),
    "unknown key of trainer": Bad(run("trainer.devcies=2"), ("'trainer.devcies'", "'trainer.devices'")),
    "unknown key of logger": Bad(run("logger.projct=x"), ("'logger.projct'", "'logger.project'")),
    "no value": Bad(run("steps="), ("steps", "Value 'None'", "give another value")),
    "options no mapping": Bad(
        run("scheduler.options=[1]"), ("command line", "scheduler.options: Value '[1]'", "give another value")
    ),
    "no experiment": Bad(("run", ""), ("unknown experiment ''", "choose from")),
    "no key": Bad(run("=3"), ("'=3' sets nothing", "write key=value")),
    "value is no YAML": Bad(run("seeds=[0"), ("'seeds=[0'", "not valid YAML", "mend it")),
    "value below a value": Bad(("run", "tiny", "bench=3", "bench.repeats=2"), ("bench", "one or the other")),
    "steps 0": Bad(run("steps=0"), ("steps=0", "too small", "at least 1")),
    "steps negative": Bad(run("steps=-4"), ("steps=-4", "too small", "at least 1")),
    "steps a fraction": Bad(run("steps=2.5"), ("steps: Value '2.5'", "whole number", "give another value")),
    "height 0": Bad(run("height=0"), ("height=0", "too small", "at least 1")),
    "height beyond images": Bad(run("height=80000000"), ("height=80000000", "too large", "at most 16384")),
    "width negative": Bad(run("width=-8"), ("width=-8", "too small", "at least 1")),
    "batch 0": Bad(run("batch_size=0"), ("batch_size=0", "too small", "at least 1")),
    "guidance NaN": Bad(run("guidance_scale=.nan"), ("guidance_scale: Value 'nan'", "finite", "give another value")),
    "guidance infinite": Bad(run("guidance_scale=.inf"), ("guidance_scale: Value 'inf'", "finite", "another value")),
    "guidance negative": Bad(run("guidance_scale=-2"), ("guidance_scale=-2", "too small", "at least 0")),
    "strength above 1": Bad(run("strength=1.5"), ("strength=1.5", "too large", "at most 1")),
    "strength NaN": Bad(run("strength=.nan"), ("strength: Value 'nan'", "finite", "give another value")),
    "strength for text": Bad(run("strength=0.5"), ("strength=0.5", "image-to-image", "leave it out")),
    "seed negative": Bad(run("seeds=[0,-1]"), ("seeds=[0, -1]", "different whole numbers from 0")),
    "seed above 2**63": Bad(run(f"seeds=[{2**63}]"), (f"seeds=[{2**63}]", "below 2**63", "for instance [0,1,2]")),
    "seeds alike": Bad(run("seeds=[3,3]"), ("seeds=[3, 3]", "different whole numbers", "for instance [0,1,2]")),
    "seeds no list": Bad(run("seeds=3"), ("seeds=3", "must be a list", "write seeds=[...]")),
    "seed a fraction": Bad(run("seeds=[0.5]"), ("seeds", "Value '0.5'", "whole number", "give another value")),
    "count above the data": Bad(run("count=6"), ("count=6", "'tiny' has 5 prompts", "use at most that")),
    "bootstrap negative": Bad(run("bootstrap=-1"), ("bootstrap=-1", "too small", "at least 0")),
    "store": Bad(run("store=jpeg"), ("unknown store 'jpeg'", "png")),
    "wandb": Bad(run("wandb=sometimes"), ("unknown wandb 'sometimes'", "off")),
    "dtype": Bad(run("dtype=flaot16"), ("unknown dtype 'flaot16'", "'float16'")),
    "unknown key of network": Bad(
        run("network.channel_last=true"), ("'network.channel_last'", "'network.channels_last'")
    ),
    "attention": Bad(run("network.attention=falsh"), ("network.attention 'falsh'", "'flash'")),
    "attention of a GPU": Bad(
        run("network.attention=cudnn", "device=cpu"), ("network.attention=cudnn", "NVIDIA GPUs", "use math")
    ),
    "slices of one image": Bad(
        run("network.vae_slicing=true", "batch_size=1"), ("network.vae_slicing=true", "batch_size=1", "2 or more")
    ),
    "slices of one timed image": Bad(
        run("network.vae_slicing=true", "bench.repeats=1"), ("bench.batch_size=1", "or bench.repeats=0")
    ),
    "compilation that is timed": Bad(
        run("network.compile=true", "bench.repeats=1", "bench.warmup=0"), ("compile=true", "bench.warmup=0", "use 1")
    ),
    "NaN for a solver": Bad(run("scheduler.options.beta_end=.nan"), ("beta_end=nan", "not a number")),
    "NaN in a list for a solver": Bad(
        run("scheduler.options.trained_betas=[.1,.nan]"), ("trained_betas", "nan", "not a number")
    ),
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
    "device and accelerator": Bad(
        run("device=cpu", "trainer.accelerator=gpu"), ("device=cpu", "differ", "one of them")
    ),
    # random weights
    "weights": Bad(run("weights=randon"), ("unknown weights 'randon'", "did you mean 'random'")),
    "weights: images of random ones": Bad(
        run("weights=random"), ("row 'plain'", "weights=random", "speed alone", "'postdiff bench tiny'")
    ),
    "weights: no structure": Bad(
        ("bench", "tiny", "weights=random"), ("row 'plain'", "model 'tiny' names none", "give its card one")
    ),
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
}

COMMANDS = {
    # other commands
    "command": Bad(("rum",), ("argument COMMAND", "invalid choice: 'rum'", "--help")),
    "option": Bad(run("--frehs"), ("unexpected '--frehs'", "--help")),
    "format": Bad(("table", "tiny", "--format", "xml"), ("argument --format", "invalid choice: 'xml'", "markdown")),
    "table without records": Bad(("table", "tiny"), ("tiny", "postdiff run tiny")),
    "kind of list": Bad(("list", "modles"), ("'modles'", "did you mean 'models'")),
    "launch: no shards": Bad(("launch", "tiny", "--shards", "0"), ("--shards 0", "too small", "use at least 1")),
    "launch: an unknown resource of SLURM": Bad(
        ("launch", "tiny", "slurm.gpuz=1"), ("SLURM resource 'gpuz'", "did you mean 'gpus'")
    ),
    "export without images": Bad(
        ("export", "tiny", "--rows", "plain"), ("6 of 6 images of row 'plain' are missing", "postdiff run tiny")
    ),
    "export of two rows": Bad(
        ("export", "tiny"), ("an export is of one row", "choose with --rows one of plain, cached")
    ),
    "score without images": Bad(
        ("score", "tiny", "--rows", "plain"), ("row 'plain'", "there are no images in", "postdiff run tiny")
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
        ("data", "statistics", "HERE/own"), ("own", "holds 0 images", "need at least 2"), {"own/a.txt": "a"}
    ),
    "statistics: unknown": Bad(("data", "statistics", "drawbnech"), ("unknown data 'drawbnech'", "'drawbench'")),
    "statistics: mode": Bad(("data", "statistics", "tiny", "--mode", "claen"), ("unknown mode 'claen'", "'clean'")),
    "statistics: device": Bad(
        ("data", "statistics", "tiny_images", "--device", "gpu"),
        ("unknown device 'gpu'", "use auto, cpu, cuda or cuda:N"),
    ),
    "statistics: device without a number": Bad(
        ("data", "statistics", "tiny_images", "--device", "cuda:x"), ("unknown device 'cuda:x'", "cuda:N")
    ),
    "statistics: crop": Bad(("data", "statistics", "tiny", "--crop", "0"), ("--crop 0", "too small", "at least 1")),
}
