// A finding in the app: its maps and pictures as maps.js draws them.
//
//   props.value {view (viz/views.py), tables} or null -> drawView; a part marked on the picture `pick`
//     -> trigger("select", {patch: [left, top, right, bottom]}), in shares of the picture
//
// Gradio runs this, after maps.js, with `element`, `props`, `watch` and `trigger`.

watch("value", load);
load();

function load() {
  const value = props.value;
  element.replaceChildren();
  if (!value) return;
  const place = document.createElement("div");
  element.append(place);
  drawView(place, value.view, colorTables(value.tables), (patch) => trigger("select", { patch }));
}
