"""Cases C03, C24 and C27: config files of users, the modules beside them, and versions of their functions."""

import sys

import pytest

from vos_jax import config as configs
from vos_jax import errors

MINE = """
def mine(template, weights, proposal):
    return (weights * (template * proposal).sum(-1)).mean(), proposal, None
"""
GET = """
def get_config():
    return configs.replace(configs.default(), {"model.alignment": %s})
"""
HEAD = "from vos_jax import config as configs\n"


@pytest.fixture(autouse=True)
def clean_imports():
    """Each test has folders of its own."""
    before, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if not name.startswith(("vos_jax.", "tests.")):
            del sys.modules[name]


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def alignment_of(path):
    return configs.flatten(configs.load(path))["model.alignment"]


# ---------------------------------------------------------------- C24: what lies beside the file
def test_c24_a_config_imports_its_neighbour(tmp_path):
    write(tmp_path, variants=MINE, exp1=HEAD + "import variants\n" + GET % "variants.mine")
    assert configs.load(tmp_path / "exp1.py").model.alignment.__name__ == "mine"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("from variants import mine", "mine"),
        ("from parts.variants import mine", "mine"),
        ("import parts.variants as v", "v.mine"),
        ("from parts import variants", "variants.mine"),
    ],
)
def test_c24_in_every_form_of_import(tmp_path, monkeypatch, line, value):
    write(tmp_path, variants=MINE, exp=HEAD + line + "\n" + GET % value)
    write(tmp_path / "parts", __init__="", variants=MINE)
    monkeypatch.chdir(tmp_path)
    assert configs.load("./exp.py").model.alignment.__name__ == "mine"


def test_c24_an_import_inside_get_config_and_inside_the_variant(tmp_path):
    late = (
        HEAD + "def mine(t, w, p):\n    import variants\n    return variants.mine(t, w, p)\n" + GET % "mine"
    )
    write(tmp_path, variants=MINE, exp=late)
    import numpy as np

    assert configs.load(tmp_path / "exp.py").model.alignment(*[np.ones((2, 2))] * 3)[2] is None


def test_c24_two_folders_have_each_their_own_neighbour(tmp_path):
    for name in ("one", "two"):
        text = MINE.replace("mean()", "sum()") if name == "two" else MINE
        write(tmp_path / name, variants=text, exp=HEAD + "import variants\n" + GET % "variants.mine")
    found = [configs.load(tmp_path / name / "exp.py").model.alignment for name in ("one", "two", "one")]
    assert [function.__code__.co_filename.split("/")[-2] for function in found] == ["one", "two", "one"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import variantz\n", "line 2: No module named 'variantz'; modules are looked for beside the file"),
        ("x = 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("def get_config(:\n", "line 2: "),
        ("from broken import x\n", "broken.py: line 1: "),
        ("import late\n", "line 2: KeyError: 'nothing'"),
        ("def get_config():\n    return configs.default().model.alignement\n", "line 3: .*alignement"),
        ("def get_config():\n    return open('missing.txt')\n", "line 3: FileNotFoundError"),
        ("get_config = 3\n", "defines no get_config"),
        ("def get_config():\n    return configs.replace(3, {})\n", "line 3: "),
        ("def get_config():\n    return None\n", "returned a NoneType"),
    ],
)
def test_c24_every_error_of_a_config_file_is_one_line(tmp_path, text, message):
    write(tmp_path, broken="def x(:\n", late="{}['nothing']\n", exp=HEAD + text)
    with pytest.raises(errors.VosError, match=message) as found:
        configs.load(tmp_path / "exp.py")
    assert str(tmp_path) in str(found.value) and "\n" not in str(found.value)


# ---------------------------------------------------------------- C27: a slip of the pen
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('{"model.memory.evry": 2}', "no config key 'model.memory.evry'; nearest: model.memory.every"),
        (
            '{"model.raed.affinity": "dot"}',
            "no config key 'model.raed.affinity'; nearest: model.read.affinity",
        ),
        ('{"model.alignement": min}', "nearest: model.alignment"),
        ('{"train.data.sources.davs.weight": 1.0}', "nearest: train.data.sources.davis.weight"),
        ('{"model.memory.every": "2"}', "model.memory.every takes a whole number; found '2'"),
        ('{"seed": 1.5}', "seed takes a whole number"),
        ('{"model.memory": {"every": 2}}', "model.memory takes"),
    ],
)
def test_c27_a_typo_in_a_config_file_is_named(tmp_path, change, message):
    write(
        tmp_path, typo=HEAD + f"def get_config():\n    return configs.replace(configs.default(), {change})\n"
    )
    with pytest.raises(errors.VosError, match=message):
        configs.load(tmp_path / "typo.py")


