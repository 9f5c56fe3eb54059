"""The shape of the house: imports go down the staircase, rooms keep to themselves, the front door and README are true."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trifocal

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / "trifocal"

# A room imports only from rooms on lower steps. The front door (`import trifocal`) stands below the four rooms above it.
STAIRCASE = (
    ("types", "errors", "files", "clock"),
    ("limits",),
    ("container", "pictures", "weights"),
    ("layers",),
    ("transforms",),
    ("entropy", "text", "machine"),
    ("losses", "rate", "sidecar"),
    ("codec", "refinement"),
    ("trunk", "allocated", "layered"),
    ("methods",),
    ("recipes",),
    ("preset_table",),
    ("presets",),
    ("data", "words"),
    ("seeing",),
    ("evaluation",),
    ("training",),
    ("__init__",),
    ("paths",),
    ("batch", "web", "pillow", "demo", "console", "attention"),
    ("cli",),
    ("__main__",),
)
STEP = {room: step for step, rooms in enumerate(STAIRCASE) for room in rooms}

NEVER = {
    "container": ("torch", "numpy"),
    "pictures": ("torch",),
    "transforms": ("trifocal.container", "trifocal.pictures", "trifocal.files", "PIL", "pathlib", "os", "io"),
    "codec": ("trifocal.text", "trifocal.machine", "trifocal.losses"),
}
# Judges that no codec is made of (torchvision's and transformers' networks) are evaluation's too.
ONLY_ROOM_WITH = {
    "constriction": "entropy",
    "transformers": "text evaluation",
    "torchvision.models": "machine evaluation",
    "accelerate": "training",
    "ray": "batch",
    "fastapi": "web",
    "starlette": "web",
    "uvicorn": "web",
    "flask": "web",
    "gradio": "web",
}


def files_of_house() -> list[Path]:
    return sorted(path for path in HOUSE.rglob("*.py") if "__pycache__" not in path.parts)


def dotted(path: Path, house: Path = HOUSE) -> str:
    """`trifocal/entropy/exact.py` is `trifocal.entropy.exact`, and a folder's __init__ is the folder."""
    parts = path.relative_to(house.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Every name that the source imports, in full, wherever the import stands."""
    here = module.split(".") if is_package else module.split(".")[:-1]
    tree = ast.parse(source)
    if module == "trifocal.types":  # it names, for type checkers only, what the rooms above it make
        tree.body = [node for node in tree.body if not is_for_type_checkers(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """What in this source breaks the rules, as sentences; empty where nothing does."""
    room = room_of(module)
    found = []
    for name in imports(source, module, is_package):
        if is_in(name, "trifocal"):
            found += house_faults(name, module, room)
        for package in NEVER.get(room, ()):
            if is_in(name, package):
                found.append(f"{module} imports {name}, and {room} never imports {package}")
        for package, owners in ONLY_ROOM_WITH.items():
            if is_in(name, package) and room not in owners.split():
                found.append(
                    f"{module} imports {name}, and only {' and '.join(owners.split())} may have {package}"
                )
    return found


def house_faults(name: str, module: str, room: str) -> list[str]:
    other = room_of(name) if room_of(name) in STEP else "__init__"
    if other == "methods" and room == "methods" and not is_in(name, module) and name.count(".") > 1:
        return [f"{module} imports {name}, and a method never imports another method"]
    if room in ("__init__", other) or STEP[other] < STEP[room]:
        return []
    return [f"{module} (step {STEP[room]}) imports {name} (step {STEP[other]}), which is not below it"]


def test_every_file_lives_in_a_room_of_the_staircase() -> None:
    strangers = {room_of(dotted(path)) for path in files_of_house()} - STEP.keys()
    assert not strangers, f"say on which step {strangers} stand"


@pytest.mark.parametrize("path", files_of_house(), ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_go_down_the_staircase(path: Path) -> None:
    assert not faults(path.read_text("utf-8"), dotted(path), path.name == "__init__.py")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trifocal.container.fields", "import numpy as np"),
        ("trifocal.container.fields", "from trifocal.pictures import Picture"),
        ("trifocal.container.fields", "from ..pictures import Picture"),
        ("trifocal.container.fields", "from .. import pictures"),
        ("trifocal.pictures", "import trifocal.container.fields"),
        ("trifocal.layers", "from trifocal import load"),
        ("trifocal.layers", "import trifocal"),
        ("trifocal.transforms.analysis", "def f():\n    from pathlib import Path"),
        ("trifocal.entropy.exact", "from trifocal.text.encoder import Words"),
        ("trifocal.codec", "import constriction"),
        ("trifocal.codec", "from trifocal import losses"),
        ("trifocal.methods.taco", "from trifocal.methods.discover import Discover"),
        ("trifocal.methods.taco", "from trifocal.methods import discover"),
        ("trifocal.evaluation.evaluate", "from trifocal.training import train"),
        ("trifocal.data.images", "from accelerate import Accelerator"),
        ("trifocal.losses", "from torchvision.models import vgg16"),
        ("trifocal.pillow", "from trifocal.web import app"),
    ],
)
def test_the_rules_refuse(module: str, source: str) -> None:
    assert faults(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trifocal.container.bitstream", "from trifocal.container.fields import Header"),
        ("trifocal.container.bitstream", "from .fields import Header"),
        ("trifocal.codec", "from trifocal.container import Bitstream\nfrom trifocal.types import Output"),
        ("trifocal.methods.taco", "from trifocal.codec import Codec"),
        ("trifocal.entropy.coder", "import constriction"),
        ("trifocal.cli.coding", "import trifocal\nfrom trifocal.container import Bitstream"),
    ],
)
def test_the_rules_allow(module: str, source: str) -> None:
    assert not faults(source, module)


@pytest.mark.parametrize("path", sorted((HOUSE / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_cli_imports_what_is_heavy_only_inside_its_verbs(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    at_top = "\n".join(
        ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))
    )
    names = list(imports(at_top, "trifocal.cli", is_package=False))
    allowed = {*sys.stdlib_module_names, "typer"}
    ours = ("trifocal.errors", "trifocal.cli")
    light = [n for n in names if n.split(".")[0] in allowed or any(is_in(n, our) for our in ours)]
    assert names == light


def test_no_import_of_trifocal_loads_torch_or_numpy() -> None:
    code = "import sys, trifocal, trifocal.cli, trifocal.container; print({'torch', 'numpy', 'PIL'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_front_door_names_are_true() -> None:
    assert trifocal.__all__ == sorted(set(trifocal.__all__))
    for name in trifocal.__all__:
        assert getattr(trifocal, name) is not None
        assert name in dir(trifocal)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = trifocal.nonsense


def test_type_checkers_see_the_names_that_the_front_door_gives() -> None:
    tree = ast.parse((HOUSE / "__init__.py").read_text("utf-8"))
    seen = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert seen | {"encode", "decode", "detect"} == set(trifocal.__all__)


@pytest.mark.parametrize("path", files_of_house(), ids=lambda path: str(path.relative_to(HOUSE)))
def test_all_lists_only_names_that_exist(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    listed: list[str] = []
    bound: set[str] = set()
    guarded = [node for part in tree.body if isinstance(part, ast.Try) for node in part.body]
    for node in [*tree.body, *guarded]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
            bound |= names
            if "__all__" in names and node.value is not None:
                listed = ast.literal_eval(node.value)
    if dotted(path) == "trifocal.__init__":
        bound |= set(trifocal.__all__)
    assert set(listed) <= bound and len(set(listed)) == len(listed)


def tree_of_readme(text: str) -> list[str]:
    """The paths that README's tree names. A line is `├── name  words`; a folder's line may name its files among the words."""
    block = re.search(r"^```\w*\n(trifocal/\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block, "README.md has no ``` block that begins with the line trifocal/"
    paths: list[str] = []
    parents = [""]
    for line in block[1].splitlines()[1:]:
        entry = re.match(r"([│ ]*)[├└]── (\S+)(.*)", line)
        if not entry:
            continue
        depth = len(entry[1]) // 4
        path = parents[depth] + entry[2]
        parents[depth + 1 :] = [path if path.endswith("/") else path + "/"]
        paths.append(path)
        if path.endswith("/"):
            paths += [path + name for name in re.findall(r"(?<!\S)[\w.*]+\.\w+(?!\S)", entry[3])]
    return paths


def test_the_tree_of_a_readme_is_read_as_people_draw_it() -> None:
    drawn = (
        "```\ntrifocal/\n├── codec.py      the road\n│   ── a heading ──\n├── entropy/      a ⇄ b: exact.py  coder.py\n"
        "├── container/\n│   ├── FORMAT.md  the law\n│   └── fields.py\n└── weights/*.safetensors   ship\n```\n"
    )
    expected = "codec.py entropy/ entropy/exact.py entropy/coder.py container/ container/FORMAT.md container/fields.py"
    assert tree_of_readme(drawn) == [*expected.split(), "weights/*.safetensors"]


def test_readme_names_what_is_there() -> None:
    paths = tree_of_readme((ROOT / "README.md").read_text("utf-8"))
    assert len(set(paths)) == len(paths), "README's tree names something twice"
    missing = [path for path in paths if not list(HOUSE.glob(path.rstrip("/")))]
    assert not missing, f"README's tree names what does not exist: {missing}"


def test_readme_leaves_no_file_out() -> None:
    paths = set(tree_of_readme((ROOT / "README.md").read_text("utf-8")))
    there = {path.relative_to(HOUSE).as_posix() for path in files_of_house()}
    there = {path for path in there if not (path.endswith("/__init__.py"))}
    assert not there - paths, f"README's tree leaves out {sorted(there - paths)}"


def test_no_room_outgrows_its_walls() -> None:
    long = {
        dotted(path): n for path in files_of_house() if (n := len(path.read_text("utf-8").splitlines())) > 400
    }
    assert not long, f"over 400 lines: do two things live there? {long}"
