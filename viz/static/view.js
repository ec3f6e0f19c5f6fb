// A finding in the app: its maps and pictures as maps.js draws them, by the unit and the scale that look.js holds.
//
//   props.value {view (viz/views.py), tables} or null -> drawView; a part marked on the picture `pick`
//     -> trigger("select", {patch: [left, top, right, bottom]}), in shares of the picture
//
// Gradio runs this, after maps.js, with `element`, `props`, `watch` and `trigger`.

let scale;

watch("value", load);
document.addEventListener("look", follow);
load();

function load() {
  const value = props.value;
  element.replaceChildren();
  if (!value) return;
  scale = globalThis.look?.scale;
  const place = document.createElement("div");
  element.append(place);
  const view = { ...value.view, groups: rescaled(value.view.groups) };
  if (globalThis.look?.unit in view.groups) view.shown = globalThis.look.unit;
  drawView(place, view, colorTables(value.tables), (patch) => trigger("select", { patch }));
  place.addEventListener("click", ({ target }) => {
    if (target.closest(".choice")) document.dispatchEvent(new CustomEvent("unit", { detail: target.textContent }));
  });
}

function follow() {
  if (!element.isConnected || !props.value) return;
  if (globalThis.look.scale !== scale) return load();
  const group = [...element.querySelectorAll(".choice button")].find((button) => button.textContent === globalThis.look.unit);
  if (group && group.ariaPressed !== "true") group.click();
}

/** Maps of alpha in the colours of the scale that was chosen; other measures keep theirs. */
function rescaled(groups) {
  const alphas = Object.values(groups).flat().filter(isAlpha);
  const most = Math.max(...alphas.map((panel) => panel.range[1]));
  const ends = { most: () => [0, most], own: (panel) => panel.range }[scale];
  if (!ends) return groups;
  const again = (panel) => (isAlpha(panel) ? { ...panel, scale: ends(panel) } : panel);
  return Object.fromEntries(Object.entries(groups).map(([name, panels]) => [name, panels.map(again)]));
}

function isAlpha(panel) {
  return panel.values && panel.colors === "viridis" && panel.scale[0] === 0 && panel.scale[1] === 1;
}
