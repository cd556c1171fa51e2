// Talking to a model. (parts.js is before it in the page.) A text is a list of tokens: those that the
// model was given, then those that it wrote. To branch is to keep some, take another, and go on.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const LIKELIEST = 5;

let tokens = []; // {id, text, nats, likeliest: [{id, text, probability}]}; given ones have no nats
let given = 0; // how many of them the model was given
let end = ""; // why the text ended
let before = []; // texts that were left for a branch: {tokens, given, end}
let turns = []; // of the conversation: {role, content}
let running = null; // what stops the text that is being written

const list = tokenList($("passage"), $("surprise"), described);

// ------------------------------------------------------------------------------------- the server

/** An answer of the server. Throws an Error that says what went wrong. */
async function ask(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  let answer;
  try {
    answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Start it again, then send again.");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.error ? said.error.message : `The server answered ${answer.status}.`);
}

/** The events of a stream, each as what it says. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      part = { done: true };
    }
    if (part.done) throw new Error("The connection was lost. What was written until then stays.");
    const lines = (text + part.value).split("\n\n");
    text = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") return;
      const event = JSON.parse(line.slice("data: ".length));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

// ---------------------------------------------------------------------------------------- writing

/** Do something that can be stopped, and say what goes wrong. Only one is done at a time. */
async function work(job) {
  if (running) return false;
  running = new AbortController();
  renew();
  try {
    await job(running.signal);
    return true;
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else say(error.message, true);
    return error.name === "AbortError";
  } finally {
    running = null;
    renew();
    if (tokens.length) list.renew(tokens.length - 1);
  }
}

/** Let the model go on from the tokens that there are. Throws what went wrong. */
async function write(signal) {
  const number = (id) => ($(id).value === "" ? null : Number($(id).value));
  const isChat = mode() === "chat";
  const room = data.context - tokens.length + 1;
  if (isChat && room < 1) throw new Error(`The conversation fills the ${data.context} tokens that the model reads. Begin anew.`);
  const most = number("max_tokens");
  end = "";
  say("Writing …");
  const answer = await ask("/v1/completions", {
    prompt: tokens.slice(-data.context).map((token) => token.id), stream: true, logprobs: LIKELIEST,
    max_tokens: isChat && most > room ? room : most,
    temperature: number("temperature"), top_k: number("top_k"), top_p: number("top_p"), seed: number("seed"),
  }, signal);
  for await (const event of events(answer)) {
    const choice = event.choices[0];
    for (const entry of choice.logprobs.content) add(written(entry));
    end = choice.finish_reason || "";
  }
  say(end === "stop" ? "It has ended." : isChat && most > room ? "It stops here: the window is full." : "It stops here, where you let it.");
}

function written(entry) {
  const likeliest = entry.top_logprobs.map((other) =>
    ({ id: other.id, text: other.token, bytes: other.bytes, probability: Math.exp(other.logprob) }));
  return { id: entry.id, text: entry.token, bytes: entry.bytes, nats: -entry.logprob, likeliest };
}

/** The tokens of a text or a conversation. Throws an Error if the model cannot read them. */
async function tokenized(request, signal) {
  const found = await (await ask("/tokenize", { ...request, with_pieces: true }, signal)).json();
  const count = found.tokens.length;
  if (!count) throw new Error("There is nothing in it.");
  if (count > data.context) throw new Error(`It has ${count} tokens, and the model reads ${data.context} at most. Begin anew, with less.`);
  return found.tokens.map((token) => ({ id: token.id, text: token.piece }));
}

function take(given_) {
  tokens = given_;
  given = tokens.length;
  before = [];
  $("prompt-ids").textContent = `[${tokens.map((token) => token.id).join(", ")}]`;
  $("ids").hidden = false;
  draw();
}

/** Take another token at this place, and let the model go on from there. */
async function branch(place, other) {
  await work(async (signal) => {
    before.push({ tokens, given, end });
    const nats = -Math.log(other.probability);
    tokens = [...tokens.slice(0, place), { ...other, nats, likeliest: tokens[place].likeliest }];
    draw();
    $("passage").lastElementChild.focus();
    if (data.ends.includes(other.id)) {
      end = "stop";
      say("It has ended.");
    } else await write(signal);
  });
}

function back() {
  ({ tokens, given, end } = before.pop());
  draw();
  renew();
  say("As it was before.");
}

// ---------------------------------------------------------------------------------------- showing

function mode() {
  return data.talks && document.querySelector("[name=mode]:checked").value === "chat" ? "chat" : "text";
}

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").className = isError ? "error" : "";
}

/** White space and control characters in sight, as the report has them. */
function visible(text) {
  return text.replace(/[\x00-\x20\x7f]/g, (c) =>
    ({ " ": "·", "\n": "↵", "\t": "→", "\x7f": "␡" })[c] || String.fromCharCode(0x2400 + c.charCodeAt(0)));
}

