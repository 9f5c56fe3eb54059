"""The order of imports, the public names, and the module tree in docs/architecture.md."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trifocal
from helpers.scripts import load_script

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "trifocal"

# A module of one layer imports only from layers above it in this list; docs/architecture.md describes them.
LAYERS = (
    ("types", "errors"),
    ("utils",),
    ("container", "pictures", "weights"),
    ("layers", "graphs"),
    ("transforms",),
    ("entropy", "text", "detection", "diffusion"),
    ("grounding",),
    ("losses",),
    ("codecs",),
    ("recipes",),
    ("preset_table",),
    ("text_conditioning",),
    ("presets",),
    ("data",),
    ("file_detection",),
    ("options",),
    ("api",),
    ("evaluation",),
    ("training", "batch"),
    ("__init__",),
    ("pillow", "demo"),
    ("web",),
    ("cli",),
    ("__main__",),
)
STEP = {name: step for step, names in enumerate(LAYERS) for name in names}
PAPERS = {
    "taco",
    "taco_compact",
    "cross_modal",
    "cross_modal_compact",
    "dual_layer",
    "dual_layer_compact",
    "ug_icm",
    "ug_icm_compact",
    "discover",
}

NEVER = {
    "container": ("torch", "numpy"),
    "pictures": ("torch",),
    "transforms": (
        "trifocal.container",
        "trifocal.pictures",
        "trifocal.utils.files",
        "PIL",
        "pathlib",
        "os",
        "io",
    ),
}
# Networks that only metrics use (torchvision's and transformers') belong to evaluation too.
ONLY_IN = {
    "constriction": "entropy",
    "transformers": "text grounding evaluation diffusion",
    "diffusers": "diffusion",
    "torchvision.models": "detection evaluation",
    "accelerate": "training",
    "ray": "batch",
    "fastapi": "web",
    "prometheus_client": "web",
    "starlette": "web",
    "uvicorn": "web",
    "flask": "web",
    "gradio": "web",
}


def package_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def dotted(path: Path, package: Path = PACKAGE) -> str:
    """`trifocal/entropy/coder.py` is `trifocal.entropy.coder`, and a folder's __init__ is the folder."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def layer_name(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """The full name of every import of the source, also inside functions."""
    here = module.split(".") if is_package else module.split(".")[:-1]
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """Violations of the rules in this source, as sentences."""
    layer = layer_name(module)
    found = []
    for name in imports(source, module, is_package):
        if is_in(name, "trifocal"):
            found += import_faults(name, module, layer)
        for package in NEVER.get(layer, ()):
            if is_in(name, package):
                found.append(f"{module} imports {name}, and {layer} never imports {package}")
        for package, owners in ONLY_IN.items():
            if is_in(name, package) and layer not in owners.split():
                found.append(
                    f"{module} imports {name}, and only {' and '.join(owners.split())} may have {package}"
                )
    return found


def import_faults(name: str, module: str, layer: str) -> list[str]:
    other = layer_name(name) if layer_name(name) in STEP else "__init__"
    if (
        module.split(".")[-1] in PAPERS
        and layer == "codecs"
        and not is_in(name, module)
        and PAPERS & {*name.split(".")[2:3]}
    ):
        return [f"{module} imports {name}, and a paper's file never imports another paper's"]
    if layer in ("__init__", other) or STEP[other] < STEP[layer]:
        return []
    return [f"{module} (step {STEP[layer]}) imports {name} (step {STEP[other]}), which comes later"]