@pytest.mark.parametrize(
    "line",
    [
        "config.memory.evry = 2",
        "config.model.raed = 'topk'",
        "config.model['read'] = 'topk'",
        "config.model.memory.every = 2",
        "config['model'] = 3",
    ],
)
def test_c27_settings_are_not_changed_in_place(tmp_path, line):
    text = f"def get_config():\n    config = configs.default()\n    {line}\n    return config\n"
    write(tmp_path, typo=HEAD + text)
    with pytest.raises(errors.VosError, match=r"line 4: .*frozen: return configs.replace\(config, "):
        configs.load(tmp_path / "typo.py")


# ---------------------------------------------------------------- C03: which code made a result
FLAG = "FLAG = 1.0\ndef mine(t, w, p):\n    return FLAG * (t * p).mean(), p, None\n"


@pytest.mark.parametrize("edited", ["exp", "variants", "deeper"])
def test_c03_an_edit_is_seen_wherever_the_function_lies(tmp_path, edited):
    write(
        tmp_path,
        deeper="SCALE = 2.0\n",
        variants="import deeper\n" + FLAG,
        exp=HEAD + "import variants\n" + GET % "variants.mine",
    )
    if edited == "exp":
        write(tmp_path, exp=HEAD + FLAG + GET % "mine")
    before = alignment_of(tmp_path / "exp.py")
    assert alignment_of(tmp_path / "exp.py") == before, "the same code has the same name"
    path = tmp_path / f"{edited}.py"
    path.write_text(path.read_text().replace("1.0", "-1.0").replace("2.0", "3.0"))
    assert alignment_of(tmp_path / "exp.py") != before


VALUES = {
    "an environment variable": "import os\nFLAG = float(os.environ['K'])\n"
    "def mine(t, w, p):\n    return FLAG * (t * p).mean(), p, None\n" + GET % "mine",
    "read by a helper": "import os\nFLAG = os.environ['K']\ndef scale():\n    return float(FLAG)\n"
    "def mine(t, w, p):\n    return scale() * (t * p).mean(), p, None\n" + GET % "mine",
    "a closure": "import os\ndef make(scale):\n    return lambda t, w, p: (scale * (t * p).mean(), p, None)\n"
    + GET % "make(float(os.environ['K']))",
    "a default": "import os\ndef mine(t, w, p, scale=float(os.environ['K'])):\n"
    "    return scale * (t * p).mean(), p, None\n" + GET % "mine",
    "a partial": "import functools, os\ndef mine(t, w, p, scale):\n    return scale * t.mean(), p, None\n"
    + GET % "functools.partial(mine, scale=float(os.environ['K']))",
    "an array": "import functools, os\nimport numpy as np\n"
    "def mine(t, w, p, scale):\n    return scale * t.mean(), p, None\n"
    + GET
    % "functools.partial(mine, scale=np.full(5000, float(os.environ['K'])))",
    "an object": "import os\nclass Mine:\n    def __init__(self, scale):\n        self.scale = scale\n"
    "    def __call__(self, t, w, p):\n        return self.scale * t.mean(), p, None\n"
    + GET
    % "Mine(float(os.environ['K']))",
    "a method": "import os\nclass Mine:\n    def __init__(self, scale):\n        self.scale = scale\n"
    "    def align(self, t, w, p):\n        return self.scale * t.mean(), p, None\n"
    + GET
    % "Mine(float(os.environ['K'])).align",
}


@pytest.mark.parametrize("kind", VALUES)
def test_c03_values_that_a_function_holds_are_seen(tmp_path, monkeypatch, kind):
    write(tmp_path, exp=HEAD + VALUES[kind])
    found = []
    for value in ("1", "1", "2"):
        monkeypatch.setenv("K", value)
        found.append(alignment_of(tmp_path / "exp.py"))
    assert found[0] == found[1] != found[2]


def test_c03_a_file_of_its_own_has_the_name_that_older_runs_noted(tmp_path):
    """A hash of the file alone, so that runs which began before go on."""
    import hashlib

    text = HEAD + MINE + GET % "mine"
    write(tmp_path, exp=text)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    assert alignment_of(tmp_path / "exp.py") == f"vos_jax_config_exp:mine@{digest}"
