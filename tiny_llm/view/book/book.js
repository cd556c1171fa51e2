// The workbench of the book: Python in a worker, a run led on by parts of a second, chapters that can
// be changed. (parts.js and patch.js are before it in the page.)

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const PIECE = 0.25; // seconds of training between two looks at what the reader wants
const state = (text) => { at("state").textContent = text; };

// ---------------------------------------------------------------------------------- Python, asked

const ENDED = "Python was ended; it is loaded again when you need it.";
const changes = new Map(); // chapter -> its text, where the reader has changed it
const inPython = new Map(); // chapter -> its text, as Python has it; missing: the original
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
  inPython.clear();
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
    state(`Python ${version} is ready.`);
  })();
  return loaded;
}

/** Give Python the chapters as the reader has them; a run that learned by others is gone. */
async function renew() {
  const files = {};
  for (const chapter of data.chapters) {
    if (changed(chapter) !== (inPython.get(chapter) ?? original(chapter))) files[pathOf(chapter)] = changed(chapter);
    inPython.set(chapter, changed(chapter));
  }
  if (!Object.keys(files).length) return;
  forget();
  await ask("change", files);
}

/** Do something with Python; what goes wrong is said, and nothing else happens. */
async function trying(work, { anew = false } = {}) {
  try {
    await ready();
    if (anew) await renew();
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
  } catch (error) {
    run.steps = run.step; // it cannot go on
    throw error;
  } finally {
    training = false;
    buttons();
  }
  if (run === current && run.step === run.steps && !run.task && at("prompt").value) await write();
}

/** What `tiny-lm train` says: the mean loss since the validation before, and the validation loss. */
function tell({ step, steps, loss, measured, speed, left, right }) {
  if (measured) current.measured = measured;
  const { number, train, val } = current.measured ?? {};
  const before = number ? `step ${number}: loss ${train.toFixed(3)}, validation loss ${val.toFixed(3)}; ` : "";
  const now = number === step ? "" : `batch loss ${loss.toFixed(3)}, `;
  const wait = step === steps ? "" : `, about ${Math.ceil(left)} s left`;
  const solved = right === null ? "" : `; ${percent(right)} of the held-out cases right`;
  state(`${before}${now}${step} of ${steps} steps, ${Math.round(speed)} tokens/s${wait}${solved}`);
}

/** The curve as workshop.py draws it: an SVG element of numbers, read as XML and never run. */
function drawCurve(svg) {
  if (!svg) return;
  const found = new DOMParser().parseFromString(svg, "text/html").querySelector("svg");
  if (found) at("curve").replaceChildren(document.importNode(found, true));
}

at("train-form").addEventListener("submit", (event) => {
  event.preventDefault();
  forget();
  trying(async () => {
    state("Beginning …");
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
  }, { anew: true });
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
  const written = at("sample").hidden ? "" : at("sample").textContent;
  const prompt = written.startsWith(at("prompt").value) ? written || at("prompt").value : at("prompt").value;
  const { labels, attention } = await call("look", { prompt });
  at("maps").hidden = false;
  drawAttention(labels, attention);
}));

