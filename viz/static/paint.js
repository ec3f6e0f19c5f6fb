// Attention painted by hand: strokes over a unit's map, that let its features through or hold them back.
//
//   props.value {face: the picture beneath, side: cells of the canvas, colors {boost, suppress},
//                unit, mask: base64 of a byte a cell, 1: suppress ... 128: leave ... 255: boost}
//     -> after every stroke props.value, trigger("input"); another unit is to be painted on: trigger("select")
//
// By keyboard: arrows move the brush on the canvas, space or Enter puts it down.

const BRUSHES = { boost: 1, suppress: -1, erase: 0 };
const LEAVE = 128, MOST = 127;

const look = { brush: "boost", size: 18, strength: 100, x: 0.5, y: 0.5 }; // size: percent of the face, a diameter
let cells, before, from, canvas, ring, undo;

watch("value", () => {
  load();
  if (props.value) document.dispatchEvent(new CustomEvent("unit", { detail: props.value.unit }));
});
document.addEventListener("look", turn);
load();
turn();

/** Another unit was chosen above: its map. */
function turn() {
  if (element.isConnected && props.value && globalThis.look && globalThis.look.unit !== props.value.unit) trigger("select");
}

function load() {
  element.replaceChildren();
  if (!props.value) return;
  const sent = atob(props.value.mask);
  cells = Uint8Array.from(sent, (letter) => letter.charCodeAt(0));
  before = [];
  canvas = Object.assign(document.createElement("canvas"), { width: props.value.side, height: props.value.side, tabIndex: 0 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `The map of ${props.value.unit} over the face, to paint on. Arrows move the brush, space paints.`);
  ring = Object.assign(document.createElement("span"), { className: "brush" });
  const stage = Object.assign(document.createElement("div"), { className: "stage" });
  stage.append(Object.assign(new Image(), { src: props.value.face, alt: "", draggable: false }), canvas, ring);
  element.append(tools(), stage);
  listen();
  draw();
  moveRing();
}

function tools() {
  const row = Object.assign(document.createElement("div"), { className: "tools" });
  const brushes = document.createElement("fieldset");
  brushes.append(Object.assign(document.createElement("legend"), { textContent: "Brush" }));
  for (const name of Object.keys(BRUSHES)) {
    const label = document.createElement("label");
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "brush", value: name, checked: name === look.brush });
    radio.onchange = () => (look.brush = name);
    const text = Object.assign(document.createElement("span"), { textContent: name });
    if (props.value.colors[name]) text.style.setProperty("--brush", props.value.colors[name]);
    label.append(radio, text);
    brushes.append(label);
  }
  undo = button("Undo", () => before.length && put(before.pop()));
  const clear = button("Clear", () => {
    before.push(cells.slice());
    put(new Uint8Array(cells.length).fill(LEAVE));
  });
  row.append(brushes, range("Size", "size", 4, 60), range("Strength", "strength", 5, 100), undo, clear);
  return row;
}

function button(text, act) {
  return Object.assign(document.createElement("button"), { type: "button", textContent: text, onclick: act });
}

function range(caption, key, min, max) {
  const label = Object.assign(document.createElement("label"), { textContent: caption });
  const input = Object.assign(document.createElement("input"), { type: "range", name: key, min, max, value: look[key] });
  input.oninput = () => {
    look[key] = Number(input.value);
    moveRing();
  };
  label.append(input);
  return label;
}

function listen() {
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    before.push(cells.slice());
    stroke((from = placeIn(event)));
  };
  canvas.onpointermove = (event) => {
    [look.x, look.y] = placeIn(event);
    moveRing();
    if (from) stroke(placeIn(event));
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    if (from) send();
    from = null;
  };
  canvas.onkeydown = (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) {
      look.x = Math.min(1, Math.max(0, look.x + way[0] * look.size / 300));
      look.y = Math.min(1, Math.max(0, look.y + way[1] * look.size / 300));
      moveRing();
    } else if (event.key === " " || event.key === "Enter") {
      before.push(cells.slice());
      stroke((from = [look.x, look.y]));
      from = null;
      send();
    } else return;
    event.preventDefault();
  };
}

function placeIn(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

/** The brush from where it was to here: every cell whose middle it passes over. */
function stroke(to) {
  const { side } = props.value, radius = (look.size / 200) * side;
  const level = LEAVE + Math.round((MOST * BRUSHES[look.brush] * look.strength) / 100);
  const [x0, y0, x1, y1] = [...from, ...to].map((share) => share * side - 0.5);
  const length = (x1 - x0) ** 2 + (y1 - y0) ** 2;
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const along = length && Math.min(1, Math.max(0, ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length));
      if (Math.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)) <= radius) cells[y * side + x] = level;
    }
  }
  from = to;
  draw();
}

function draw() {
  const pen = canvas.getContext("2d"), image = pen.createImageData(props.value.side, props.value.side);
  const [boost, suppress] = [props.value.colors.boost, props.value.colors.suppress].map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  cells.forEach((level, i) => image.data.set([...(level > LEAVE ? boost : suppress), (200 * Math.abs(level - LEAVE)) / MOST], 4 * i));
  pen.putImageData(image, 0, 0);
  undo.disabled = !before.length;
}

function moveRing() {
  Object.assign(ring.style, { width: `${look.size}%`, left: `${100 * look.x}%`, top: `${100 * look.y}%` });
}

function put(mask) {
  cells = mask;
  draw();
  send();
}

function send() {
  props.value = { ...props.value, mask: btoa(String.fromCharCode(...cells)) };
  trigger("input");
}
