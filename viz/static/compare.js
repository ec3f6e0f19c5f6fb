// One face as several models show it: a slider between any two of them, scores, and columns with their maps.
//
//   props.value {token, columns, waiting, pair, units, chosen, of, highest, tables, protocol, notes} or
//     {token, error} or null (viz/tabs/compare.py) -> trigger("submit"), when in sight and not of the page's face
//
// Gradio runs this after maps.js, with `element`, `props`, `watch` and `trigger`. What is chosen here asks no server.

const look = { pair: null, units: null, cut: 50, stretched: false };
let inSight = false;

new IntersectionObserver((entries) => {
  inSight = entries.at(-1).isIntersecting;
  if (inSight) ask();
}).observe(element);
watch("value", load);
load();

function ask() {
  if (props.value?.token !== pageToken()) trigger("submit");
}

function pageToken() {
  return document.querySelector("#token :is(input, textarea)").value;
}

function load() {
  const value = props.value;
  if (value?.token !== pageToken()) {
    element.innerHTML = `<p class="compare-wait" role="status">Preparing…</p>`;
    if (inSight) ask();
  } else if (value.error) {
    element.innerHTML = `<div class="notice" role="alert"></div>`;
    element.firstChild.textContent = value.error;
  } else {
    draw(value);
  }
}

