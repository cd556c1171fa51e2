// The workbench of the book: Python in a worker, a run led on by parts of a second, chapters that can
// be changed. (parts.js and patch.js are before it in the page.)

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const PIECE = 0.25; // seconds of training between two looks at what the reader wants
const state = (text) => { at("state").textContent = text; };

// ---------------------------------------------------------------------------------- Python, asked

const ENDED = "Python was ended; it is loaded again when you need it.";
let worker = null, waiting = new Map(), asked = 0, loaded = null, printing = null;

/** Ask the worker for something; what it answers. */
function ask(name, ...given) {
  return new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject });
    worker.postMessage({ id: asked, name, given });
  });
}

function answered({ data: { id, result, error, printed } }) {
  if (printed !== undefined) return void printing?.(printed);
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error === undefined) resolve(result);
  else reject(new Error(inBrief(error)));
}

/** Of a traceback, where in the package it was last, and what is wrong. */
function inBrief(error) {
  if (!error.includes("Traceback")) return error;
  const places = [...error.matchAll(/File "\/book\/([^"]+)", line (\d+)/g)];
  const [, file, line] = places.at(-1) ?? [];
  const last = error.trim().split("\n").at(-1);
  return file ? `${file}, line ${line}: ${last}` : last;
}

/** End the worker, whatever it is at; its files are gone. */
function end() {
  worker?.terminate();
  for (const { reject } of waiting.values()) reject(new Error(ENDED));
  worker = loaded = null;
  waiting = new Map();
}

/** Python, loaded once, with the changes that the reader made. */
function ready() {
  if (typeof WebAssembly !== "object") {
    return Promise.reject(new Error("This browser has no WebAssembly, so Python cannot run in it; reading needs none."));
  }
  if (typeof Worker !== "function") {
    return Promise.reject(new Error("This browser has no workers, so Python cannot run in it; reading needs none."));
  }
  loaded ??= (async () => {
    state("Loading Python …");
    const source = new Blob([at("worker").textContent], { type: "text/javascript" });
    worker = new Worker(URL.createObjectURL(source), { type: "module" });
    worker.onmessage = answered;
    worker.onerror = () => { state("Python could not be started in this browser."); end(); };
    const base = new URL(data.pyodide, document.baseURI).href;
    let version;
    try {
      version = await ask("start", base, at("archive").textContent);
    } catch (error) {
      end();
      throw new Error(`Python could not be loaded from ${base} (${error.message}).`);
    }
    if (changes.size) await ask("change", changedFiles());
    state(`Python ${version} is ready.`);
  })();
  return loaded;
}

/** Do something with Python; what goes wrong is said, and nothing else happens. */
async function trying(work) {
  try {
    await ready();
    return await work();
  } catch (error) {
    state(error.message);
    return undefined;
  }
}

async function call(name, given) {
  const { result, error } = await ask("call", name, given);
  if (error !== undefined) throw new Error(error);
  return result;
}

// --------------------------------------------------------------------------------------- training

let stopping = false, training = false, current = null;

function buttons() {
  at("train").disabled = training;
  at("stop").disabled = !training;
  at("go-on").disabled = training || !current || current.step >= current.steps;
}

/** There is no run any more. */
function forget() {
  current = null;
  at("run").hidden = true;
  buttons();
}

/** End Python, whatever it is at; the next that is asked of it loads it again. */
function endAll() {
  end();
  forget();
  state(ENDED);
}
at("end").addEventListener("click", endAll);

/** Show a run that has begun, or that was opened. */
function show(run) {
  current = run;
  at("run").hidden = false;
  at("facts").replaceChildren(...run.facts.map(([name, text]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, text))));
  at("prompt").value = run.prompt;
  at("write-form").hidden = Boolean(run.task);
  at("look").hidden = !run.attention;
  at("sample").hidden = at("maps").hidden = true;
  at("curve").replaceChildren();
  buttons();
}

async function leadOn() {
  if (training) return;
  const run = current;
  training = true, stopping = false;
  buttons();
  try {
    while (!stopping && run === current && run.step < run.steps) {
      const made = await call("lead_on", { seconds: PIECE });
      if (run !== current) break; // a chapter was changed, and the run is gone
      run.step = made.step;
      drawCurve(made.curve);
      tell(made);
    }
  } finally {
    training = false;
    buttons();
  }
  if (run === current && run.step === run.steps && !run.task) await write();
}

/** What `tiny-lm train` says: the mean loss since the validation before, and the validation loss. */
function tell({ step, steps, loss, measured, speed, right }) {
  if (measured) current.measured = measured;
  const { number, train, val } = current.measured ?? {};
  const before = number ? `step ${number}: loss ${train.toFixed(3)}, validation loss ${val.toFixed(3)}; ` : "";
  const now = number === step ? "" : `batch loss ${loss.toFixed(3)}, `;
  const solved = right === null ? "" : `; ${percent(right)} of the held-out cases right`;
  state(`${before}${now}${step} of ${steps} steps, ${Math.round(speed)} tokens/s${solved}`);
}

