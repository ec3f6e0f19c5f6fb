// The atlas in the browser: every map as a button, the chosen one large over the face.
//
//   props.value (viz/explorer.py) -> maps -> thumbnails            colour table, 0..1 or each map's own range
//                                         -> large view            (1 - opacity) base + opacity colour
//
// Gradio runs this with `element`, `props` and `watch`. Nothing here asks the server for anything: choosing a unit,
// opacity, colours and base act at once. `sparnet/attention.py` is the reference for the arithmetic.

const BASES = [
  ["degraded", "Input", "what the network was given"],
  ["restored", "Restored", "what the network made of it"],
  ["features", "Features", "strength of the unit's features f: length over the channels, white is its maximum"],
];
const GROUPS = { encoder: "halves", body: "smallest maps", decoder: "doubles" };

const view = { unit: null, base: "restored", opacity: 0.6, colors: "viridis", stretch: false };
let face = null;
let tables = {}; // colour map -> its 256 RGB triples

watch("value", load);
load();

function load() {
  const value = props.value;
  if (!value) {
    face = null;
    element.replaceChildren();
    return;
  }
  if (!value.units.length) {
    face = null;
    element.innerHTML = "<p class='notice'>This model has no attention maps: its units add all of their features.</p>";
    return;
  }
  tables = Object.fromEntries(Object.entries(value.tables).map(([name, text]) => [name, bytes(text)]));
  const units = value.units.map((unit) => ({
    ...unit,
    alpha: Float32Array.from(new Uint16Array(bytes(unit.alpha).buffer), (level) => level / 65535),
    features: unit.features ? bytes(unit.features) : null,
  }));
  face = { side: value.side, units, pictures: {} };
  if (!units.some((unit) => unit.name === view.unit)) {  // begin with the map of the most contrast
    view.unit = units.reduce((best, unit) => (unit.numbers.std > best.numbers.std ? unit : best)).name;
  }
  build();
  for (const name of ["degraded", "restored"]) {
    const picture = new Image();
    const shown = face;
    picture.onload = () => {
      shown.pictures[name] = pixels(picture, shown.side);
      if (shown === face) drawLarge();
    };
    picture.src = value[name];
  }
}

function build() {
  const groups = groupBy(face.units);
  const columns = [...groups].reduce((sum, [, units]) => sum + columnsOf(units), 0);
  element.innerHTML = `
    <div class="explorer">
      <div class="atlas" role="group" aria-label="Attention maps in forward order" style="--columns:${columns}">
        <div class="scale"><span data-low></span><canvas width="256" height="1" aria-hidden="true"></canvas>
          <span data-high></span><b data-scale></b>
          <label><input type="checkbox" name="stretch" ${view.stretch ? "checked" : ""}>
            Stretch each map to its own range</label></div>
        ${[...groups].map(([group, units]) => block(group, units)).join("")}
      </div>
      <div class="large">
        <div class="stage"><canvas data-large tabindex="-1" role="img"></canvas><output data-hover></output></div>
        <div class="controls">
          <fieldset><legend>Show over</legend>${BASES.map(baseButton).join("")}</fieldset>
          <label>Opacity of the map <output data-opacity></output>
            <input type="range" name="opacity" min="0" max="100" step="1" value="${view.opacity * 100}"></label>
          <label>Colours <select name="colors">${Object.keys(tables)
            .map((name) => `<option ${name === view.colors ? "selected" : ""}>${name}</option>`)
            .join("")}</select></label>
        </div>
        <dl data-numbers></dl>
      </div>
    </div>`;
  for (const button of buttons()) {
    button.onclick = () => choose(button.dataset.unit);
    button.onkeydown = step;
  }
  const on = (selector, event, act) => {
    for (const node of element.querySelectorAll(selector)) node.addEventListener(event, () => act(node));
  };
  on("[name=opacity]", "input", (node) => change({ opacity: node.value / 100 }, drawLarge));
  on("[name=colors]", "change", (node) => change({ colors: node.value }, draw));
  on("[name=stretch]", "change", (node) => change({ stretch: node.checked }, draw));
  on("[name=base]", "change", (node) => change({ base: node.value }, drawLarge));
  const large = element.querySelector("[data-large]");
  large.onpointermove = hover;
  large.onpointerleave = () => (element.querySelector("[data-hover]").textContent = "");
  draw();
}

// Encoder and decoder are one column each, as in the paper's figure; the body takes as many as their height allows.
function columnsOf(units) {
  const rows = Math.max(1, ...["encoder", "decoder"].map((name) => face.units.filter((u) => u.group === name).length));
  return Math.ceil(units.length / rows);
}

function block(group, units) {
  return `<section style="--span:${columnsOf(units)}"><h3>${group} <small>${GROUPS[group] ?? ""}</small></h3><div>${units
    .map(
      (unit) => `<button type="button" data-unit="${unit.name}" title="${unit.name}"
        aria-label="${unit.name}, ${unit.size} by ${unit.size}, mean ${unit.numbers.mean.toFixed(2)}">
        <canvas width="${unit.size}" height="${unit.size}"></canvas>
        <b>${unit.name}</b><small>${unit.size}², mean ${unit.numbers.mean.toFixed(2)}</small></button>`,
    )
    .join("")}</div></section>`;
}

