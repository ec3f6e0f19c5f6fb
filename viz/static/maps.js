// Maps of one face, decoded, coloured and laid over its pictures, in the app and in a report alike.
//
//   map {side, values, range} (viz/explorer.py) -> decoded -> paint: the colours of a scale -> canvas
//   canvas over <img> -> stage
//   view {pictures, groups: {name: panels}, shown, ordered, pick} (viz/views.py) -> drawView -> choice of the group
//     -> the controls of the overlay: over which picture, opacity, blend, colours
//     -> panels, linked: pointing at a place of one marks it in all and shows where it is and every map's value there;
//        a part that is marked on the picture `pick` goes to onPick
//
// Nothing here asks a server for anything. sparnet/attention.py is the reference for the arithmetic.

const BLENDS = { normal: "mix", glow: "glow: opaque where bright", multiply: "multiply", screen: "screen", luminosity: "lightness only" };
const SEQUENTIAL = ["viridis", "magma", "inferno", "cividis", "gray"];

/** An element with properties and attributes, its children last. */
function make(tag, values = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(values)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** A map's values row by row, NaN where it has none. */
function decoded({ values, range: [low, high] }) {
  const value = (level) => (level === 65535 ? NaN : low + ((high - low) * level) / 65534);
  return Float32Array.from(new Uint16Array(bytes(values).buffer), value);
}

function colorTables(encoded) {
  return Object.fromEntries(Object.entries(encoded).map(([name, text]) => [name, bytes(text)]));
}

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/**
 * Values in colours (256 RGB triples) of the scale's ends; NaN is left out. For what lies beneath: opacity 0 to 100, and
 * in the blend "glow" the lower a value, the less of it.
 */
function paint(canvas, values, colors, [low, high], { opacity = 100, blend = "normal" } = {}) {
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(canvas.width, canvas.height);
  values.forEach((value, i) => {
    if (Number.isNaN(value)) return;
    const share = Math.min(Math.max((value - low) / Math.max(high - low, 1e-12), 0), 1);
    const level = 3 * Math.round(255 * share);
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = colors[level + c];
    image.data[4 * i + 3] = 2.55 * opacity * (blend === "glow" ? share : 1);
  });
  pen.putImageData(image, 0, 0);
  canvas.style.mixBlendMode = blend === "glow" ? "normal" : blend;
}

/** A canvas for a map; nearest neighbour, so that every value shown is one that the map has. */
function mapCanvas(side, label) {
  const canvas = make("canvas", { width: side, height: side });
  return label ? Object.assign(canvas, { role: "img", ariaLabel: label }) : canvas;
}

/** Layers on one square, the last on top. */
function stage(...layers) {
  return make("div", { className: "stage" }, ...layers);
}

function colorBar(colors, low, high) {
  const bar = make("canvas", { width: 256, height: 1, ariaHidden: "true" });
  paint(bar, Float32Array.from({ length: 256 }, (_, i) => i), colors, [0, 255]);
  return make("div", { className: "scale" }, low, bar, high);
}

/** [value, text] -> a <select> with its caption; change(value). */
function choice(caption, name, options, chosen, change, title = "") {
  const select = make("select", { name, title, onchange: () => change(select.value) });
  for (const [value, text] of options) select.append(new Option(text, value, false, value === chosen));
  return make("label", {}, caption, select);
}

/** [value, text, title] -> buttons, of which one is pressed; change(value). */
function pills(label, options, chosen, change) {
  const buttons = options.map(([value, text, title = ""]) => make("button", { type: "button", value, title, onclick: () => press(value) }, text));
  const press = (value, tell = change) => {
    for (const button of buttons) button.ariaPressed = String(button.value === value);
    tell(value);
  };
  press(chosen, () => {});
  return make("div", { className: "choice", role: "group", ariaLabel: label }, ...buttons);
}

function opacityRange(value, change) {
  const range = make("input", { type: "range", name: "opacity", min: 0, max: 100, value, oninput: () => change(Number(range.value)) });
  return make("label", {}, "Opacity", range);
}

/** Where a pointer is on a node, in shares of its width and height. */
function placeIn(event, node = event.currentTarget) {
  const box = node.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function short(value) {
  return Number.isNaN(value) ? "none" : String(+value.toPrecision(3));
}

function drawView(place, view, tables, onPick) {
  const names = Object.keys(view.groups);
  const look = { group: view.shown ?? names[0], over: "", opacity: 60, blend: "normal", colors: "" };
  const panels = make("div", { className: "panels" });
  const change = (values) => {
    Object.assign(look, values);
    drawPanels(panels, view, look, tables, onPick);
  };
  const parts = [panels];
  if (view.pictures.length && names.some((name) => view.groups[name].some((panel) => panel.values))) {
    parts.unshift(overlayControls(view, look, change));
  }
  const show = (group) => change({ group });
  if (names.length > 1) {
    parts.unshift(view.ordered ? groupSlider(names, look.group, show) : pills("Show", names.map((name) => [name, name]), look.group, show));
  }
  place.classList.add("maps");
  place.replaceChildren(...parts);
  change({});
}

function groupSlider(names, chosen, show) {
  const shown = make("b", { textContent: chosen });
  const range = make("input", { type: "range", min: 0, max: names.length - 1, step: 1, value: names.indexOf(chosen) });
  range.oninput = () => show((shown.textContent = names[range.value]));
  return make("label", { className: "along" }, shown, range);
}

function overlayControls(view, look, change) {
  const pictures = view.pictures.map(({ name }) => [name, name]);
  const opacity = opacityRange(look.opacity, (value) => change({ opacity: value }));
  const mix = choice("Blend", "blend", Object.entries(BLENDS), look.blend, (value) => change({ blend: value }), "How colours and picture mix");
  const lay = (over) => {
    opacity.hidden = mix.hidden = !over;
    change({ over });
  };
  lay(look.over);
  return make(
    "div",
    { className: "overlay" },
    choice("Lay maps over", "over", [["", "nothing"], ...pictures], look.over, lay, "The picture beneath every map"),
    opacity,
    mix,
    choice("Colours", "colors", [["", "as measured"], ...SEQUENTIAL.map((name) => [name, name])], look.colors,
      (value) => change({ colors: value }), "Not of differences"),
  );
}

function drawPanels(place, view, look, tables, onPick) {
  const panels = [...view.pictures, ...(view.groups[look.group] ?? [])];
  const beneath = view.pictures.find((picture) => picture.name === look.over);
  const figures = panels.map((panel) => (panel.image ? pictureOf(panel) : mapOf(panel, look, beneath, tables)));
  place.classList.toggle("few", panels.length < 9);
  place.replaceChildren(...figures.map(({ figure }) => figure));
  const stages = figures.map(({ figure }) => figure.querySelector(".stage"));
  const mark = (event) => {
    const [x, y] = placeIn(event);
    if (!(x >= 0 && x < 1 && y >= 0 && y < 1)) return;
    figures.forEach(({ figure, valueAt }, i) => {
      const ring = stages[i].querySelector(".ring");
      Object.assign(ring.style, { display: "block", left: `${100 * x}%`, top: `${100 * y}%` });
      figure.querySelector("output").textContent = valueAt(x, y);
    });
  };
  for (const node of stages) {
    node.addEventListener("pointermove", mark);
    node.addEventListener("pointerdown", mark);
  }
  panels.forEach((panel, i) => {
    if (onPick && panel.name === view.pick) pickOn(stages[i], onPick);
  });
}

/** Drag a rectangle, or click a place: onPick gets left, top, right, bottom as shares of the picture; a click is a point. */
function pickOn(node, onPick) {
  const frame = make("span", { className: "frame" });
  node.append(frame);
  node.classList.add("pick");
  let from = null;
  const rectangle = (event) => {
    const to = placeIn(event).map((share) => Math.min(1, Math.max(0, share)));
    return [0, 1].map((i) => Math.min(from[i], to[i])).concat([0, 1].map((i) => Math.max(from[i], to[i])));
  };
  node.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    node.setPointerCapture(event.pointerId);
    from = placeIn(event);
  });
  node.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [left, top, right, bottom] = rectangle(event).map((share) => 100 * share);
    Object.assign(frame.style, { display: "block", left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
  });
  node.addEventListener("pointerup", (event) => {
    if (!from) return;
    const picked = rectangle(event);
    from = null;
    onPick(picked);
  });
  node.addEventListener("pointercancel", () => (from = null));
}

