// The unit and the scale of colours, chosen once for all instruments.
//
//   props.value {units, unit, scale} -> two <select> -> props.value, trigger("input"); every view of the page follows
//   a view in which a unit is chosen says so by the event "unit" -> the same; "scale" <-> what is chosen in the first tab
//
// globalThis.look {unit, scale} is what views read; what was chosen, here or in the first tab, is remembered (kept.js).

const SCALES = { most: "0 to the largest", one: "0 to 1", own: "each its own range" };

watch("value", () => take({}));
document.addEventListener("unit", ({ detail }) => choose({ unit: detail }));
document.addEventListener("scale", ({ detail }) => choose({ scale: detail }));
take(recalled());

/** What the server says, with what the visitor chose before where this network has it. */
function take({ unit, scale }) {
  if (!props.value) return;
  const known = props.value.units.includes(unit);
  props.value = {
    ...props.value,
    unit: known ? unit : props.value.unit,
    scale: Object.hasOwn(SCALES, scale) ? scale : props.value.scale,
  };
  draw();
  publish();
}

function draw() {
  const { units, unit, scale } = props.value;
  element.replaceChildren(
    choice("Unit", "unit", Object.fromEntries(units.map((name) => [name, name])), unit),
    choice("Scale", "scale", SCALES, scale),
  );
}

function choice(caption, name, options, chosen) {
  const label = Object.assign(document.createElement("label"), { textContent: caption });
  const select = Object.assign(document.createElement("select"), { name });
  for (const [value, text] of Object.entries(options)) select.append(new Option(text, value, false, value === chosen));
  select.onchange = () => choose({ [name]: select.value });
  label.append(select);
  return label;
}

function choose(chosen) {
  const before = props.value;
  if (!before) return;
  if (chosen.unit && !before.units.includes(chosen.unit)) return;
  props.value = { ...before, ...chosen };
  if (JSON.stringify(props.value) === JSON.stringify(before)) return;
  draw();
  remember(chosen);
  publish();
  trigger("input");
  if (chosen.scale) document.dispatchEvent(new CustomEvent("scale", { detail: chosen.scale }));
}

function publish() {
  const { unit, scale } = props.value;
  globalThis.look = { unit, scale };
  document.dispatchEvent(new CustomEvent("look"));
}
