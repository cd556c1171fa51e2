// A change as text that `patch -p1` understands, and back. Lines are compared whole.

/** The lines of a text; each but the last had an end. */
const linesOf = (text) => text.split("\n");

/** What became of the lines of one text in another: [sign, line], sign " ", "-" or "+". */
function compared(before, after) {
  const a = linesOf(before), b = linesOf(after);
  let first = 0;
  while (first < Math.min(a.length, b.length) && a[first] === b[first]) first++;
  let last = 0;
  while (last < Math.min(a.length, b.length) - first
    && a[a.length - 1 - last] === b[b.length - 1 - last]) last++;
  const x = a.slice(first, a.length - last), y = b.slice(first, b.length - last);
  // longest[i][j]: how many lines x from i on and y from j on have in common, in order.
  const longest = Array.from({ length: x.length + 1 }, () => new Uint16Array(y.length + 1));
  for (let i = x.length - 1; i >= 0; i--)
    for (let j = y.length - 1; j >= 0; j--)
      longest[i][j] = x[i] === y[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
  const result = a.slice(0, first).map((line) => [" ", line]);
  let i = 0, j = 0;
  while (i < x.length || j < y.length) {
    if (i < x.length && j < y.length && x[i] === y[j]) result.push([" ", x[i++]]), j++;
    else if (j === y.length || (i < x.length && longest[i + 1][j] >= longest[i][j + 1])) result.push(["-", x[i++]]);
    else result.push(["+", y[j++]]);
  }
  return [...result, ...a.slice(a.length - last).map((line) => [" ", line])];
}

/** The change of one file as a unified diff, with three lines around each change; "" for none. */
function diffOf(path, before, after) {
  const lines = compared(before, after);
  if (lines.at(-1)[1] === "" && lines.at(-1)[0] === " ") lines.pop(); // behind the last line's end
  const near = lines.map((_, i) => lines.slice(Math.max(0, i - 3), i + 4).some(([sign]) => sign !== " "));
  let old = 1, now = 1, hunk = null;
  const hunks = [];
  lines.forEach(([sign, line], i) => {
    if (near[i]) {
      if (!hunk) hunks.push(hunk = { old, now, lines: [] });
      hunk.lines.push(sign + line);
    } else hunk = null;
    if (sign !== "+") old++;
    if (sign !== "-") now++;
  });
  if (!hunks.length) return "";
  const size = (one, sign) => one.lines.filter((line) => line[0] !== sign).length;
  return `--- a/${path}\n+++ b/${path}\n` + hunks.map((one) =>
    `@@ -${one.old},${size(one, "+")} +${one.now},${size(one, "-")} @@\n${one.lines.join("\n")}\n`).join("");
}

/** The files of a diff with their hunks: path -> [[lines before], [lines after]] of each. */
function parsedDiff(text) {
  const files = new Map();
  let hunks = null;
  for (const line of linesOf(text)) {
    if (line.startsWith("--- ")) hunks = null;
    else if (line.startsWith("+++ b/")) files.set(line.slice(6), hunks = []);
    else if (!hunks) continue;
    else if (line.startsWith("@@")) hunks.push([[], []]);
    else if (hunks.length && " -+".includes(line[0] ?? "x")) {
      if (line[0] !== "+") hunks.at(-1)[0].push(line.slice(1));
      if (line[0] !== "-") hunks.at(-1)[1].push(line.slice(1));
    }
  }
  return files;
}

/** A text with hunks put in. Throws an Error if one has no single place in it. */
function applied(text, hunks) {
  for (const [before, after] of hunks) {
    const old = before.join("\n") + "\n", parts = ("\n" + text).split("\n" + old);
    if (!before.length || parts.length !== 2) throw new Error("this change is for another version of the book");
    text = (parts[0] + "\n" + after.map((line) => line + "\n").join("") + parts[1]).slice(1);
  }
  return text;
}
