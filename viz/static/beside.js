// "What it looked at": the maps of the face beside its result.
//
//   props.value (viz/explorer.py) -> three units of the highest contrast over the grey face, all units in forward order
//     a unit -> a dialog: its map large over a picture, its numbers; or all maps there
//   props.unit -> chosen from outside
//   the event "scale" <-> the scale of colours, chosen here or in the second tab
//   "Features", once asked for -> trigger("select", {features: true}) -> props.features {token, units or error}
//
// Gradio runs this, after maps.js and kept.js, with `element`, `props`, `watch` and `trigger`. Nothing else asks the server.

const BASES = [
  ["grey", "Grey", "the restored face without its colours"],
  ["restored", "Restored", "what the network made of it"],
  ["degraded", "Input", "what the network was given"],
  ["features", "Features", "strength of the unit's features f: length over the channels, white is its maximum"],
];
const SCALES = {
  most: ["0 to the largest", "One scale: dark maps are really low."],
  own: ["each its own range", "Do not compare maps: each has its own range."],
  one: ["0 to 1", "One scale, as far as a gate can open: dark maps are really low."],
};
const COLUMNS = 7; // at most, of thumbnails beside each other

const look = { colors: "viridis", scale: "most", unit: null, base: "grey", opacity: 100, blend: "glow", ...known(recalled()) };
let face = null; // the payload, its maps decoded
let dialog = null;
let drawings = []; // {node, draw}: what another scale, unit or colour changes

watch("value", load);
watch("features", drawAll);
watch("unit", () => choose(props.unit));
document.addEventListener("scale", ({ detail }) => change({ scale: detail }));
load();
choose(props.unit);

/** What was chosen before, where it still is to be had. */
function known({ colors, scale, unit }) {
  return { unit, ...(SEQUENTIAL.includes(colors) && { colors }), ...(Object.hasOwn(SCALES, scale) && { scale }) };
}

function load() {
  const value = props.value;
  face = dialog = null;
  element.replaceChildren();
  if (!value) return;
  if (!value.units.length) {
    element.append(make("p", { className: "notice" }, "This model has no attention maps: its units add all of their features."));
    return;
  }
  const units = value.units.map((unit) => ({ ...unit, values: decoded(unit) }));
  face = { ...value, units, top: Math.max(...units.map(({ range }) => range[1])), tables: colorTables(value.tables) };
  if (look.base === "features") look.base = "grey"; // they were of another face
  const strongest = units.filter((unit) => !unit.gates).sort((a, b) => b.numbers.std - a.numbers.std).slice(0, 3);
  dialog = make("dialog", { className: "maps", ariaLabel: "Attention maps", onkeydown: turn, onclick: leave });
  const all = make("button", { type: "button", className: "all", onclick: () => open() }, allOf());
  element.append(make("section", { className: "maps beside", ariaLabel: "What it looked at" },
    make("h2", {}, "What it looked at"), make("p", {}, summary(strongest.length)),
    make("div", { className: "strongest" }, ...strongest.map((unit) => unitButton(unit, { over: true }))),
    scaleControls(), make("output"), atlas(), all, dialog));
  drawAll();
}

function summary(shown) {
  const count = face.units.length;
  if (!shown) return `${count} units, each opens and shuts whole channels, not places: a bar for each channel, the most open first`;
  return `${["", "one", "two", "three"][shown]} of ${count} units; bright: lets its features through here`;
}

/** A unit's map as a button that opens it large; over the grey face, or alone; detailed: with more of its numbers. */
function unitButton(unit, { over = false, detailed = false, caption = unit.name }) {
  const canvas = mapCanvas(unit.side);
  const map = stage(...(over ? [picture("grey")] : []), canvas);
  const tell = (text) => (button.closest(".maps").querySelector("output").textContent = text);
  const button = make("button", {
    type: "button", "data-unit": unit.name, title: unit.name, ariaLabel: described(unit), ariaHasPopup: "dialog",
    onclick: () => open(unit), onkeydown: walk,
    onpointermove: (event) => tell(`${unit.name}: ${reading(event, map, unit)}`), onpointerleave: () => tell(""),
  }, map, make("b", {}, caption), make("small", {}, over ? `up to ${unit.range[1].toFixed(2)}` : sizeOf(unit) + (detailed ? `, mean ${unit.numbers.mean.toFixed(3)}` : "")));
  let painted = null;
  drawings.push({ node: button, draw: () => {
    const wanted = `${look.colors} ${look.scale}`;
    if (painted !== wanted) drawMap(canvas, unit, over ? { blend: "glow" } : {});
    painted = wanted;
    button.ariaCurrent = String(unit === chosen());
  } });
  return button;
}

