"""Files that are mistakes as a whole: YAML bombs, methods of one's own that fail, model folders that cannot be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.lab.bad import FEW, run
from tests.lab.mistakes import HUGE, Mistake

MINE = ("run", "mine", "--rows", "plain", *FEW)
MANY = [*range(1000)]
BASE = "base: {model: tiny, data: tiny}\n"
ANCHORS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
BOMB = "&a [x,x,x,x,x,x,x,x,x,x]"
for _name in "bcdefghij":
    BOMB = f"[&{_name} {BOMB}, " + ", ".join([f"*{_name}"] * 9) + "]"


def experiments() -> Iterator[Mistake]:
    """Whole experiment files."""
    rows = BASE + "rows:\n"
    texts: dict[str, Any] = {
        **{f"broken {number}": text for number, text in enumerate(BROKEN)},
        **{
            f"bomb in {key}": f"{rows}  plain:\n    {key}: {BOMB}\n"
            for key in ("seeds", "methods", "label", "note", "reported")
        },
        "bomb beside rows": f"{ANCHORS}{rows}  plain: {{}}\n",
        "bomb in the summary": f"summary: {BOMB}\n{rows}  plain: {{}}\n",
        "bomb in the base": f"base: {{model: tiny, data: tiny, logger: {{tags: {BOMB}}}}}\nrows: {{plain: {{}}}}\n",
        "bomb of merges": "a: &a {x: 1}\n"
        + "".join(f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}' if n else '*a'] * 30)}]}}\n" for n in range(8)),
        "itself": f"{rows}  plain: &a\n    methods: [*a]\n",
        "deep": f"{rows}  plain: {{methods: {'[' * 300}{']' * 300}}}\n",
        "deeper": f"{rows}  plain: {{methods: {'[' * 100_000}{']' * 100_000}}}\n",
        "deep keys": f"{rows}  plain: {'{a: ' * 300}1{'}' * 300}\n",
        "billions of rows": f"{rows}  'p{{a}}':\n    over: {{a: {MANY}, b: {MANY}, c: {MANY}}}\n",
        "millions of rows": f"{rows}  'p{{a}}':\n    over: {{a: {[*range(11_000)]}}}\n",
        "many plain rows": rows + "".join(f"  r{n}:\n" for n in range(10_001)),
        "a very large file": rows + "".join(f"  r{n}: {{label: number {n}}}\n" for n in range(120_000)),
        "large rows from few lines": f"{rows}  'p{{a}}':\n    over: {{a: {[*range(9000)]}}}\n    seeds: {MANY}\n",
        "a long text from few lines": f"{rows}  'p{{a}}':\n    over: {{a: [{'x' * 900}]}}\n    label: '{'{a}-' * 9}'\n",
        "latin-1": b"base: {model: tiny, data: tiny}\nrows: {plain: {label: caf\xe9}}\n",
        "utf-16": "rows: {plain: {}}".encode("utf-16"),
        "binary": bytes(range(256)),
        "empty": "",
        "only a comment": "# nothing\n",
        **{f"row {name!r}": f"{BASE}rows: {{{json.dumps(name)}: {{}}}}\n" for name in ROW_NAMES},
        **{f"reported {text}": f"{rows}  plain: {{reported: {text}}}\n" for text in REPORTED},
    }
    for kind, content in texts.items():
        words = ("run", "mine", *FEW) if kind.startswith(("row", "bill", "mill", "many", "a ", "large")) else MINE
        yield Mistake(f"experiment: {kind}", words, {"configs/experiments/mine.yaml": content})


ROW_NAMES = (
    *("-x", "--fresh", ".x", "a/b", "../x", "a b", "x.speed", "", "a\nb", "x" * 121, "あ" * 120, "a:b", "a|b", "a\\b"),
    *("\u202eabc", "a\u0000b", "\x1b[31m", "a*", "?", "~", "a,b", "🙂"),
)
REPORTED = (
    *("{psnrr: 3}", "{x: .nan}", "{fid: .inf}", "{fid: high}", "{fid: [1]}", "{fid: true}", "[fid]", "3", "{1: 2}"),
    *("{fid: null}", "{macs: 3}", "{paired_psnr_at_x: 3}"),
)
BROKEN = (
    *("rows: [", "rows: {plain: {}", "{", "- a\n- b", "3", "null", "rows: 'x", "rows: \t{plain: {}}\n\t- x", "a: b: c"),
    *("rows: {plain: {}, plain: {}}", "rows: {1: {}, '1': {}}", "rows: {plain: {}}\nrows: {plain: {}}", "@rows: 1"),
    *(
        "rows: {plain: {steps: 1, steps: 2}}",
        "%TAG x",
        "rows: {plain: {}}\n---\nrows: {}",
        "rows: !!python/object:os.system {}",
    ),
    *(
        "rows: !!set {plain}",
        "rows: {? [a]: {}}",
        "rows: {plain: {}}\nbsae: {}",
        "rows: {plain: 3}",
        "rows: {plain: [1]}",
    ),
    *("rows: []", "rows: {}", "base: []\nrows: {plain: {}}", "base: 3\nrows: {plain: {}}", "rows: {plain: {over: 3}}"),
    *(
        "rows: {plain: {over: {}}}",
        "rows: {plain: {over: {a: []}}}",
        "rows: {plain: {over: {a: 3}}}",
        "rows: *x",
        "<<: 3",
    ),
    *(
        "rows: {plain: {over: {a: [1, 2]}}}",
        "rows: {'{b}': {over: {a: [1]}}}",
        "rows: {plain: {steps: '{a}', over: {a: [x]}}}",
    ),
    *("base: {wandb: ${oc.env:HOME}}\nrows: {plain: {}}", "base: {model: '${oc.decode:1}'}\nrows: {plain: {}}"),
    *("base: {data: ${base.model}, model: tiny}\nrows: {plain: {}}", 'rows: {plain: {label: "a\\x1b[31m"}}'),
    *('rows: {plain: {note: "\\u202e"}}', 'summary: "\\x07"\nrows: {plain: {}}', 'rows: {plain: {label: "\\0"}}'),
)


def words() -> Iterator[Mistake]:
    """Words of the command line."""
    lines: tuple[tuple[str, ...], ...] = (
        *((), ("rum",), ("run", "dmeo"), ("run", "a" * 5000), ("run", "\x1b[31m"), ("run", "~nosuchuser"), ("run", "")),
        *(("run", "tiny", word) for word in WORDS),
        *(
            ("run", "tiny", "--rows", rows)
            for rows in ("", ",", "plian", "-x", "plain;cached", "x" * 9000, "plain\0", "PLAIN")
        ),
        *(
            ("run", "tiny", "--shard", part)
            for part in ("0/2", "3/2", "x", "1", "1/", "/2", "1/2/3", "-1/2", "1/0", f"1/{'9' * 5000}")
        ),
        *(("table", "tiny", "--format", style) for style in ("xml", "", "TEXT", "x" * 1000)),
        *(("macs", "tiny", option, "x") for option in ("--convention", "--by", "--branches", "--format")),
        *(("list", kind) for kind in ("modles", "x" * 1000, "\x1b", "methods.x")),
        *(("launch", "tiny", *more) for more in LAUNCH),
        ("table", "tiny", "steps=3"),
        ("table", "tiny"),
        ("export", "tiny"),
        ("export", "tiny", "--rows", "plain", "--out", "x.zip"),
        ("export", "tiny", "--rows", "plain", "--out", "a\0b.npz"),
        ("score", "tiny", "--rows", "plain"),
        ("bench", "tiny", "bench.repeats=0"),
        ("profile", "tiny", "--by", "x"),
        ("run", "tiny", "--rows", "plain", "--rows", "cached"),
        ("run", "tiny", "--shard", "1/2", "--shard", "2/2"),
    )
    for line in lines:
        yield Mistake(f"line: {' '.join(line)[:60]!r}", line)
    for variable, value in ENVIRONMENT:
        yield Mistake(f"line: {variable}={value}", run(), {"file": "mine"}, {variable: value})


WORDS = (
    *("steps", "=3", "steps=", "a..b=1", ".steps=3", "steps.=3", "steps.x=3", "bench=3", "stray", "--frehs", "-x"),
    *(
        "seeds=[0",
        "seeds=[0]]",
        "seeds={",
        "seeds=@",
        "seeds=*a",
        "seeds='",
        'seeds="',
        "steps=\x1b[31m",
        "steps=\u202e3",
    ),
    *("a.b.c.d.e.f.g.h.i.j.k=1", "x" * 50_000, f"steps={'9' * 5000}", f"seeds=[{'9' * 5000}]", f"batch_size={HUGE}"),
    *(f"seeds={'[' * 300}", f"seeds={'[' * 300}{']' * 300}", f"methods={BOMB}", f"label={BOMB}", "seeds=&a [*a]"),
    *("scheduler.options=[1]", "scheduler.options.a.b=1", "rows=3", "base.steps=3", "reported={x: 1}", "over={a: [1]}"),
    *(
        "model=${oc.env:HOME}",
        "data=${oc.env:HOME}",
        "logger.project=${oc.env:WANDB_API_KEY}",
        "model='???'",
        "data='???'",
    ),
    *("logger.tags=[{}]", "logger.tags=x", "logger.tags=[[x]]", "logger.tags=[${oc.env:HOME}]", "slurm.gpus=1"),
    *(f"model={'x' * 100_000}", f"methods=[{'x' * 9000}]", f"model=/{'x' * 300}/y", f"data=/{'x' * 5000}.txt"),
)
LAUNCH = (
    *(
        ("--shards", "0"),
        ("--shards", "-1"),
        ("--shards", "x"),
        ("--shards", "1000000000"),
    ),
    *(
        ("--shards", "2", "--shards", "3"),
        ("--dry-run", "slurm.time=x"),
    ),
    *(
        ("--dry-run", f"slurm.{word}")
        for word in (
            *("time=x", "time=.nan", "time=-1", "time=0", "time=1.5", "time=[1]", f"time={HUGE}", "partition={a: b}"),
            *(
                "partition=[gpu]",
                "partition=true",
                "gpus=-5",
                "gpus=x",
                "gpus=1.5",
                "requeue=x",
                "requeue=-1",
                "setup=text",
            ),
            *("setup=[1]", "setup=[[a]]", "partitoin=gpu", "nodes=0", "cpus=many", "mem=[1]", "exclusive=[1]", "time="),
            *('comment="a\\nb"', 'setup=["a\\nb"]', 'additional_parameters={a: "b\\nc"}', "use_srun=yes", "name=[x]"),
        )
    ),
)
ENVIRONMENT = (
    *(("POSTDIFF_PATH", value) for value in ("/no/such", "~nosuchuser/x", "HERE/file", "/dev/null")),
    *(
        ("POSTDIFF_OUTPUTS", value)
        for value in ("HERE/file", "~nosuchuser/x", "/dev/null", "/proc/nothing", "HERE/file/below")
    ),
)


def presets() -> Iterator[Mistake]:
    """Files of presets."""
    whole = "label: x\nreference: x\nmethods: [tome]\nidentity: []\n"
    for text in (
        *("label: [", "[1]", "", "label: x", "label: x\nreference: x\nmethods: tome\nidentity: []", whole + "lable: y"),
        *(whole + "saves: no", whole + "saves: 1", whole.replace("tome", "mine"), whole.replace("tome", "3")),
        *(whole.replace("tome", "{tome: {ratio: 7}}"), whole.replace("[tome]", BOMB), whole.replace("tome", "nosuch")),
    ):
        yield Mistake(f"preset: {text[:60]!r}", run("methods=[mine]"), {"configs/methods/mine.yaml": text})


HEAD = """from dataclasses import dataclass, field
from typing import Any
from postdiff.methods.base import Method


