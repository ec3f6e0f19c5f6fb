// One face as several models show it: a slider between any two of them, scores, and columns with their maps.
//
//   props.value {token, title, columns, waiting, pair, units, chosen, of, highest, tables, protocol, notes} or
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
  const root = node("div", "comparison");
  const duel = node("div", "duel");
  duel.append(slider(pair.map((name) => shown.find((column) => column.name === name))), scores(value));
  const table = node("div", "table");
  table.append(columnRow(value, pair, units), notesOf(value));
  root.append(duel, table);
  element.replaceChildren(root);
  if (focused) element.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function slider(sides) {
  const figure = node("figure", "stage");
  const place = node("div", "compare");
  const [left, right] = sides;
  place.style.setProperty("--cut", `${look.cut}%`);
  ["left", "right"].forEach((side, i) => {
    const part = node("div", `side ${side}`);
    const label = node("b", side, sides[i].name);
    label.prepend(chip(sides[i]));
    part.append(picture(sides[i]));
    part.style.setProperty("--color", color(sides[i]));
    place.append(part, label);
  });
  const range = Object.assign(node("input"), { type: "range", min: 0, max: 100, step: 1, value: look.cut });
  range.setAttribute("aria-label", `${left.name} to the left, ${right.name} to the right`);
  range.dataset.key = "slider";
  range.oninput = () => {
    look.cut = Number(range.value);
    place.style.setProperty("--cut", `${look.cut}%`);
  };
  place.append(node("span", "bar"), range);
  const hint = node("figcaption", "", "Click two columns to see them here. On the keyboard: L and R.");
  figure.append(place, hint);
  return figure;
}

function scores(value) {
  const section = node("section", "scores");
  const scored = value.columns.filter((column) => column.ssim !== null);
  for (const [key, label, digits] of [["psnr", "PSNR, dB", 2], ["ssim", "SSIM", 3]]) {
    if (!scored.length) break;
    const most = Math.max(...scored.map((column) => column[key] ?? 0));
    const list = node("dl");
    for (const column of scored) {
      const text = column[key] === null ? "identical" : column[key].toFixed(digits);
      const bar = node("i");
      bar.style.cssText = `width: ${(100 * (column[key] ?? most)) / (most || 1)}%; background: ${color(column)}`;
      const cell = node("dd");
      const track = node("span");
      track.append(bar);
      cell.append(track, text);
      list.append(node("dt", "", column.name), cell);
    }
    section.append(node("h2", "", label), list);
  }
  section.append(node("p", "", value.protocol));
  return section;
}

/** Which unit of the reference a row of maps is of; in the first row also their scale. */
function unitChoice(value, units, i) {
  const place = node("div", "map unit-choice");
  const label = node("label", "", `${value.of}'s unit`);
  const select = node("select");
  select.dataset.key = `unit ${i}`;
  for (const name of value.units) select.append(new Option(name, name, false, name === units[i]));
  select.onchange = () => {
    look.units = units.with(i, select.value);
    draw(value);
  };
  label.append(select);
  place.append(label);
  if (i === 0) place.append(scaleChoice(value));
  return place;
}

function scaleChoice(value) {
  const label = node("label", "", "Scale of the maps");
  const select = node("select");
  select.dataset.key = "scale";
  select.append(new Option(`0 to ${short(value.highest)} for all`, "", false, !look.stretched));
  select.append(new Option("each its own range", "own", false, look.stretched));
  select.onchange = () => {
    look.stretched = Boolean(select.value);
    draw(value);
  };
  label.append(select);
  const scale = colorBar(colorTables(value.tables).viridis, ...(look.stretched ? ["its lowest", "highest"] : ["0", short(value.highest)]));
  const told = look.stretched
    ? "Do not compare colours of two maps."
    : "Dark: features are held back. Bright: let through. Other models: the unit at the same relative depth.";
  const choice = node("div");
  choice.append(label, scale, node("small", "", told));
  return choice;
}

function columnRow(value, pair, units) {
  const row = node("div", "columns");
  row.tabIndex = 0;
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", "The face by every method");
  const tables = colorTables(value.tables);
  const choose = (name, side) => {
    const other = pair[1 - side];
    const next = name === other ? [pair[1], pair[0]] : pair.with(side, name);
    look.pair = next;
    draw(value);
  };
  for (const column of value.columns) {
    const figure = node("figure");
    figure.style.setProperty("--color", color(column));
    const title = node("h2", "", column.name);
    title.prepend(chip(column));
    figure.append(title);
    if (column.picture) {
      const button = Object.assign(node("button", "pick"), { type: "button" });
      const side = ["left", "right"][pair.indexOf(column.name)];
      button.dataset.key = `column ${column.name}`;
      button.setAttribute("aria-pressed", String(Boolean(side)));
      button.setAttribute("aria-keyshortcuts", "L R");
      button.append(picture(column));
      if (side) button.append(node("b", side, side));
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
      figure.append(node("div", "failed", column.error));
    }
    const caption = node("figcaption");
    caption.append(...column.lines.map((line) => node("small", "", line)));
    figure.append(caption);
    units.forEach((unit, i) => {
      if (column === value.columns[0]) figure.append(unitChoice(value, units, i));
      else figure.append(column.units[unit] ? map(column, column.maps[column.units[unit]], tables) : node("div", "map"));
    });
    row.append(figure);
  }
  for (const name of value.waiting) {
    const figure = node("figure");
    figure.append(node("h2", "", name), node("div", "pending", "Preparing…"));
    row.append(figure);
  }
  return row;
}

/** The map over its column's face in grey. */
function map(column, panel, tables) {
  const place = node("div", "map");
  const over = node("div", "over-face");
  const canvas = mapCanvas(panel.side, `Attention of ${column.name}'s ${panel.name}, from ${panel.range.map(short).join(" to ")}`);
  paint(canvas, decoded(panel), tables.viridis, look.stretched ? panel.range : panel.scale, { blend: "glow" });
  over.append(Object.assign(node("img"), { src: column.picture, alt: "" }), canvas);
  place.append(over, node("small", "", `${panel.name}, up to ${short(panel.range[1])}`));
  return place;
}

function notesOf(value) {
  const list = node("ul", "compare-notes");
  list.append(...value.notes.map((note) => node("li", "", note)));
  return list;
}

function picture(column) {
  const by = { Original: "The face as the photo has it", Bicubic: "The face enlarged by bicubic interpolation" };
  return Object.assign(node("img"), { src: column.picture, alt: by[column.name] ?? `The face by ${column.name}`, draggable: false });
}

function chip(column) {
  const mark = node("i", "chip");
  mark.style.background = color(column);
  return mark;
}

function color(column) {
  return column.name === "Original" ? "var(--body-text-color)" : column.color;
}

function node(kind, className = "", text = "") {
  return Object.assign(document.createElement(kind), { className, textContent: text });
}