/** The curve as workshop.py draws it: an SVG element of numbers, read as XML and never run. */
function drawCurve(svg) {
  if (!svg) return;
  const found = new DOMParser().parseFromString(svg, "text/html").querySelector("svg");
  if (found) at("curve").replaceChildren(document.importNode(found, true));
}

at("train-form").addEventListener("submit", (event) => {
  event.preventDefault();
  trying(async () => {
    const options = { seed: Number(at("seed").value) };
    if (at("steps").value) options.steps = Number(at("steps").value);
    if (at("rate").value) options.learning_rate = Number(at("rate").value);
    const text = at("text").value;
    show(await call("begin", {
      rung: at("rung").value,
      text: text === "own" ? at("own").value : null,
      task: text.startsWith("task:") ? text.slice(5) : "",
      options,
    }));
    await leadOn();
  });
});
at("stop").addEventListener("click", () => { stopping = true; });
at("go-on").addEventListener("click", () => trying(leadOn));
at("text").addEventListener("change", () => { at("own-label").hidden = at("text").value !== "own"; });

// -------------------------------------------------------------------- writing, looking, files

async function write() {
  const text = await call("write", {
    prompt: at("prompt").value, temperature: Number(at("temperature").value), seed: Number(at("seed").value),
  });
  at("sample").textContent = text;
  at("sample").hidden = false;
}

at("write-form").addEventListener("submit", (event) => {
  event.preventDefault();
  trying(write);
});
at("look").addEventListener("click", () => trying(async () => {
  const prompt = at("sample").hidden ? at("prompt").value : at("sample").textContent;
  const { labels, attention } = await call("look", { prompt });
  at("maps").hidden = false;
  drawAttention(labels, attention);
}));