function pictureOf(panel) {
  const image = make("img", { src: panel.image, alt: panel.name, draggable: false });
  const valueAt = (x, y) => `(${Math.floor(x * image.naturalWidth)}, ${Math.floor(y * image.naturalHeight)})`;
  return { figure: framed(panel.name, [image]), valueAt };
}

function mapOf(panel, look, beneath, tables) {
  const { name, side, range, scale } = panel;
  const values = decoded(panel);
  const sequential = SEQUENTIAL.includes(panel.colors);
  const colors = tables[(sequential && look.colors) || panel.colors];
  const canvas = mapCanvas(side, `${name}: from ${range.map(short).join(" to ")}`);
  const blend = sequential || look.blend !== "glow" ? look.blend : "normal"; // the lowest of differences is not nothing
  paint(canvas, values, colors, scale, beneath && { opacity: look.opacity, blend });
  const figure = framed(name, beneath ? [make("img", { src: beneath.image, alt: "" }), canvas] : [canvas]);
  figure.querySelector("figcaption").append(colorBar(colors, ...scale.map(short)));
  return { figure, valueAt: (x, y) => short(values[Math.floor(y * side) * side + Math.floor(x * side)]) };
}

function framed(name, layers) {
  const title = make("b", {}, name, make("output"));
  return make("figure", {}, stage(...layers, make("span", { className: "ring" })), make("figcaption", {}, title));
}
