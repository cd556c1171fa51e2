"""The shape of the source: read from the top down, standard library only, short, and quiet.

Each rule is a function of sources, so that a made-up source can show that it notices.
"""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tiny_llm"

# A module imports only what stands above it. Inside a folder there may be any order, but no circle.
ORDER = [
    "tokenizer", "batches", "matmul", "layers", "text", "model", "mlp_lm", "gradcheck",
    "optimizers", "training", "fast", "files", "sampling", "attention_lm", "modern_block", "view",
    "cli",
]  # fmt: skip
IMPORT_ALL = ["__init__", "__main__", "cli"]
PRINT = ["view", "cli"]
FOLDERS = [*PRINT, "text", "fast", "files"]

LONGEST_FUNCTION = 45
LONGEST_RUNG = {"mlp_lm": 150, "attention_lm": 200, "modern_block": 300}


def module_name(path):
    """view/walk.py -> tiny_llm.view.walk, and view/__init__.py -> tiny_llm.view"""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}


def place(module):
    """The name by which a module stands in ORDER: its file or its folder."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported(source):
    """Every name that an import statement names, wherever it stands in the source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def own_imports(source, modules):
    """The modules of the package that a source imports; `from package import module` is one."""
    for name in imported(source):
        if name.startswith("."):
            yield name  # a relative import, in no list
        elif name.split(".")[0] == "tiny_llm":
            yield name if name in modules else name.rpartition(".")[0]


def circles(sources):
    """The modules from which imports lead back to themselves."""
    graph = {module: set(own_imports(source, sources)) for module, source in sources.items()}
    found = []
    for module in graph:
        reached, ahead = set(), graph[module]
        while ahead:
            reached |= ahead
            ahead = set().union(*(graph.get(m, ()) for m in ahead)) - reached
        if module in reached:
            found.append(f"{module} imports itself in a circle")
    return found


def misplaced(sources):
    """What breaks the order of the imports, one line each."""
    problems = circles(sources)
    for module, source in sources.items():
        here = place(module)
        if here not in ORDER and here not in IMPORT_ALL:
            problems.append(f"{module} has no place in the order")
            continue
        for other in own_imports(source, sources):
            there = place(other)
            above = there in ORDER[: ORDER.index(here)] if here in ORDER else True
            if other not in sources:
                problems.append(f"{module} imports {other}, which does not exist by that name")
            elif not (here in IMPORT_ALL or above or (here == there and here in PRINT)):
                problems.append(f"{module} imports {other}, which does not stand above it")
    return problems


def foreign(sources):
    """Imports of what is neither the package nor the standard library."""
    known = {*sys.stdlib_module_names, "tiny_llm"}
    return [
        f"{module} imports {name}"
        for module, source in sources.items()
        for name in imported(source)
        if not name.startswith(".") and name.split(".")[0] not in known
    ]


