// The passage of a report, and its attention maps. (parts.js is before it in the page.)

const data = JSON.parse(document.getElementById("data").textContent);

function described(place) {
  const before = data.labels.slice(Math.max(0, place - 12), place).join("");
  if (place === 0) return [make("p", {}, `${data.labels[0]} is the first: nothing stands before it.`)];
  const after = place > 12 ? `…${before}` : before;
  if (place === data.labels.length) return [
    make("p", {}, `What it expects after ${after}:`), choices(data.following, null)];
  const [nats, probability, rank, likeliest] = data.predictions[place - 1];
  const label = data.labels[place];
  return [
    make("p", {}, make("strong", {}, label), ` after ${after}: ${nats.toFixed(3)} nats. The model gave it `
      + `${percent(probability)}, which made it number ${rank} of its guesses:`),
    choices(likeliest, label)];
}

function choices(likeliest, right) {
  return make("ol", { class: "choices" }, ...likeliest.map(([label, probability]) =>
    choice(label, probability, percent(probability), label === right)));
}

// Begin with what surprised it most.
const nats = data.predictions.map((prediction) => prediction[0]);
tokenList(document.getElementById("passage"), document.getElementById("surprise"), described)
  .begin(nats.length ? 1 + nats.indexOf(Math.max(...nats)) : data.labels.length);
if (data.attention) drawAttention(data.labels, data.attention);