const FILE = "runs/book.safetensors";
at("save").addEventListener("click", () => trying(async () => {
  await call("save", { path: FILE });
  const url = URL.createObjectURL(new Blob([await ask("read", FILE)], { type: "application/octet-stream" }));
  const link = make("a", { href: url, download: "book.safetensors" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}));
at("open").addEventListener("change", () => trying(async () => {
  const [file] = at("open").files;
  if (!file) return;
  await ask("write", FILE, new Uint8Array(await file.arrayBuffer()));
  show(await call("open", { path: FILE }));
  state(`${file.name} is open, at step ${current.step} of ${current.steps}.`);
}));

// ------------------------------------------------------------------------------------ any command

/** Let `work` print into an element; what it returns. */
async function printed(element, work) {
  element.textContent = "";
  element.hidden = false;
  printing = (text) => {
    element.append(text.replace(/\x1b\[[0-9;]*[A-Za-z]/g, ""));
    element.scrollTop = element.scrollHeight;
  };
  try {
    return await work();
  } finally {
    printing = null;
  }
}

at("command-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const line = at("command").value.trim().replace(/^tiny-lm\s+/, "");
  trying(async () => {
    const code = await printed(at("printed"), () => ask("run", line));
    state(code === 0 ? `tiny-lm ${line}: done.` : `tiny-lm ${line}: exit code ${code}.`);
  });
});

// ------------------------------------------------------------------------- chapters that change

const changes = new Map(); // chapter -> its text, as the reader has it
const RUNG_OF = { mlp_lm: "mlp", attention_lm: "attention", modern_block: "modern" };
const pathOf = (chapter) => `tiny_llm/${chapter}.py`;
const changedFiles = () => Object.fromEntries([...changes].map(([chapter, text]) => [pathOf(chapter), text]));

/** The source of a chapter, from the lines of the page. */
function original(chapter) {
  const lines = [...at(chapter).querySelectorAll(`[id^="${chapter}-"]`)]
    .map((line) => [Number(line.id.slice(chapter.length + 1)), line.textContent])
    .filter(([number]) => number > 0)
    .sort(([a], [b]) => a - b);
  return lines.map(([, text]) => text + "\n").join("");
}

const changed = (chapter) => changes.get(chapter) ?? original(chapter);
const difference = () => data.chapters
  .map((chapter) => diffOf(pathOf(chapter), original(chapter), changed(chapter))).join("");

/** Take over what stands in an editor. */
function keep(chapter, text) {
  if (text && !text.endsWith("\n")) text += "\n";
  if (text === original(chapter)) changes.delete(chapter);
  else changes.set(chapter, text);
}

/** Write the files of all chapters that differ from what Python has. */
async function apply(chapter) {
  await ready();
  forget();
  await ask("change", { [pathOf(chapter)]: changed(chapter) });
}

function editor(tools) {
  const chapter = tools.dataset.chapter;
  const area = make("textarea", { class: "editor", spellcheck: "false", wrap: "off",
    "aria-label": `The source of ${chapter}.py`, autocapitalize: "off" });
  area.value = changed(chapter);
  const verdict = make("p", { role: "status" });
  const output = make("pre", { class: "printed wide", tabindex: "0", role: "group",
    "aria-label": "What the checks say" });
  output.hidden = true;
  const link = make("a", { href: "#" }, "A link to this change");
  const button = (text, work) => {
    const one = make("button", { type: "button" }, text);
    one.addEventListener("click", work);
    return one;
  };
  const say = (text, kind = "") => {
    verdict.textContent = text;
    verdict.className = kind;
  };
  const renewLink = () => {
    keep(chapter, area.value);
    const diff = difference();
    link.hidden = !diff;
    if (diff) link.href = "#change=" + encodeURIComponent(diff);
  };
  area.addEventListener("input", renewLink);
  const guarded = (work) => async () => {
    try {
      await work();
    } catch (error) {
      say(error.message, "bad");
    }
  };
  const check = guarded(async () => {
    renewLink();
    say("Checking …");
    await apply(chapter);
    const rung = RUNG_OF[chapter];
    const words = rung ? `gradcheck --model ${rung}` : "gradcheck";
    const verdicts = await printed(output, async () => {
      const slopes = await ask("run", words);
      const tests = await ask("test", chapter, [
        ...data.wheels.map((name) => new URL(data.pyodide, document.baseURI).href + name),
        new URL(data.hypothesis, document.baseURI).href]);
      return { slopes, tests };
    });
    const wrong = [...output.textContent.matchAll(/^ {2}(\S+) .* WRONG$/gm)].map(([, name]) => name);
    const slopes = verdicts.slopes === 0 ? "every slope agrees"
      : wrong.length ? `wrong slopes of ${[...new Set(wrong)].join(", ")}` : "it does not run";
    const tests = verdicts.tests === null ? "pytest could not be loaded, so the chapter's tests did not run"
      : verdicts.tests === 0 ? "the tests of the chapter pass"
        : verdicts.tests === 4 || verdicts.tests === 5 ? "there are no tests of it here"
          : "tests of the chapter fail, which hold the numbers of the original";
    const isGood = verdicts.slopes === 0 && [0, null].includes(verdicts.tests);
    say(`gradcheck: ${slopes}; ${tests}.`, isGood ? "good" : "bad");
  });
  const train = guarded(async () => {
    renewLink();
    await apply(chapter);
    say("Python has this chapter now.");
    at("workbench").scrollIntoView();
    at("train").focus();
  });
  const reset = guarded(async () => {
    area.value = original(chapter);
    renewLink();
    output.hidden = true;
    say("It is the original again.");
    if (loaded) await apply(chapter);
  });
  tools.replaceChildren(area, make("p", {}, button("Check it", check), " ", button("Train with it", train),
    " ", button("Reset", reset), " ", button("End what runs", () => { endAll(); say(ENDED); }), " ", link),
    verdict, output);
  renewLink();
  return area;
}

for (const tools of document.querySelectorAll(".tools")) {
  tools.querySelector(".edit").addEventListener("click", () => editor(tools).focus());
}

// -------------------------------------------------------------- a change that came with the link

function fromLink() {
  const found = /^#change=(.*)$/s.exec(location.hash);
  if (!found) return;
  let text, files;
  try {
    text = decodeURIComponent(found[1]);
    files = [...parsedDiff(text)].map(([path, hunks]) => {
      const chapter = data.chapters.find((name) => pathOf(name) === path);
      if (!chapter) throw new Error("it is for a file that is no chapter");
      return [chapter, applied(original(chapter), hunks)];
    });
    if (!files.length) throw new Error("there is no change in it");
  } catch (error) {
    state(`The link of this page cannot be used: ${error.message}.`);
    return;
  }
  at("change-about").textContent = "The link that brought you here carries a change to "
    + files.map(([chapter]) => `${chapter}.py`).join(", ")
    + ". Read it: it will run in this page, and only if you take it over.";
  at("change-text").textContent = text;
  at("change-note").hidden = false;
  at("change-note").scrollIntoView();
  at("change-leave").onclick = () => { at("change-note").hidden = true; };
  at("change-take").onclick = () => {
    at("change-note").hidden = true;
    for (const [chapter, changedText] of files) {
      keep(chapter, changedText);
      const tools = document.querySelector(`.tools[data-chapter="${chapter}"]`);
      editor(tools);
    }
    trying(async () => {
      for (const [chapter] of files) await apply(chapter);
      at(files[0][0]).querySelector(".tools").scrollIntoView();
      state("The change is in its place.");
    });
  };
}

window.addEventListener("hashchange", fromLink);
fromLink();
buttons();
