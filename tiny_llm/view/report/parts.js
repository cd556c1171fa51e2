"use strict";
// What pages are made of: a row of tokens to walk along, and the attention maps. Text goes into a
// page as text nodes and attributes only, never as HTML.

/** An element with attributes and children; strings become text. */
function make(name, attributes, ...children) {
  const svg = ["svg", "g", "rect", "path", "text", "title"].includes(name);
  const element = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function percent(share) {
  return share >= 0.001 || share === 0 ? (100 * share).toFixed(1) + "%" : "<0.1%";
}

function bar(share) {
  return make("svg", { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    make("rect", { width: share ? Math.max(0.4, 100 * share) : 0, height: 8 }));
}

/** One of the elements can be reached with Tab; the arrow keys lead from there to the others. */
function reach(elements, element) {
  for (const other of elements) other.tabIndex = -1;
  element.tabIndex = 0;
}

/** A line of a list of tokens with their probabilities or weights. */
function choice(label, share, text, isRight) {
  const item = make("li", isRight ? { class: "right" } : {},
    make("span", {}, label), make("span", {}, text), bar(share));
  return item;
}

// --------------------------------------------------------------------------------- a row of tokens

/** Let pointer and arrow keys go from token to token of a list, also to those that come later. What
 *  `described` makes of the place of one is shown in the panel; a click or Enter keeps it there. */
function tokenList(list, panel, described) {
  const tokens = () => [...list.querySelectorAll("[role=option]")];
  const placeOf = (target) => tokens().indexOf(target.closest("[role=option]"));
  let kept = null; // a token

  function show(place) {
    panel.replaceChildren(...described(place));
  }

  function keep(token) {
    if (kept) kept.setAttribute("aria-selected", "false");
    kept = kept === token ? null : token;
    if (kept) kept.setAttribute("aria-selected", "true");
    show(placeOf(token));
  }

  function look(event) {
    const place = placeOf(event.target);
    if (place < 0) return;
    if (event.type === "focusin") reach(tokens(), tokens()[place]);
    if (!kept) show(place);
  }

  list.addEventListener("pointerover", look);
  list.addEventListener("focusin", look);
  list.addEventListener("click", (event) => {
    const token = event.target.closest("[role=option]");
    if (token) keep(token);
  });
  list.addEventListener("keydown", (event) => {
    const all = tokens(), place = all.indexOf(document.activeElement);
    const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -all.length, End: all.length };
    if (place < 0) return;
    if (event.key === "Enter" || event.key === " ") keep(all[place]);
    else if (event.key === "Escape" && kept) keep(kept);
    else if (event.key in steps) {
      all[Math.min(all.length - 1, Math.max(0, place + steps[event.key]))].focus();
    } else return;
    event.preventDefault();
  });

  /** Begin at a place, with nothing kept. */
  function begin(place) {
    if (kept) kept.setAttribute("aria-selected", "false");
    kept = null;
    const all = tokens();
    reach(all, all[place]);
    show(place);
  }

  /** Show again what is kept, or else this place: what is to be said of it may have changed. */
  function renew(place) {
    if (kept) show(placeOf(kept));
    else begin(place);
  }
  return { begin, renew };
}

// ---------------------------------------------------------------------------------- the attention

/** Draw the maps into the frame of the page, in place of those that are there.
 *  tokens: the labels of the text; maps: as the data of a report have them. */
function drawAttention(tokens, maps) {
  const { rows, layers } = maps;
  const places = rows.length; // rows, and columns: the same tokens in the same order
  const first = rows[0][0]; // the place in the passage of the first of them
  const labels = tokens.slice(first, first + places);
  const isLong = labels.some((label) => [...label.replaceAll("\u200e", "")].length > 1);
  const longest = Math.max(...labels.map((label) => [...label].length));
  const room = Math.min(10, longest) * 7.5 + 10; // of a label
  const cell = Math.max(14, Math.min(30, Math.floor(600 / places)));
  const left = room, top = isLong ? room : 18;
  const hidden = { "aria-hidden": "true" };

  const read = document.getElementById("cell");
  const lockLine = document.getElementById("lock");
  const ranking = document.getElementById("ranking");
  ranking.className = "choices";

  let head = layers[0][0], headName = "";
  let query = places - 1, key = 0, locked = null;

  const shorten = (label) => [...label].length > 10 ? [...label].slice(0, 9).join("") + "…" : label;
  const keysOf = (row) => rows[row][1] - first; // the first column that this row may read
  const weight = (row, column) => head[row][column - keysOf(row)] / 1000;

  /** Squares that grow with the weight: side² is proportional to it. */
  function squares(weights, size, x0, y0) {
    let path = "";
    weights.forEach((row, q) => row.forEach((thousandths, i) => {
      const side = size * Math.sqrt(thousandths / 1000);
      if (side < size / 12) return;
      const x = x0 + (keysOf(q) + i + 0.5) * size - side / 2;
      const y = y0 + (q + 0.5) * size - side / 2;
      path += `M${x.toFixed(1)} ${y.toFixed(1)}h${side.toFixed(1)}v${side.toFixed(1)}h-${side.toFixed(1)}z`;
    }));
    return path;
  }

  // The map: a grid of cells to point at, and one path with all the squares over it.
  const columnNames = labels.map((label, column) => {
    const x = left + (column + 0.5) * cell, y = top - 5;
    const place = isLong ? { transform: `translate(${x + 4} ${y}) rotate(-90)` } : { x, y, "text-anchor": "middle" };
    return make("text", { role: "columnheader", ...place }, shorten(label));
  });
  const rowNames = labels.map((label, row) => make("text",
    { role: "rowheader", x: left - 6, y: top + (row + 0.5) * cell + 4, "text-anchor": "end" }, shorten(label)));
  const cells = rows.map((_, row) => head[row].map((_, i) => make("rect", {
    class: "cell", role: "gridcell", tabindex: "-1", "data-row": row, "data-column": keysOf(row) + i,
    x: left + (keysOf(row) + i) * cell, y: top + row * cell, width: cell, height: cell })));
  const lines = rows.map((_, row) => make("g", { role: "row" }, rowNames[row], ...cells[row]));
  const weights = make("path", { class: "weights", ...hidden });
  const here = make("rect", { class: "here", height: cell, ...hidden });
  const width = left + places * cell + 4, height = top + places * cell + 4;
  const map = make("svg", { role: "grid", width, height, viewBox: `0 0 ${width} ${height}` },
    make("g", { role: "row" }, ...columnNames), ...lines, weights, here);
  document.getElementById("frame").replaceChildren(map);
  const everyCell = cells.flat();

  function name(row) { return `${labels[row]} at ${first + row}`; }

  function choose(layer, number) {
    head = layers[layer][number];
    headName = `layer ${layer + 1}, head ${number + 1}`;
    map.setAttribute("aria-label", `Attention of ${headName}: rows read, columns are read`);
    weights.setAttribute("d", squares(head, cell, left, top));
    cells.forEach((line, row) => line.forEach((rect, i) => {
      const column = keysOf(row) + i;
      rect.setAttribute("aria-label", `${name(row)} reads ${weight(row, column).toFixed(3)} from ${name(column)}`);
      rect.style.fill = `color-mix(in srgb, var(--cool) ${(40 * weight(row, column)).toFixed(0)}%, var(--cell))`;
    }));
    show(query, key);
  }

  /** Look at one weight. A locked row stays, and only the column follows. */
  function show(row, column) {
    query = locked === null ? row : locked;
    key = Math.min(query, Math.max(keysOf(query), column));
    read.replaceChildren(make("strong", {}, weight(query, key).toFixed(3)),
      `: ${headName}, ${name(query)} reads from ${name(key)}`
      + (key === query ? ", itself" : `, ${query - key} back`));
    lockLine.textContent = locked === null ? "" : `Locked on the row of ${name(locked)}.`;
    here.setAttribute("x", left + keysOf(query) * cell);
    here.setAttribute("y", top + query * cell);
    here.setAttribute("width", head[query].length * cell);
    here.setAttribute("class", locked === null ? "here" : "here locked");
    lines.forEach((line, i) => line.setAttribute("aria-selected", String(i === locked)));
    rowNames.forEach((text, i) => text.setAttribute("class", i === query ? "now" : ""));
    columnNames.forEach((text, i) => text.setAttribute("class", i === key ? "now" : ""));
    for (const rect of map.querySelectorAll(".now")) if (rect.tagName === "rect") rect.setAttribute("class", "cell");
    const current = cells[query][key - keysOf(query)];
    current.setAttribute("class", "cell now");
    reach(everyCell, current);
    rank();
  }

  /** The keys of the row by weight, the heaviest first. */
  function rank() {
    const columns = head[query].map((_, i) => keysOf(query) + i);
    columns.sort((a, b) => weight(query, b) - weight(query, a));
    ranking.replaceChildren(...columns.slice(0, 8).map((column) =>
      choice(name(column), weight(query, column), weight(query, column).toFixed(3), column === key)));
  }

  function lock(row) {
    locked = locked === row ? null : row;
    show(query, key);
  }

  const at = (target) => target.classList.contains("cell")
    ? [Number(target.dataset.row), Number(target.dataset.column)] : null;
  map.addEventListener("pointerover", (event) => { const place = at(event.target); if (place) show(...place); });
  map.addEventListener("focusin", (event) => { const place = at(event.target); if (place) show(...place); });
  map.addEventListener("click", (event) => {
    const place = at(event.target);
    if (!place) return;
    lock(place[0]);
    show(...place);
  });
  map.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.key === "Enter" || event.key === " ") lock(query);
    else if (event.key === "Escape" && locked !== null) lock(locked);
    else if (event.key === "Home") show(query, keysOf(query));
    else if (event.key === "End") show(query, query);
    else if (event.key in steps) {
      const [down, right] = steps[event.key];
      show(Math.min(places - 1, Math.max(0, query + down)), key + right);
    } else return;
    cells[query][key - keysOf(query)].focus({ preventScroll: false });
    event.preventDefault();
  });

  // The choice of a head: one small map for each.
  const chooser = document.getElementById("heads");
  chooser.replaceChildren(chooser.firstElementChild);
  layers.forEach((heads, layer) => {
    const line = make("div", {});
    heads.forEach((weightsOfHead, number) => {
      const input = make("input", { type: "radio", name: "head", value: `${layer}.${number}`,
        "aria-label": `layer ${layer + 1}, head ${number + 1}` });
      input.checked = layer === 0 && number === 0;
      input.addEventListener("change", () => choose(layer, number));
      const small = make("svg", { viewBox: `0 0 ${4 * places} ${4 * places}`, ...hidden },
        make("path", { d: squares(weightsOfHead, 4, 0, 0) }));
      line.append(make("label", {}, input, small, make("span", hidden, `${layer + 1}.${number + 1}`)));
    });
    chooser.append(line);
  });
  chooser.hidden = layers.length * layers[0].length === 1;
  // Begin with what the last row reads most.
  const last = layers[0][0][places - 1];
  key = keysOf(places - 1) + last.indexOf(Math.max(...last));
  choose(0, 0);
}