/** All units, encoder | body | decoder, in as few rows as COLUMNS allow. */
function atlas(detailed = false) {
  const groups = Object.entries(Object.groupBy(face.units, ({ name }) => name.split(".")[0]));
  const spans = (rows) => groups.map(([, units]) => Math.ceil(units.length / rows));
  const columns = (rows) => spans(rows).reduce((sum, span) => sum + span);
  let rows = 1;
  while (columns(rows) > COLUMNS) rows++;
  return make("div", { className: "atlas", style: `--columns: ${columns(rows)}` }, ...groups.map(([group, units], i) =>
    make("div", { role: "group", ariaLabel: group, style: `--span: ${spans(rows)[i]}` }, make("h3", {}, group),
      ...units.map((unit) => unitButton(unit, { detailed, caption: detailed ? unit.name : unit.name.split(".")[1] })))));
}

/** The scale of all maps: its ends and its warning; of: whose ends to show where each map has its own. */
function scaleControls(of = () => null) {
  const options = Object.entries(SCALES).map(([key, [label]]) => [key, key === "most" ? `${label}, ${short(face.top)}` : label]);
  const select = choice("Scale", "scale", options, look.scale, (scale) => change({ scale }));
  const bar = make("div");
  const warning = make("p");
  const node = make("div", { className: "legend" }, select, bar, warning);
  drawings.push({ node, draw: () => {
    const own = look.scale === "own";
    select.lastChild.value = look.scale;
    bar.replaceChildren(colorBar(face.tables[look.colors], ...(own && !of() ? ["lowest", "highest"] : scaleOf(of()).map(short))));
    warning.textContent = SCALES[look.scale][1];
    warning.className = own ? "strong" : "";
    if (isFaint()) warning.append(" ", make("button", { type: "button", onclick: () => change({ scale: "own" }) }, "Faint? Stretch each."));
  } });
  return node;
}

/** The unit large, or all of them, in the dialog. */
function open(unit) {
  if (unit) change({ unit: unit.name });
  const views = pills("Show", [["unit", "One unit"], ["all", allOf()]], unit ? "unit" : "all", (view) => open(view === "unit" && chosen()));
  const close = make("button", { type: "button", ariaLabel: "Close", onclick: () => dialog.close() }, "\u00d7");
  const colors = choice("Colours", "colors", SEQUENTIAL.map((name) => [name, name]), look.colors, (name) => change({ colors: name }));
  const parts = unit
    ? [large(), make("div", { className: "side" }, unitChoice(), ...overlayChoices(), colors, scaleControls(chosen), numbers())]
    : [make("div", { className: "side" }, colors, scaleControls(), make("output")), atlas(true)];
  dialog.replaceChildren(make("div", { className: unit ? "one" : "all" }, make("header", {}, views, close), ...parts));
  if (!dialog.open) dialog.showModal();
  views.querySelector("[aria-pressed=true]").focus();
  drawAll();
}

function unitChoice() {
  const names = face.units.map(({ name }) => [name, name]);
  const select = choice("Unit", "unit", names, chosen().name, choose);
  drawings.push({ node: select, draw: () => (select.lastChild.value = chosen().name) });
  const neighbour = (label, sign, step) => make("button", { type: "button", ariaLabel: label, onclick: () => go(step) }, sign);
  return make("div", { className: "choice" }, neighbour("Previous unit", "\u2039", -1), select, neighbour("Next unit", "\u203a", 1));
}

function overlayChoices() {
  return [
    pills("Show over", BASES, look.base, (base) => {
      if (base === "features" && props.features?.token !== face.token) trigger("select", { features: true });
      change({ base });
    }),
    opacityRange(look.opacity, (opacity) => change({ opacity })),
    choice("Blend", "blend", Object.entries(BLENDS), look.blend, (mode) => change({ blend: mode }), "How colours and picture mix"),
  ];
}

function large() {
  const canvas = mapCanvas(1, described(chosen()));
  const strength = mapCanvas(1);
  const pictures = Object.fromEntries(BASES.map(([base]) => [base, base === "features" ? strength : picture(base)]));
  const value = make("output");
  const map = stage();
  map.onpointermove = (event) => (value.textContent = reading(event, map, chosen()));
  map.onpointerleave = () => (value.textContent = "");
  const node = make("div", { className: "large" }, map);
  drawings.push({ node, draw: () => {
    const unit = chosen();
    const measured = look.base === "features" ? featuresOf(unit) : {};
    if (measured.map) {
      strength.width = strength.height = measured.map.side;
      paint(strength, decoded(measured.map), face.tables.gray, [0, measured.map.range[1]]);
    }
    drawMap(canvas, unit, look);
    canvas.ariaLabel = described(unit);
    map.replaceChildren(...(measured.message ? [make("p", {}, measured.message)] : [pictures[look.base], canvas]), value);
  } });
  return node;
}

/** {map: the strength of the unit's features} or {message: why it is not there}. */
function featuresOf(unit) {
  const features = props.features?.token === face.token ? props.features : {};
  if (features.units) return { map: features.units[unit.name] };
  return { message: features.error ?? "The network runs once more for its features \u2026" };
}