function baseButton([name, label, meaning]) {
  const missing = name === "features" && !face.units[0].features;
  return `<label title="${meaning}"><input type="radio" name="base" value="${name}"
    ${name === view.base ? "checked" : ""} ${missing ? "disabled" : ""}><span>${label}</span></label>`;
}

function buttons() {
  return [...element.querySelectorAll("[data-unit]")];
}

function choose(name) {
  change({ unit: name }, drawLarge);
}

function step(event) {
  const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const all = buttons();
  const next = move && all[all.indexOf(event.currentTarget) + move];
  if (!next) return;
  event.preventDefault();
  next.focus();
  choose(next.dataset.unit);
}

function change(values, redraw) {
  Object.assign(view, values);
  redraw();
}

function draw() {
  for (const button of buttons()) {
    const unit = unitNamed(button.dataset.unit);
    put(button.querySelector("canvas"), unit.size, (i, rgb) => color(unit, unit.alpha[i], rgb));
  }
  const table = tables[view.colors];
  const bar = element.querySelector(".scale canvas");
  const image = new ImageData(256, 1);
  for (let i = 0; i < 256; i++) image.data.set([...table.subarray(3 * i, 3 * i + 3), 255], 4 * i);
  bar.getContext("2d").putImageData(image, 0, 0);
  element.querySelector(".explorer").classList.toggle("stretched", view.stretch);
  element.querySelector("[data-low]").textContent = view.stretch ? "its min" : "0";
  element.querySelector("[data-high]").textContent = view.stretch ? "its max" : "1";
  element.querySelector("[data-scale]").textContent = view.stretch
    ? "stretched: do not compare maps"
    : "one scale for all maps";
  drawLarge();
}

function drawLarge() {
  const unit = unitNamed(view.unit);
  for (const button of buttons()) button.setAttribute("aria-pressed", String(button.dataset.unit === view.unit));
  element.querySelector("[data-opacity]").textContent = `${Math.round(view.opacity * 100)} %`;
  const large = element.querySelector("[data-large]");
  large.setAttribute("aria-label", `${unit.name} over ${view.base}`);
  const side = face.side;
  const picture = face.pictures[view.base];
  const rgb = [0, 0, 0];
  put(large, side, (i, out) => {
    const place = placeIn(unit, i % side, Math.floor(i / side));
    color(unit, unit.alpha[place], rgb);
    for (let c = 0; c < 3; c++) {
      const base = view.base === "features" ? unit.features[place] : picture ? picture[4 * i + c] : 0;
      out[c] = Math.round((1 - view.opacity) * base + view.opacity * rgb[c]);
    }
  });
  const n = unit.numbers;
  const rows = {
    unit: unit.name,
    size: `${unit.size}x${unit.size}${unit.channels > 1 ? `, mean of ${unit.channels} channels` : ""}`,
    mean: n.mean.toFixed(3),
    "std. deviation": n.std.toFixed(3),
    "min … max": `${n.min.toFixed(3)} … ${n.max.toFixed(3)}`,
    entropy: `${n.entropy.toFixed(2)} bits`,
    "above mean": `${Math.round(n.above_mean * 100)} % of places`,
  };
  element.querySelector("[data-numbers]").innerHTML = Object.entries(rows)
    .map(([name, value]) => `<div><dt>${name}</dt><dd>${value}</dd></div>`)
    .join("");
}

function hover(event) {
  const unit = unitNamed(view.unit);
  const box = event.currentTarget.getBoundingClientRect();
  const at = (position, length) => Math.min(unit.size - 1, Math.max(0, Math.floor((position / length) * unit.size)));
  const x = at(event.clientX - box.left, box.width);
  const y = at(event.clientY - box.top, box.height);
  element.querySelector("[data-hover]").textContent = `α = ${unit.alpha[y * unit.size + x].toFixed(3)} at (${x}, ${y})`;
}

function unitNamed(name) {
  return face.units.find((unit) => unit.name === name);
}

function placeIn(unit, x, y) {
  const scaled = (position) => Math.floor((position * unit.size) / face.side);
  return scaled(y) * unit.size + scaled(x);
}

function color(unit, alpha, rgb) {
  const [low, high] = view.stretch ? [unit.numbers.min, unit.numbers.max] : [0, 1];
  const share = Math.min(1, Math.max(0, (alpha - low) / Math.max(high - low, 1e-12)));
  const level = Math.round(255 * share);
  for (let c = 0; c < 3; c++) rgb[c] = tables[view.colors][3 * level + c];
}

function put(canvas, side, pixel) {
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const image = new ImageData(side, side);
  const rgb = [0, 0, 0];
  for (let i = 0; i < side * side; i++) {
    pixel(i, rgb);
    image.data.set(rgb, 4 * i);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function pixels(picture, side) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, side, side).data;
}

function groupBy(units) {
  const groups = new Map();
  for (const unit of units) groups.set(unit.group, [...(groups.get(unit.group) ?? []), unit]);
  return groups;
}

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