@dataclass
class Mine(Method):
    \"\"\"Mine.\"\"\"

    size: int = 1
"""
IMPORTED = {
    **{
        f"raises {error}": HEAD + f"\nraise {error}\n"
        for error in ("ValueError('x')", "KeyError('x')", "OSError(2, 'x')")
    },
    **{
        f"ends by {how}": HEAD + f"\nimport sys\n{how}\n"
        for how in ("sys.exit(0)", "sys.exit('text')", "raise SystemExit", "sys.exit(3)")
    },
    "divides by zero": HEAD + "\n1 / 0\n",
    "recurses": HEAD + "\n\ndef f():\n    f()\n\n\nf()\n",
    "a list as default": HEAD + "    many: list[int] = []\n",
    "no Python": "def (\n",
    "tabs": "if True:\n\tx = 1\n        y = 2\n",
    "null bytes": "x = 1\0",
    "latin-1": b"# -*- coding: utf-8 -*-\nx = 'caf\xe9'\n",
    "imports nothing": "import nosuchpackage_of_mine\n",
    "raises as KeyError subclass": HEAD
    + "\n\nclass E(Exception):\n    def __str__(self):\n        raise ValueError\n\n\nraise E\n",
    "no class": "x = 1\n",
    "two classes": HEAD + HEAD.partition("@dataclass\n")[2].replace("Mine", "Other"),
    "no dataclass": HEAD.replace("@dataclass\n", ""),
    "an option without default": HEAD.replace("size: int = 1", "size: int"),
    "fails when built": HEAD + "\n    def __post_init__(self):\n        raise KeyError('x')\n",
    "no such type": HEAD.replace("int = 1", "Nothing = 1"),
    "an option called step": HEAD + "    step: int = 1\n",
    "an option called attach": HEAD + "    attach: int = 1\n",
    "an option that is no JSON": HEAD + "    thing: Any = field(default_factory=object)\n",
    "an option that is a set": HEAD + "    thing: Any = field(default_factory=lambda: {1})\n",
    "a default of another type": HEAD.replace("= 1", "= 'x'"),
    "exits when built": HEAD + "\n    def __post_init__(self):\n        raise SystemExit\n",
}
DENOISE = "\n    def denoise(self, forward, sample, kwargs, state):\n        {}\n"
STEP = "\n    def step(self, forward, output, timestep, sample, state):\n        {}\n"
RUNNING = {
    **{
        f"denoise: {body}": HEAD + DENOISE.format(body)
        for body in ("return None", "raise TypeError('x')", "raise KeyError('x')", "return 3")
    },
    **{
        f"denoise: {body}": HEAD + DENOISE.format(body)
        for body in ("raise RuntimeError", "raise ValueError('x')", "raise SystemExit", "1 / 0")
    },
    **{f"denoise: {body}": HEAD + DENOISE.format(body) for body in ("assert False", "return forward(sample)")},
    **{
        f"step: {body}": HEAD + STEP.format(body)
        for body in ("return sample", "return None", "raise KeyError('x')", "raise ValueError('x')")
    },
    "claims": HEAD + "\n    def claims(self, network):\n        return 3\n",
    "claims fail": HEAD + "\n    def claims(self, network):\n        raise ValueError('x')\n",
    "attach": HEAD + "\n    def attach(self, network, state):\n        return [3]\n",
    "attach to nothing": HEAD + "\n    def attach(self, network, state):\n        network.nothing\n        return []\n",
    "start": HEAD + "\n    def start(self, state):\n        raise IndexError\n",
    "step_start": HEAD + "\n    def step_start(self):\n        pass\n",
}


def own_methods() -> Iterator[Mistake]:
    """Methods of the user's own."""
    for kind, content in {**IMPORTED, **RUNNING}.items():
        place = "running" if kind in RUNNING else "imported"
        yield Mistake(f"own method {place}: {kind}", run("methods=[{zz_mine: {}}]"), {"methods/zz_mine.py": content})
    for name in ("deepcache", "tome", "base", "options"):
        yield Mistake(
            f"own method imported: a second {name}", run(f"methods=[{{{name}: {{}}}}]"), {f"methods/{name}.py": HEAD}
        )
    yield Mistake("own method imported: a folder", run("methods=[{zz_mine: {}}]"), {"methods/zz_mine.py/x": ""})


def everything() -> list[Mistake]:
    """All of the files and lines here."""
    return [*experiments(), *words(), *presets(), *own_methods()]