function numbers() {
  const node = make("dl");
  drawings.push({ node, draw: () => {
    const unit = chosen();
    const n = unit.numbers;
    const rows = {
      size: sizeOf(unit) + (unit.channels > 1 && !unit.gates ? `, mean of ${unit.channels} channels` : ""),
      mean: n.mean.toFixed(3),
      "std. deviation": n.std.toFixed(3),
      "min \u2026 max": `${n.min.toFixed(3)} \u2026 ${n.max.toFixed(3)}`,
      entropy: `${n.entropy.toFixed(2)} bits`,
      "above mean": `${Math.round(n.above_mean * 100)} % of places`,
    };
    node.replaceChildren(...Object.entries(rows).map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text))));
  } });
  return node;
}

function change(values) {
  const { scale } = look;
  Object.assign(look, values);
  remember(values);
  drawAll();
  if (look.scale !== scale) document.dispatchEvent(new CustomEvent("scale", { detail: look.scale }));
}

function drawAll() {
  drawings = drawings.filter(({ node }) => node.isConnected);
  for (const { draw } of drawings) draw();
}

function chosen() {
  const strongest = (best, unit) => (unit.numbers.std > best.numbers.std ? unit : best);
  return face.units.find(({ name }) => name === look.unit) ?? face.units.reduce(strongest);
}

function choose(name) {
  if (face?.units.some((unit) => unit.name === name)) change({ unit: name });
}

/** The unit before or after the chosen one. */
function go(step) {
  const next = face.units[face.units.indexOf(chosen()) + step];
  if (next) choose(next.name);
}

function turn(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step && !event.target.matches("input, select, [data-unit]")) go(step);
}

/** Arrow keys go from one thumbnail to the next. */
function walk(event) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const buttons = [...event.currentTarget.closest(".atlas, .strongest").querySelectorAll("[data-unit]")];
  const next = step && buttons[buttons.indexOf(event.currentTarget) + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
  choose(next.dataset.unit);
}

function leave(event) {
  if (event.target === dialog) dialog.close(); // beside what is in it
}

/** The map in the chosen colours and scale; without places, its channels as bars, the most open first. */
function drawMap(canvas, unit, { opacity, blend }) {
  const [low, high] = scaleOf(unit);
  const colors = face.tables[look.colors];
  if (!unit.gates) {
    canvas.width = canvas.height = unit.side;
    return paint(canvas, unit.values, colors, [low, high], { opacity, blend });
  }
  const size = unit.gates.length;
  const gates = unit.gates.toSorted((a, b) => b - a);
  const height = (gate) => (size * (gate - low)) / Math.max(high - low, 1e-12);
  const bars = Float32Array.from({ length: size * size }, (_, i) => (size - Math.floor(i / size) <= height(gates[i % size]) + 1 ? gates[i % size] : NaN));
  canvas.width = canvas.height = size;
  paint(canvas, bars, colors, [low, high]);
}

/** Whether most maps use less than half of the scale. */
function isFaint() {
  if (look.scale === "own") return false;
  const end = look.scale === "most" ? face.top : 1;
  return face.units.filter(({ range }) => range[1] < end / 2).length > face.units.length / 2;
}

function scaleOf(unit) {
  if (look.scale === "own") return unit.range;
  return [0, look.scale === "most" ? face.top : 1];
}

function picture(base) {
  return make("img", { src: face[base === "degraded" ? base : "restored"], alt: "", draggable: false, className: base });
}

function allOf() {
  return `All ${face.units.length} maps`;
}

function sizeOf(unit) {
  return unit.gates ? `${unit.gates.length} channels` : `${unit.side}\u00d7${unit.side}`;
}

function described(unit) {
  const where = unit.gates ? `, ${unit.gates.length} channels` : `, highest at the ${brightest(unit)}`;
  return `${unit.name}: attention from ${unit.range.map(short).join(" to ")}${where}`;
}

/** In which ninth of the map its mean is highest, in words. */
function brightest({ side, values }) {
  const sums = new Float64Array(9);
  const counts = new Float64Array(9);
  const third = (place) => Math.floor((3 * place) / side);
  values.forEach((value, i) => {
    const ninth = 3 * third(Math.floor(i / side)) + third(i % side);
    sums[ninth] += value;
    counts[ninth]++;
  });
  const means = sums.map((sum, i) => sum / (counts[i] || 1));
  const best = means.indexOf(Math.max(...means));
  const words = [["top", "middle", "bottom"][Math.floor(best / 3)], ["left", "", "right"][best % 3]];
  return best === 4 ? "centre" : words.filter(Boolean).join(" ");
}

/** The value under the pointer, and its place. */
function reading(event, map, unit) {
  if (unit.gates) return `mean \u03b1 = ${unit.numbers.mean.toFixed(3)}`;
  const [x, y] = placeIn(event, map).map((share) => Math.min(unit.side - 1, Math.max(0, Math.floor(share * unit.side))));
  return `\u03b1 = ${unit.values[y * unit.side + x].toFixed(3)} at (${x}, ${y})`;
}
