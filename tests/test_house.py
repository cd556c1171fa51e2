"""The house: a book that reads from top to bottom, rooms behind it, and nothing loud in either.

Each rule is a function of sources, so that a made-up source can show that it notices.
"""

import ast
import re
import sys

import pytest

from benchmarks.chapters import BOOK, ROOT, chapters, rendered, total

PACKAGE = ROOT / "tiny_llm"
ROOMS = ["text", "fast", "files", "run", "beyond", "serve", "view", "cli"]
IMPORT_ALL = ["__init__", "__main__"]
PRINT = ["view", "serve", "cli"]
LONGEST_FUNCTION = 45


def module_name(path):
    """view/plot.py -> tiny_llm.view.plot, and view/__init__.py -> tiny_llm.view"""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}


def place(module):
    """The chapter or the room that a module is in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def above(here):
    """What a chapter or a room may import."""
    if here in BOOK:
        return BOOK[: BOOK.index(here)]
    return [*BOOK, *ROOMS[: ROOMS.index(here)]]


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
        if here in IMPORT_ALL:
            continue
        if here not in [*BOOK, *ROOMS]:
            problems.append(f"{module} is neither a chapter nor in a room")
            continue
        for other in own_imports(source, sources):
            there = place(other)
            inside = here == there and here in ROOMS
            if other not in sources:
                problems.append(f"{module} imports {other}, which does not exist by that name")
            elif not (inside or there in above(here) or (here == "cli" and other == "tiny_llm")):
                problems.append(f"{module} imports {other}, which does not stand above it")
    return problems


def naming_rooms(sources):
    """Chapters whose text names a room or a file in one."""
    files = {m.split(".")[2] for m in sources if place(m) in ROOMS and m.count(".") == 2}
    pattern = re.compile(
        rf"\b(?:{'|'.join(ROOMS)})/|tiny_llm\.(?:{'|'.join(ROOMS)})\b|\b(?:{'|'.join(files)})\.py\b"
    )
    return [
        f"{module} names {found[0]}"
        for module, source in sources.items()
        for found in [pattern.search(source)]
        if place(module) in BOOK and found
    ]


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
    """Functions of more than LONGEST_FUNCTION lines."""
    return [
        f"{module}.{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for module, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]


def loud(sources):
    """Modules outside view, serve and cli that print, or reach for the standard streams."""
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


def test_a_chapter_imports_what_stands_above_it_and_a_room_what_stands_before_it():
    assert misplaced(SOURCES) == []


def test_no_chapter_names_a_room():
    assert naming_rooms(SOURCES) == []


def test_the_book_is_all_that_lies_flat():
    flat = {path.stem for path in PACKAGE.glob("*.py")}
    assert flat == {*BOOK, "__init__", "__main__"}
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} <= {*ROOMS}


def test_the_book_keeps_its_length():
    """The aim itself is held: lines that are not empty, docstrings and comments among them."""
    first, whole = total(chapters())
    assert first.lines <= 700
    assert whole.lines <= 1500
    assert first.with_empty <= 800
    assert whole.with_empty <= 1700


def test_a_longer_chapter_is_noticed():
    longer = chapters({"mlp_lm": "x = 1\n" * 900})
    first, whole = total(longer)
    assert first.lines >= 900 and whole.lines >= 900


def test_readme_says_how_long_the_chapters_are():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert rendered(readme) == readme


def test_each_room_says_what_it_is_for():
    for room in ROOMS:
        if f"tiny_llm.{room}" in SOURCES:
            assert len(ast.get_docstring(ast.parse(SOURCES[f"tiny_llm.{room}"])).split()) > 12, room


@needs_module_names
def test_nothing_but_the_standard_library_is_imported():
    assert foreign(SOURCES) == []


def test_functions_are_short():
    assert too_long(SOURCES) == []


def test_only_view_serve_and_cli_print():
    assert loud(SOURCES) == []


# ------------------------------------------------------------------------- the rules can be broken


def made_up(sources):
    """A package like ours: the name of each module, its source."""
    named = {f"tiny_llm.{name}": text for name, text in sources.items()}
    return {"tiny_llm": "", "tiny_llm.layers": "", "tiny_llm.tokenizer": "", **named}


BELOW = "which does not stand above it"


@pytest.mark.parametrize(
    "sources, problem",
    [
        ({"batches": "from tiny_llm.layers import tanh"}, f"imports tiny_llm.layers, {BELOW}"),
        ({"batches": "from tiny_llm import layers"}, f"imports tiny_llm.layers, {BELOW}"),
        ({"batches": "import tiny_llm.layers as o"}, f"imports tiny_llm.layers, {BELOW}"),
        ({"batches": "def f():\n    import tiny_llm.layers"}, f"imports tiny_llm.layers, {BELOW}"),
        ({"batches": "from tiny_llm import CharTokenizer"}, f"batches imports tiny_llm, {BELOW}"),
        ({"batches": "from tiny_llm.text import bpe", "text.bpe": ""}, f"text.bpe, {BELOW}"),
        ({"text.a": "from tiny_llm.fast import b", "fast.b": ""}, f"tiny_llm.fast.b, {BELOW}"),
        ({"view.a": "from tiny_llm.cli import b", "cli.b": ""}, f"imports tiny_llm.cli.b, {BELOW}"),
        ({"batches": "from .tokenizer import x"}, "imports .tokenizer.x, which does not exist"),
        ({"batches": "from tiny_llm.gone import x"}, "imports tiny_llm.gone, which does not exist"),
        ({"novelty": ""}, "novelty is neither a chapter nor in a room"),
        ({"layers": "import tiny_llm.layers"}, "layers imports itself in a circle"),
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
        {"layers": "from tiny_llm.tokenizer import x\nimport math"},
        {"view.a": "from tiny_llm.view import b\nfrom tiny_llm import layers", "view.b": ""},
        {"cli": "from tiny_llm.cli.a import x", "cli.a": "from tiny_llm import __version__"},
        {"fast.b": "from tiny_llm.text.a import x", "text.a": ""},
        {"__main__": "from tiny_llm.cli import main", "cli": ""},
    ],
)
def test_an_import_in_order_is_not(sources):
    assert misplaced(made_up(sources)) == []


@pytest.mark.parametrize("text", ["# see text/bpe.py", '"""tiny_llm.fast"""', "# as in bpe.py"])
def test_a_chapter_that_names_a_room_is_noticed(text):
    assert naming_rooms(made_up({"batches": text, "text.bpe": ""}))
    assert not naming_rooms(made_up({"fast.a": text, "text.bpe": ""}))


@needs_module_names
@pytest.mark.parametrize("line", ["import numpy", "from torch.nn import Linear"])
def test_a_third_party_package_is_noticed(line):
    assert len(foreign(made_up({"batches": f"import math\n{line}"}))) == 1


def test_length_is_noticed():
    body = "    x = 1\n" * LONGEST_FUNCTION
    long, short = {"batches": "def f():\n" + body}, {"batches": "def f():\n" + body[10:]}
    assert too_long(made_up(long)) == ["tiny_llm.batches.f has 46 lines"]
    assert too_long(made_up(short)) == []


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
