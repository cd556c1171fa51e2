// Python beside the page, in a worker: it never keeps the reader waiting. The page asks, one thing
// at a time, and gets an answer: {id, result} or {id, error}; what Python prints comes as {printed}.

const WORKSHOP = "tiny_llm.view.book.workshop";
let python = null, workshop = null, command = null;

/** What is done with the bytes that Python prints: they may end within a character. */
function printer() {
  const decoder = new TextDecoder();
  return (bytes) => {
    self.postMessage({ printed: decoder.decode(bytes, { stream: true }) });
    return bytes.length;
  };
}

/** Forget what was imported of these, so that the next import reads their files again. */
function forget(...names) {
  python.globals.set("_names", python.toPy(names));
  python.runPython(`
import linecache, sys
linecache.clearcache()
for _name in [n for n in sys.modules if n.split(".")[0] in _names or n.startswith("test_")]:
    del sys.modules[_name]`);
}

const actions = {
  /** Load Python, and the package from its archive. */
  async start(base, archive) {
    const { loadPyodide } = await import(base + "pyodide.mjs");
    python = await loadPyodide({ indexURL: base });
    python.setStdout({ write: printer() });
    python.setStderr({ write: printer() });
    const bytes = Uint8Array.from(atob(archive), (character) => character.charCodeAt(0));
    python.FS.mkdirTree("/book/runs");
    python.FS.chdir("/book");
    python.unpackArchive(bytes.buffer, "zip", { extractDir: "/book" });
    python.runPython("import os, sys; os.chdir('/book'); sys.path.insert(0, '/book')");
    workshop = python.pyimport(WORKSHOP); // it takes a moment
    return python.runPython("sys.version.split()[0]");
  },

  /** Put files in the place of those of the package, {path: text}; they are imported when needed. */
  change(files) {
    for (const [path, text] of Object.entries(files)) python.FS.writeFile("/book/" + path, text);
    forget("tiny_llm", "conftest");
    workshop = command = null;
  },

  /** A function of workshop.py: JSON in, JSON out. */
  call(name, given) {
    workshop ??= python.pyimport(WORKSHOP);
    return JSON.parse(workshop.call(name, JSON.stringify(given)));
  },

  /** A command line of tiny-lm; its exit code. */
  run(line) {
    command ??= python.runPython(`
import shlex
from tiny_llm.cli import main as _main
def _run(line):
    try:
        words = shlex.split(line)
    except ValueError as error:
        print(f"tiny-lm: error: {error}")
        return 2
    return _main([*words])
_run`);
    return command(line);
  },

  /** The tests of a chapter, by pytest from these wheels: its exit code; null if it cannot be had. */
  async test(chapter, wheels) {
    try {
      await python.loadPackage(wheels, { checkIntegrity: false, messageCallback() {}, errorCallback() {} });
      python.runPython("import pytest, hypothesis");
    } catch (error) {
      return null;
    }
    forget("conftest");
    return python.runPython(`
import pytest, sys
if "/book/tests" not in sys.path:
    sys.path.insert(0, "/book/tests")
int(pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", "--tb=short", "--rootdir=/book",
                 "-W", "ignore", "/book/tests/test_${chapter}.py"]))`);
  },

  write(path, bytes) {
    python.FS.writeFile("/book/" + path, bytes);
  },

  read(path) {
    return python.FS.readFile("/book/" + path);
  },
};

self.onmessage = async ({ data: { id, name, given } }) => {
  try {
    self.postMessage({ id, result: await actions[name](...given) });
  } catch (error) {
    self.postMessage({ id, error: String(error.message ?? error) });
  }
};
