// Maps and pictures of one face on one frame, in the app and in a report alike.
//
//   view {pictures, groups: {name: panels}, shown, ordered, pick} (viz/views.py) -> drawView -> choice of the group
//     -> the controls of the overlay: over which picture, opacity, blend, colours
//     -> panels, linked: pointing at a place of one marks it in all and shows where it is and every map's value there;
//        a part that is marked on the picture `pick` goes to onPick
//
// Nothing here asks a server for anything.

const BLENDS = { normal: "mix", multiply: "multiply", screen: "screen", luminosity: "lightness only" };
const SEQUENTIAL = ["viridis", "magma", "inferno", "cividis", "gray"];

function drawView(place, view, tables, onPick) {
  const names = Object.keys(view.groups);
  const look = { group: view.shown ?? names[0], over: "", opacity: 60, blend: "normal", colors: "" };
  const panels = Object.assign(document.createElement("div"), { className: "panels" });
  const redraw = () => drawPanels(panels, view, look, tables, onPick);
  const parts = [panels];
  if (view.pictures.length && names.some((name) => view.groups[name].some((panel) => panel.values))) {
    parts.unshift(overlayControls(view, look, redraw));
  }
  if (names.length > 1) parts.unshift(view.ordered ? groupSlider(names, look, redraw) : groupButtons(names, look, redraw));
  place.classList.add("maps");
  place.replaceChildren(...parts);
  redraw();
}

function groupButtons(names, look, redraw) {
  const row = Object.assign(document.createElement("div"), { className: "choice" });
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", "Show");
  const buttons = names.map((name) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.onclick = () => {
      look.group = name;
      press();
      redraw();
    };
    return button;
  });
  const press = () => buttons.forEach((one) => one.setAttribute("aria-pressed", String(one.textContent === look.group)));
  row.append(...buttons);
  press();
  return row;
}

function groupSlider(names, look, redraw) {
  const label = Object.assign(document.createElement("label"), { className: "along" });
  const told = Object.assign(document.createElement("b"), { textContent: look.group });
  const range = Object.assign(document.createElement("input"), {
    type: "range", min: 0, max: names.length - 1, step: 1, value: names.indexOf(look.group),
  });
  range.oninput = () => {
    told.textContent = look.group = names[range.value];
    redraw();
  };
  label.append(told, range);
  return label;
}

function overlayControls(view, look, redraw) {
  const row = Object.assign(document.createElement("div"), { className: "overlay" });
  const choice = (caption, key, options, hint) => {
    const label = document.createElement("label");
    const select = Object.assign(document.createElement("select"), { name: key, title: hint });
    for (const [value, text] of options) select.append(new Option(text, value, false, value === look[key]));
    select.onchange = () => {
      look[key] = select.value;
      update();
    };
    label.append(caption, select);
    return label;
  };
  const range = Object.assign(document.createElement("input"), { type: "range", name: "opacity", min: 0, max: 100, value: look.opacity });
  const opacity = document.createElement("label");
  opacity.append("Opacity", range);
  range.oninput = () => {
    look.opacity = Number(range.value);
    redraw();
  };
  const over = view.pictures.map((picture) => [picture.name, picture.name]);
  const blend = choice("Blend", "blend", Object.entries(BLENDS), "How colours and picture mix");
  const update = () => {
    for (const label of [opacity, blend]) label.hidden = !look.over;
    redraw();
  };
  row.append(
    choice("Lay maps over", "over", [["", "nothing"], ...over], "The picture beneath every map"),
    opacity,
    blend,
    choice("Colours", "colors", [["", "as measured"], ...SEQUENTIAL.map((name) => [name, name])], "Not of differences"),
  );
  for (const label of [opacity, blend]) label.hidden = !look.over;
  return row;
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
    figures.forEach(({ figure, tell }, i) => {
      const ring = stages[i].querySelector(".ring");
      Object.assign(ring.style, { display: "block", left: `${100 * x}%`, top: `${100 * y}%` });
      figure.querySelector("output").textContent = tell(x, y);
    });
  };
  for (const stage of stages) {
    stage.addEventListener("pointermove", mark);
    stage.addEventListener("pointerdown", mark);
  }
  panels.forEach((panel, i) => {
    if (onPick && panel.name === view.pick) pickOn(stages[i], onPick);
  });
}