function add(token) {
  tokens.push(token);
  show(token, tokens.length - 1);
  renew();
}

function show(token, place) {
  const kind = place < given ? "token given" : "token";
  const option = make("span", { role: "option", class: kind, "aria-selected": "false", tabindex: -1 }, visible(token.text));
  if (token.nats !== undefined) option.style.setProperty("--n", Math.min(34, Math.round(5 * token.nats)));
  $("passage").append(option);
  if (token.text === "\n") $("passage").append(make("br", { role: "presentation" }));
}

function draw() {
  $("passage").replaceChildren();
  tokens.forEach(show);
  if (tokens.length) list.begin(tokens.length - 1);
}

/** What else there was in place of a token. */
function described(place) {
  const token = tokens[place];
  const about = make("p", {}, make("strong", {}, visible(token.text)), ` is token ${token.id}`
    + (token.nats === undefined ? ", which it was given." : `: ${percent(Math.exp(-token.nats))}, ${token.nats.toFixed(3)} nats.`));
  if (!token.likeliest) return [about];
  return [about, make("ol", { class: "choices branches" }, ...token.likeliest.map((other) => {
    const item = choice(visible(other.text), other.probability, percent(other.probability), other.id === token.id);
    const button = make("button", { type: "button", "aria-label": `Take ${visible(other.text)} instead` }, "take");
    button.disabled = running !== null;
    button.addEventListener("click", () => branch(place, other));
    item.append(other.id === token.id ? make("span", {}, "taken") : button);
    return item;
  }))];
}

/** The text that the model wrote, without the token that ended it. */
function answer() {
  const own = tokens.slice(given, end === "stop" ? -1 : tokens.length);
  return new TextDecoder().decode(new Uint8Array(own.flatMap((token) => token.bytes)));
}

/** All that follows from what there is. */
function renew() {
  const isIdle = running === null;
  const isChat = mode() === "chat";
  $("send").disabled = !isIdle;
  $("modes").disabled = !isIdle;
  $("stop").disabled = isIdle;
  $("more").disabled = !isIdle || !tokens.length || end === "stop";
  $("back").disabled = !isIdle || !before.length;
  $("clear").disabled = !isIdle || !(tokens.length || turns.length);
  if ($("look")) $("look").disabled = !isIdle || !tokens.length;
  $("send").textContent = isChat ? "Send" : "Continue";
  $("text-label").textContent = isChat ? "Your message" : "A text to continue";
  const said = given && isChat && tokens.length > given ? [{ role: "assistant", content: answer() }] : [];
  const names = { user: "you", assistant: "model" };
  $("log").replaceChildren(...(isChat ? [...turns, ...said] : []).map((turn) =>
    make("p", { class: `said ${turn.role}`, dir: "auto" }, make("strong", {}, names[turn.role]), turn.content)));
}

async function send() {
  const text = $("text").value;
  if (!text) return;
  if (mode() === "text") {
    await work(async (signal) => {
      take(await tokenized({ content: text }, signal));
      await write(signal);
    });
    return;
  }
  const before_ = turns;
  const said = tokens.length > given ? [{ role: "assistant", content: answer() }] : [];
  const asked = [...turns, ...said, { role: "user", content: text }];
  const went = await work(async (signal) => {
    const found = await tokenized({ messages: asked }, signal);
    take(found);
    turns = asked;
    $("text").value = "";
    renew();
    await write(signal);
  });
  if (went || tokens.length > given || turns === before_) return;
  turns = [...before_, ...said]; // it was refused, and is there to be changed
  clearTokens();
  $("text").value = text;
  renew();
}

function clearTokens() {
  tokens = [];
  before = [];
  given = 0;
  end = "";
  draw();
  $("surprise").replaceChildren(make("p", {}, "Nothing is written yet."));
  $("ids").hidden = true;
}

function clear() {
  clearTokens();
  turns = [];
  if ($("maps")) $("maps").hidden = true;
  say("");
  renew();
  $("text").focus();
}

async function look() {
  await work(async (signal) => {
    say("Reading …");
    const last = tokens.slice(-Math.min(data.context, data.most)).map((token) => token.id);
    const { labels, attention } = await (await ask("/attention", { tokens: last }, signal)).json();
    $("maps").hidden = false;
    drawAttention(labels, attention);
    say("The maps below are of the text so far.");
  });
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.abort();
});
$("stop").addEventListener("click", () => running && running.abort());
$("more").addEventListener("click", () => work(write));
$("back").addEventListener("click", back);
$("clear").addEventListener("click", clear);
if ($("look")) $("look").addEventListener("click", look);
for (const radio of document.querySelectorAll("[name=mode]")) {
  radio.checked = radio.value === (data.talks ? "chat" : "text");
  radio.addEventListener("change", clear);
}
$("modes").hidden = !data.talks;
$("key-label").hidden = !data.key;
$("settings").open = data.key;
renew();
