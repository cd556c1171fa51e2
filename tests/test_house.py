"""The house: a book that reads from top to bottom, rooms behind it, and nothing loud in either.

Each rule is a function of sources, so that a made-up source can show that it notices.
"""

import ast
import re
import sys

import pytest

from benchmarks.chapters import BEGIN, BOOK, END, ROOT, chapters, rendered, table, total

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
    rooms = "|".join(ROOMS)
    inside = [m.split(".") for m in sources if place(m) in ROOMS and m.count(".") > 1]
    files = "|".join({parts[-1] for parts in inside} - {*BOOK})
    pattern = re.compile(
        rf"\b(?:{rooms})/|tiny_llm[./](?:{rooms})\b" + rf"|\b(?:{files})\.py\b" * bool(files)
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


def test_the_whole_package_is_read():
    assert {f"tiny_llm.{chapter}" for chapter in BOOK} < SOURCES.keys()
    assert {"tiny_llm", "tiny_llm.cli", "tiny_llm.fast.kv_cache", "tiny_llm.__main__"} < {*SOURCES}
    assert len(SOURCES) == len(list(PACKAGE.rglob("*.py")))


def test_the_book_is_all_that_lies_flat():
    flat = {path.stem for path in PACKAGE.glob("*.py")}
    assert flat == {*BOOK, "__init__", "__main__"}
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} <= {*ROOMS}


def test_the_book_keeps_its_length():
    """The aims are held twice: for the lines that are not empty, and, a little wider, for all."""
    first, whole = total(chapters())
    assert first.lines <= 700
    assert whole.lines <= 1500
    assert first.with_empty <= 750
    assert whole.with_empty <= 1600


def test_readme_says_how_long_the_chapters_are():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert BEGIN in readme and END in readme, f"README.md has no place ({BEGIN}) for the table"
    assert rendered(readme) == readme, "python3 benchmarks/chapters.py writes the table anew"


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
        ({"view.a": "from tiny_llm import train"}, f"view.a imports tiny_llm, {BELOW}"),
        ({"run.a": "from tiny_llm.serve import b", "serve.b": ""}, f"tiny_llm.serve.b, {BELOW}"),
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


NAMING = [
    "# see text/bpe.py", '"""tiny_llm.fast"""', "# as in bpe.py", "# in tiny_llm/view",
    "# deep.py draws it", "x = 'cli/'",
]  # fmt: skip
SILENT = ["# a context/window, a review/report", "# layers.py (chapter 4)", "# fast, in the text"]


@pytest.mark.parametrize("text", NAMING)
def test_a_chapter_that_names_a_room_is_noticed(text):
    rooms = {"text.bpe": "", "view.a.deep": "", "cli.layers": ""}
    assert naming_rooms(made_up({"batches": text, **rooms}))
    assert not naming_rooms(made_up({"fast.a": text, **rooms}))


@pytest.mark.parametrize("text", SILENT)
def test_a_chapter_that_names_no_room_is_not(text):
    rooms = {"text.bpe": "", "view.a.deep": "", "cli.layers": ""}
    assert naming_rooms(made_up({"batches": text, **rooms})) == []
    assert naming_rooms(made_up({"batches": text})) == []


@needs_module_names
@pytest.mark.parametrize("line", ["import numpy", "from torch.nn import Linear"])
def test_a_third_party_package_is_noticed(line):
    assert len(foreign(made_up({"batches": f"import math\n{line}"}))) == 1


HEADING = "# " + "-" * 64
SHORT = '"""CHAPTER 6. RUNG 1: what it is about.\n\nMore.\n"""\n\nx = 1  # one\n# two\n\n\n'


def chapter(source, name="mlp_lm"):
    return chapters({name: source})[BOOK.index(name)]


def test_a_chapter_is_counted_with_its_docstrings_and_comments():
    found = chapter(SHORT)
    assert (found.name, found.title) == ("mlp_lm", "what it is about")
    assert (found.lines, found.with_empty) == (5, 9)
    assert (found.for_rung_1, found.for_rung_1_with_empty) == (5, 9)


@pytest.mark.parametrize(
    "heading", ["rung 2: attention", "rung 3: a block", "rungs 2 and 3", "where a faster way is"]
)
def test_rung_1_needs_a_chapter_up_to_the_first_later_heading(heading):
    later = f"{SHORT}{HEADING} rung 1\ny = 2\n{HEADING} {heading}\n\nz = 3\n{HEADING} rung 1\n"
    found = chapter(later)
    assert (found.lines, found.for_rung_1) == (5 + 5, 5 + 2)
    assert (found.with_empty, found.for_rung_1_with_empty) == (9 + 6, 9 + 2)


@pytest.mark.parametrize("line", [f"{HEADING} rung 1", "# rung 2: no heading", "# ---- rung 2"])
def test_no_other_line_ends_what_rung_1_needs(line):
    assert chapter(f"{SHORT}{line}\n").for_rung_1 == 5 + 1


def test_a_longer_chapter_is_noticed():
    (before, all_before), long = total(chapters()), "x = 1\n\n" * 900
    first, whole = total(chapters({"mlp_lm": long}))
    assert (first.lines, whole.lines) > (900, 900) and first.with_empty > 1800
    first, whole = total(chapters({"mlp_lm": f"{HEADING} rung 3\n{long}"}))
    assert first.lines < before.lines and whole.lines > 900
    first, whole = total(chapters({"gradcheck": long}))  # behind rung 1's sample
    assert first == before and whole.lines > all_before.lines


def test_the_table_has_a_line_for_each_chapter_and_its_sums():
    lines = [re.findall(r"[\d,]+ \|", line) for line in table(chapters()).splitlines()[2:15]]
    numbers = [[int(n.strip(" |").replace(",", "")) for n in line] for line in lines]
    *rows, (whole, first) = numbers
    assert [number for number, *_ in rows] == list(range(1, 13))
    assert sum(row[1] for row in rows) == whole
    assert sum(row[2] for row in rows[:9]) == first
    assert all(len(row) == 2 for row in rows[9:])


def test_the_table_is_put_between_its_marks_and_nowhere_else():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert rendered(page) == page.replace("old", table(chapters()))
    for without in ("no marks", f"{BEGIN} no end", f"{END} no begin"):
        with pytest.raises(ValueError, match=r"README\.md has no"):
            rendered(without)


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