function draw(value) {
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const shown = value.columns.filter((column) => column.picture);
  const names = shown.map((column) => column.name);
  const kept = look.pair?.every((name) => names.includes(name));
  const [left, right] = kept ? look.pair : value.pair;
  const pair = [names.includes(left) ? left : names[0], names.includes(right) ? right : names.at(-1)];
  const units = value.chosen.map((unit, i) => (value.units.includes(look.units?.[i]) ? look.units[i] : unit));
  const sides = pair.map((name) => shown.find((column) => column.name === name));
  const notes = make("ul", { className: "compare-notes" }, ...value.notes.map((note) => make("li", {}, note)));
  element.replaceChildren(make("div", { className: "comparison" },
    make("div", { className: "duel" }, slider(sides), scores(value)),
    make("div", { className: "table" }, columnRow(value, pair, units), notes)));
  if (focused) element.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function slider(sides) {
  const cut = () => {
    look.cut = Number(range.value);
    place.style.setProperty("--cut", `${look.cut}%`);
  };
  const label = `${sides[0].name} to the left, ${sides[1].name} to the right`;
  const range = make("input", { type: "range", min: 0, max: 100, step: 1, value: look.cut, ariaLabel: label, "data-key": "slider", oninput: cut });
  const parts = ["left", "right"].flatMap((side, i) => [
    make("div", { className: `side ${side}`, style: `--color: ${color(sides[i])}` }, picture(sides[i])),
    make("b", { className: side }, chip(sides[i]), sides[i].name),
  ]);
  const place = make("div", { className: "compare" }, ...parts, make("span", { className: "bar" }), range);
  cut();
  return make("figure", { className: "stage" }, place, make("figcaption", {}, "Click two columns to see them here. On the keyboard: L and R."));
}

function scores(value) {
  const section = make("section", { className: "scores" });
  const scored = value.columns.filter((column) => column.ssim !== null);
  for (const [key, label, digits] of [["psnr", "PSNR, dB", 2], ["ssim", "SSIM", 3]]) {
    if (!scored.length) break;
    const most = Math.max(...scored.map((column) => column[key] ?? 0));
    const rows = scored.flatMap((column) => {
      const text = column[key] === null ? "identical" : column[key].toFixed(digits);
      const bar = make("i", { style: `width: ${(100 * (column[key] ?? most)) / (most || 1)}%; background: ${color(column)}` });
      return [make("dt", {}, column.name), make("dd", {}, make("span", {}, bar), text)];
    });
    section.append(make("h2", {}, label), make("dl", {}, ...rows));
  }
  section.append(make("p", {}, value.protocol));
  return section;
}

/** Which unit of the reference a row of maps is of; in the first row also their scale. */
function unitChoice(value, units, i) {
  const unit = choice(`${value.of}'s unit`, "unit", value.units.map((name) => [name, name]), units[i], (name) => {
    look.units = units.with(i, name);
    draw(value);
  });
  unit.lastChild.dataset.key = `unit ${i}`;
  return make("div", { className: "map unit-choice" }, unit, ...(i === 0 ? [scaleChoice(value)] : []));
}

function scaleChoice(value) {
  const options = [["", `0 to ${short(value.highest)} for all`], ["own", "each its own range"]];
  const scale = choice("Scale of the maps", "scale", options, look.stretched ? "own" : "", (stretched) => {
    look.stretched = Boolean(stretched);
    draw(value);
  });
  scale.lastChild.dataset.key = "scale";
  const bar = colorBar(colorTables(value.tables).viridis, ...(look.stretched ? ["its lowest", "highest"] : ["0", short(value.highest)]));
  const told = look.stretched
    ? "Do not compare colours of two maps."
    : "Dark: features are held back. Bright: let through. Other models: the unit at the same relative depth.";
  return make("div", {}, scale, bar, make("small", {}, told));
}

function columnRow(value, pair, units) {
  const row = make("div", { className: "columns", tabIndex: 0, role: "group", ariaLabel: "The face by every method" });
  const tables = colorTables(value.tables);
  const choose = (name, side) => {
    const other = pair[1 - side];
    const next = name === other ? [pair[1], pair[0]] : pair.with(side, name);
    look.pair = next;
    draw(value);
  };
  for (const column of value.columns) {
    const figure = make("figure", { style: `--color: ${color(column)}` }, make("h2", {}, chip(column), column.name));
    if (column.picture) {
      const side = ["left", "right"][pair.indexOf(column.name)];
      const button = make("button", {
        type: "button", className: "pick", "data-key": `column ${column.name}`, ariaPressed: String(Boolean(side)), ariaKeyShortcuts: "L R",
      }, picture(column), ...(side ? [make("b", { className: side }, side)] : []));
      button.onclick = () => {
        if (pair.includes(column.name)) return choose(column.name, 1 - pair.indexOf(column.name));
        look.pair = [pair[1], column.name];
        draw(value);
      };
      button.onkeydown = (event) => {
        const side = { l: 0, r: 1 }[event.key.toLowerCase()];
        if (side !== undefined && !event.ctrlKey && !event.metaKey && !event.altKey) choose(column.name, side);
      };
      figure.append(button);
    } else {
      figure.append(make("div", { className: "failed" }, column.error));
    }
    figure.append(make("figcaption", {}, ...column.lines.map((line) => make("small", {}, line))));
    units.forEach((unit, i) => {
      if (column === value.columns[0]) figure.append(unitChoice(value, units, i));
      else figure.append(column.units[unit] ? map(column, column.maps[column.units[unit]], tables) : make("div", { className: "map" }));
    });
    row.append(figure);
  }
  for (const name of value.waiting) {
    row.append(make("figure", {}, make("h2", {}, name), make("div", { className: "pending" }, "Preparing…")));
  }
  return row;
}

/** The map over its column's face in grey. */
function map(column, panel, tables) {
  const canvas = mapCanvas(panel.side, `Attention of ${column.name}'s ${panel.name}, from ${panel.range.map(short).join(" to ")}`);
  paint(canvas, decoded(panel), tables.viridis, look.stretched ? panel.range : panel.scale, { blend: "glow" });
  const over = make("div", { className: "over-face" }, make("img", { src: column.picture, alt: "" }), canvas);
  return make("div", { className: "map" }, over, make("small", {}, `${panel.name}, up to ${short(panel.range[1])}`));
}

function picture(column) {
  const by = { Original: "The face as the photo has it", Bicubic: "The face enlarged by bicubic interpolation" };
  return make("img", { src: column.picture, alt: by[column.name] ?? `The face by ${column.name}`, draggable: false });
}

function chip(column) {
  return make("i", { className: "chip", style: `background: ${color(column)}` });
}

function color(column) {
  return column.name === "Original" ? "var(--body-text-color)" : column.color;
}