const LARGEST = 500e6; // bytes of a file that a browser can hold twice
at("save").addEventListener("click", () => trying(async () => {
  const path = await call("save", { path: "runs/book.safetensors" });
  const url = URL.createObjectURL(new Blob([await ask("read", path)], { type: "application/octet-stream" }));
  const link = make("a", { href: url, download: "book.safetensors" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}));
at("open").addEventListener("change", () => {
  const [file] = at("open").files;
  if (!file) return;
  forget();
  trying(async () => {
    if (file.size > LARGEST) throw new Error(`${file.name} is too large for a browser.`);
    state(`Opening ${file.name} …`);
    const path = "runs/" + file.name;
    await ask("write", path, new Uint8Array(await file.arrayBuffer()));
    show(await call("open", { path }));
    at("open").value = "";
    state(`${file.name} is open, at step ${current.step} of ${current.steps}.`);
  }, { anew: true });
});

// ------------------------------------------------------------------------------------ any command

let turn = Promise.resolve(); // of those who print, one after the other

/** Let `work` print into an element; what it returns. */
function printed(element, work) {
  const mine = turn.then(async () => {
    element.textContent = "";
    element.hidden = false;
    printing = (text) => {
      element.append(text.replace(/\x1b\[[0-9;]*[A-Za-z]/g, ""));
      element.scrollTop = element.scrollHeight;
    };
    return work();
  });
  turn = mine.catch(() => {}).then(() => { printing = null; });
  return mine;
}

at("command-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const line = at("command").value.trim().replace(/^tiny-lm\s+/, "");
  trying(async () => {
    state(`tiny-lm ${line}: running …`);
    const code = await printed(at("printed"), () => ask("run", line));
    state(code === 0 ? `tiny-lm ${line}: done.` : `tiny-lm ${line}: exit code ${code}.`);
  }, { anew: true });
});

// ------------------------------------------------------------------------- chapters that change

const RUNG_OF = { mlp_lm: "mlp", attention_lm: "attention", modern_block: "modern" };
const pathOf = (chapter) => `tiny_llm/${chapter}.py`;
const others = (chapter) => [...changes.keys()].filter((name) => name !== chapter).map((name) => name + ".py");
const originals = new Map();

/** The source of a chapter, from the lines of the page. */
function original(chapter) {
  if (!originals.has(chapter)) {
    const lines = [...at(chapter).querySelectorAll(`[id^="${chapter}-"]`)]
      .map((line) => [Number(line.id.slice(chapter.length + 1)), line.textContent])
      .filter(([number]) => number > 0)
      .sort(([a], [b]) => a - b);
    originals.set(chapter, lines.map(([, text]) => text + "\n").join(""));
  }
  return originals.get(chapter);
}

const changed = (chapter) => changes.get(chapter) ?? original(chapter);
const difference = () => data.chapters
  .map((chapter) => diffOf(pathOf(chapter), original(chapter), changed(chapter))).join("");

/** Take over what stands in an editor. */
function keep(chapter, text) {
  if (text && !text.endsWith("\n")) text += "\n";
  if (text === original(chapter)) changes.delete(chapter);
  else changes.set(chapter, text);
  remember();
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
    await ready();
    await renew();
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
    const also = others(chapter).length ? ` (Your changes to ${others(chapter).join(", ")} count, too.)` : "";
    say(`gradcheck: ${slopes}; ${tests}.${also}`, isGood ? "good" : "bad");
  });
  const train = guarded(async () => {
    renewLink();
    at("workbench").scrollIntoView();
    at("train").focus();
    at("train-form").requestSubmit();
  });
  const reset = guarded(async () => {
    area.value = original(chapter);
    renewLink();
    output.hidden = true;
    say("It is the original again.");
  });
  tools.replaceChildren(area, make("p", {}, button("Check it", check), " ", button("Train with it", train),
    " ", button("Reset", reset), " ", button("End what runs", () => { endAll(); say(ENDED); }), " ", link),
    verdict, output);
  renewLink();
  area.setSelectionRange(0, 0);
  return area;
}

for (const tools of document.querySelectorAll(".tools")) {
  tools.querySelector(".edit").addEventListener("click", () => editor(tools).focus());
}

// -------------------------------------------------------------- a change that came with the link

/** Ask whether a change may be taken over: one of a link, or one that the page had before. */
function offer(text, from) {
  let files;
  try {
    files = [...parsedDiff(text)].map(([path, hunks]) => {
      const chapter = data.chapters.find((name) => pathOf(name) === path);
      if (!chapter) throw new Error("it is for a file that is no chapter");
      return [chapter, applied(original(chapter), hunks)];
    });
    if (!files.length) throw new Error("there is no change in it");
  } catch (error) {
    state(`${from} cannot be used: ${error.message}.`);
    return;
  }
  const names = files.map(([chapter]) => `${chapter}.py`).join(", ");
  const lost = files.filter(([chapter, one]) => changes.has(chapter) && changes.get(chapter) !== one);
  at("change-about").textContent = `${from} carries a change to ${names}. Read it: if you take it over it `
    + "runs in this page, and may do there whatever its writer wants, also on the network."
    + (lost.length ? ` Your own changes to ${lost.map(([chapter]) => chapter + ".py").join(", ")} would be lost.` : "");
  at("change-text").textContent = visible(text);
  at("change-note").hidden = false;
  at("change-note").scrollIntoView();
  const leave = () => {
    at("change-note").hidden = true;
    history.replaceState(null, "", location.pathname + location.search);
  };
  at("change-leave").onclick = leave;
  at("change-take").onclick = () => {
    leave();
    for (const [chapter, one] of files) {
      keep(chapter, one);
      editor(document.querySelector(`.tools[data-chapter="${chapter}"]`));
    }
    at(files[0][0]).querySelector(".tools").scrollIntoView();
    state("The change is in its place.");
  };
}

/** Marks that turn the direction of a text, or have no width, as they are written. */
function visible(text) {
  return text.replace(/[\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]/g,
    (mark) => "\\u" + mark.charCodeAt(0).toString(16).padStart(4, "0"));
}

function fromLink() {
  const found = /^#change=(.*)$/s.exec(location.hash);
  if (!found) return;
  try {
    offer(decodeURIComponent(found[1]), "The link of this page");
  } catch (error) {
    state("The link of this page cannot be used: it is cut off.");
  }
}

/** What the reader changed outlives a reload, where the browser keeps it. */
function remember() {
  try {
    if (changes.size) sessionStorage.setItem("change", difference());
    else sessionStorage.removeItem("change");
  } catch (error) {
    // a browser that keeps nothing
  }
}

function remembered() {
  try {
    return sessionStorage.getItem("change");
  } catch (error) {
    return null;
  }
}

window.addEventListener("hashchange", fromLink);
const before = remembered();
if (location.hash.startsWith("#change=")) fromLink();
else if (before) offer(before, "What you had before this page was loaded again");
buttons();