/** Drag a rectangle, or click a place: onPick gets left, top, right, bottom as shares of the picture; a click is a point. */
function pickOn(stage, onPick) {
  const frame = Object.assign(document.createElement("span"), { className: "frame" });
  stage.append(frame);
  stage.classList.add("pick");
  let from = null;
  const rectangle = (event) => {
    const to = placeIn(event).map((share) => Math.min(1, Math.max(0, share)));
    return [0, 1].map((i) => Math.min(from[i], to[i])).concat([0, 1].map((i) => Math.max(from[i], to[i])));
  };
  stage.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    from = placeIn(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [left, top, right, bottom] = rectangle(event).map((share) => 100 * share);
    Object.assign(frame.style, { display: "block", left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
  });
  stage.addEventListener("pointerup", (event) => {
    if (!from) return;
    const picked = rectangle(event);
    from = null;
    onPick(picked);
  });
  stage.addEventListener("pointercancel", () => (from = null));
}

function placeIn(event) {
  const box = event.currentTarget.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function pictureOf(panel) {
  const image = Object.assign(new Image(), { src: panel.image, alt: panel.name, draggable: false });
  const tell = (x, y) => `(${Math.floor(x * image.naturalWidth)}, ${Math.floor(y * image.naturalHeight)})`;
  return { figure: framed(panel.name, [image]), tell };
}

function mapOf(panel, look, beneath, tables) {
  const { side, range: [low, high], scale: [bottom, top] } = panel;
  const levels = new Uint16Array(bytes(panel.values).buffer);
  const value = (i) => (levels[i] === 65535 ? NaN : low + ((high - low) * levels[i]) / 65534);
  const table = tables[look.colors && SEQUENTIAL.includes(panel.colors) ? look.colors : panel.colors];
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  paint(canvas, table, (i) => (value(i) - bottom) / (top - bottom || 1));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${panel.name}: from ${short(low)} to ${short(high)}`);
  const layers = [canvas];
  if (beneath) {
    layers.unshift(Object.assign(new Image(), { src: beneath.image, alt: "" }));
    Object.assign(canvas.style, { opacity: look.opacity / 100, mixBlendMode: look.blend });
  }
  const figure = framed(panel.name, layers);
  const bar = Object.assign(document.createElement("canvas"), { width: 256, height: 1 });
  paint(bar, table, (i) => i / 255);
  const scale = Object.assign(document.createElement("div"), { className: "scale" });
  scale.append(short(bottom), bar, short(top));
  figure.querySelector("figcaption").append(scale);
  return { figure, tell: (x, y) => short(value(Math.floor(y * side) * side + Math.floor(x * side))) };
}

function framed(name, layers) {
  const figure = document.createElement("figure");
  const stage = Object.assign(document.createElement("div"), { className: "stage" });
  const caption = document.createElement("figcaption");
  const title = document.createElement("b");
  stage.append(...layers, Object.assign(document.createElement("span"), { className: "ring" }));
  title.append(name, document.createElement("output"));
  caption.append(title);
  figure.append(stage, caption);
  return figure;
}

function paint(canvas, table, share) {
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < canvas.width * canvas.height; i++) {
    const at = share(i);
    if (Number.isNaN(at)) continue; // no value: transparent
    const level = 3 * Math.round(255 * Math.min(Math.max(at, 0), 1));
    image.data.set([table[level], table[level + 1], table[level + 2], 255], 4 * i);
  }
  pen.putImageData(image, 0, 0);
}

function colorTables(encoded) {
  return Object.fromEntries(Object.entries(encoded).map(([name, text]) => [name, bytes(text)]));
}

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function short(value) {
  return Number.isNaN(value) ? "none" : String(+value.toPrecision(3));
}