def too_long(sources):
    """Functions of more than LONGEST_FUNCTION lines, rungs of more lines than they may have."""
    problems = []
    for module, source in sources.items():
        lines = len(source.splitlines())
        if lines > LONGEST_RUNG.get(place(module), lines):
            problems.append(f"{module} has {lines} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    problems.append(f"{module}.{node.name} has {length} lines")
    return problems


def loud(sources):
    """Modules outside view and cli that print, or reach for the standard streams."""
    problems = []
    for module, source in sources.items():
        if place(module) in PRINT:
            continue
        for node in ast.walk(ast.parse(source)):
            name = getattr(node, "id", getattr(node, "attr", getattr(node, "name", None)))
            if name in ("print", "stdout", "stderr", "__stdout__", "__stderr__"):
                problems.append(f"{module} uses {name}")
    return problems


needs_module_names = pytest.mark.skipif(
    sys.version_info < (3, 10), reason="sys.stdlib_module_names is new in Python 3.10"
)


def test_a_module_imports_only_what_stands_above_it():
    assert misplaced(SOURCES) == []


@needs_module_names
def test_nothing_but_the_standard_library_is_imported():
    assert foreign(SOURCES) == []


def test_functions_and_rungs_are_short():
    assert too_long(SOURCES) == []


def test_only_view_and_cli_print():
    assert loud(SOURCES) == []


def test_the_whole_package_is_read():
    assert {place(module) for module in SOURCES} == {*ORDER, *IMPORT_ALL}
    assert {"tiny_llm", "tiny_llm.layers", "tiny_llm.cli", "tiny_llm.__main__"} <= SOURCES.keys()


# ------------------------------------------------------------------------- the rules can be broken


def made_up(sources):
    """A package like ours: the name of each module, its source."""
    named = {f"tiny_llm.{name}": text for name, text in sources.items()}
    return {"tiny_llm": "", "tiny_llm.layers": "", "tiny_llm.tokenizer": "", **named}


BELOW = "which does not stand above it"


@pytest.mark.parametrize(
    "sources, problem",
    [
        (
            {"batches": "from tiny_llm.layers import tanh"},
            f"batches imports tiny_llm.layers, {BELOW}",
        ),
        ({"batches": "from tiny_llm import ops"}, f"batches imports tiny_llm.layers, {BELOW}"),
        ({"batches": "import tiny_llm.layers as o"}, f"batches imports tiny_llm.layers, {BELOW}"),
        (
            {"batches": "def f():\n    import tiny_llm.layers"},
            f"batches imports tiny_llm.layers, {BELOW}",
        ),
        ({"batches": "from tiny_llm import CharTokenizer"}, f"batches imports tiny_llm, {BELOW}"),
        ({"view.a": "from tiny_llm.cli import b", "cli.b": ""}, f"imports tiny_llm.cli.b, {BELOW}"),
        ({"batches": "from .tokenizer import x"}, "imports .tokenizer.x, which does not exist"),
        ({"batches": "from tiny_llm.gone import x"}, "imports tiny_llm.gone, which does not exist"),
        ({"novelty": ""}, "novelty has no place in the order"),
        ({"ops": "import tiny_llm.layers"}, "ops imports itself in a circle"),
        (
            {
                "cli.a": "from tiny_llm.cli import b",
                "cli.b": "from tiny_llm.cli.c import x",
                "cli.c": "import tiny_llm.cli.a",
            },
            "cli.b imports itself in a circle",
        ),
    ],
)
def test_an_import_out_of_order_is_noticed(sources, problem):
    assert any(problem in line for line in misplaced(made_up(sources)))


@pytest.mark.parametrize(
    "sources",
    [
        {"ops": "from tiny_llm.tokenizer import x\nimport math"},
        {"view.a": "from tiny_llm.view import b\nfrom tiny_llm import ops", "view.b": ""},
        {"cli": "from tiny_llm.cli.a import x", "cli.a": "from tiny_llm import __version__"},
        {"__main__": "from tiny_llm.cli import main", "cli": ""},
    ],
)
def test_an_import_in_order_is_not(sources):
    assert misplaced(made_up(sources)) == []


@needs_module_names
@pytest.mark.parametrize("line", ["import numpy", "from torch.nn import Linear"])
def test_a_third_party_package_is_noticed(line):
    assert len(foreign(made_up({"batches": f"import math\n{line}"}))) == 1


def test_length_is_noticed():
    body = "    x = 1\n" * LONGEST_FUNCTION
    long, short = {"batches": "def f():\n" + body}, {"batches": "def f():\n" + body[10:]}
    assert too_long(made_up(long)) == ["tiny_llm.batches.f has 46 lines"]
    assert too_long(made_up(short)) == []
    assert too_long(made_up({"mlp_lm": "\n" * 151})) == ["tiny_llm.mlp_lm has 151 lines"]
    assert too_long(made_up({"mlp_lm": "\n" * 150})) == []


@pytest.mark.parametrize(
    "source",
    [
        "print('hello')",
        "import sys\nsys.stdout.write('hello')",
        "from sys import stderr as quiet",
        "show = print",
    ],
)
def test_a_loud_module_is_noticed(source):
    assert loud(made_up({"batches": source}))
    assert not loud(made_up({"cli.a": source, "view.b": source}))