def test_every_file_is_in_the_import_order() -> None:
    strangers = {layer_name(dotted(path)) for path in package_files()} - STEP.keys()
    assert not strangers, f"add {strangers} to LAYERS"


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_order(path: Path) -> None:
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
        ("trifocal.entropy.integer_networks", "from trifocal.text.encoder import Words"),
        ("trifocal.codecs.codec", "import constriction"),
        ("trifocal.losses", "from trifocal import codecs"),
        ("trifocal.codecs.taco", "from trifocal.codecs.cross_modal import CrossModal"),
        ("trifocal.codecs.taco", "from trifocal.codecs import dual_layer"),
        ("trifocal.evaluation.evaluate", "from trifocal.training import train"),
        ("trifocal.data.images", "from accelerate import Accelerator"),
        ("trifocal.losses", "from torchvision.models import vgg16"),
        ("trifocal.pillow", "from trifocal.cli import app"),
    ],
)
def test_import_rules_reject(module: str, source: str) -> None:
    assert faults(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trifocal.container.bitstream", "from trifocal.container.fields import Header"),
        ("trifocal.container.bitstream", "from .fields import Header"),
        (
            "trifocal.codecs.codec",
            "from trifocal.container import Bitstream\nfrom trifocal.types import Output",
        ),
        ("trifocal.codecs.taco", "from trifocal.codecs.codec import Codec"),
        ("trifocal.entropy.coder", "import constriction"),
        ("trifocal.cli.coding", "import trifocal\nfrom trifocal.container import Bitstream"),
    ],
)
def test_import_rules_accept(module: str, source: str) -> None:
    assert not faults(source, module)


COMMANDS = [path for path in sorted((PACKAGE / "cli").glob("*.py")) if path.stem not in ("console", "paths")]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_cli_modules_import_large_packages_only_inside_functions(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    at_top = "\n".join(
        ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))
    )
    names = list(imports(at_top, "trifocal.cli", is_package=False))
    allowed = {*sys.stdlib_module_names, "typer"}
    ours = ("trifocal.errors", "trifocal.cli")
    heavy = ("trifocal.cli.console", "trifocal.cli.paths")
    light = [
        n
        for n in names
        if n.split(".")[0] in allowed
        or (any(is_in(n, our) for our in ours) and not any(is_in(n, h) for h in heavy))
    ]
    assert names == light


def test_importing_trifocal_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, trifocal, trifocal.cli, trifocal.container\n"
    code += "print({'torch', 'numpy', 'PIL'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_public_names_exist() -> None:
    assert trifocal.__all__ == sorted(set(trifocal.__all__))
    for name in trifocal.__all__:
        assert getattr(trifocal, name) is not None
        assert name in dir(trifocal)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = trifocal.nonsense


def test_public_names_are_imported_for_type_checkers() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    seen = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert seen | {"__version__"} == set(trifocal.__all__)


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_all_lists_only_names_that_exist(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    listed: list[str] = []
    bound: set[str] = set()
    guarded = [node for part in tree.body if isinstance(part, ast.Try | ast.With) for node in part.body]
    for node in [*tree.body, *guarded]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
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


def test_architecture_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert load_script("scripts/architecture.py").with_tree(page) == page, "run scripts/architecture.py"


def test_files_stay_under_400_lines() -> None:
    long = {
        dotted(path): n for path in package_files() if (n := len(path.read_text("utf-8").splitlines())) > 400
    }
    assert not long, f"over 400 lines; split them: {long}"


def graph() -> dict[str, set[str]]:
    """Every module of the package, and the modules that it imports, also for types only."""
    names = {dotted(path): path for path in package_files()}
    return {
        name: {
            found
            for text in imports(path.read_text("utf-8"), name, path.name == "__init__.py")
            for found in (text, text.rpartition(".")[0])
            if found in names and found != name and not is_in(name, found)
        }
        for name, path in names.items()
    }


def test_no_import_cycles() -> None:
    left = {name: {*targets} - {"trifocal.__init__"} for name, targets in graph().items()}
    while leaves := {name for name, targets in left.items() if not targets}:
        left = {name: targets - leaves for name, targets in left.items() if name not in leaves}
    assert not left, f"these import each other: {sorted(left)}"


def test_few_files_at_the_top() -> None:
    assert len(list(PACKAGE.glob("*.py"))) < 15


def test_tests_do_not_import_each_other() -> None:
    """No test imports another test or conftest.py; both can run alone."""
    modules = {path.stem for path in ROOT.glob("tests/*.py")} - {"fuzzing"}
    wrong = []
    for path in (*ROOT.glob("tests/*.py"), *ROOT.glob("tests/helpers/*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{path.name}: {name}" for name in names if name in modules]
    assert not wrong, f"{wrong}: move what tests share to tests/helpers."
