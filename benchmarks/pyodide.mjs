// Python in WebAssembly, as in a browser, on the files of this folder:
//
//     node benchmarks/pyodide.mjs PYODIDE -m MODULE [ARGUMENT ...]
//     node benchmarks/pyodide.mjs PYODIDE FILE.py [ARGUMENT ...]
//
// PYODIDE is the folder of the npm package `pyodide`; wheels in it can be imported.

import { readdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, ...words] = process.argv.slice(2);
const pyodide = resolve(folder);
const { loadPyodide } = await import(pathToFileURL(pyodide + "/pyodide.mjs"));
const python = await loadPyodide({ indexURL: pyodide + "/", env: { HOME: "/home", COLUMNS: "80" } });
for (const name of readdirSync(pyodide).filter((name) => name.endsWith(".whl"))) {
  python.unpackArchive(new Uint8Array(readFileSync(`${pyodide}/${name}`)), "zip", { extractDir: "/wheels" });
}
const written = (stream) => ({ write: (bytes) => { stream.write(bytes); return bytes.length; } });
python.setStdout(written(process.stdout));
python.setStderr(written(process.stderr));
python.FS.mkdirTree("/work");
python.FS.mount(python.FS.filesystems.NODEFS, { root: process.cwd() }, "/work");
python.globals.set("words", python.toPy(words));
process.exitCode = python.runPython(`
import os, runpy, sys
os.chdir("/work")
sys.path[:0] = ["/work", "/work/tests", "/wheels"]
as_module = words[0] == "-m"
name, *rest = words[1:] if as_module else words
sys.argv = ["-m" if as_module else name, *rest]
code = 0
try:
    if as_module:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(name, run_name="__main__")
except SystemExit as end:
    code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
sys.stdout.flush()
code
`);
