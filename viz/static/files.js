// The files of an answer, made when they are asked for.
//
//   props.value {name: the instrument's, kinds {kind: label}} -> trigger("download", {kind})
//     -> the same with {kind, url} or {kind, error}: the browser saves it, or says why not

const buttons = {};
const message = Object.assign(document.createElement("p"), { className: "hint", role: "status" });
watch("value", arrive);
arrive();

function arrive() {
  if (!props.value) return;
  const { kind, url, error } = props.value;
  if (!element.childElementCount) draw();
  for (const other of Object.keys(buttons)) if (!kind || other === kind) wait(other, false);
  if (url) Object.assign(document.createElement("a"), { href: url, download: "" }).click();
  message.textContent = error ?? "";
}

function draw() {
  for (const kind of Object.keys(props.value.kinds)) {
    buttons[kind] = Object.assign(document.createElement("button"), { type: "button", id: `${kind}-${props.value.name}` });
    buttons[kind].onclick = () => {
      wait(kind, true);
      trigger("download", { kind });
    };
  }
  element.replaceChildren("To keep:", ...Object.values(buttons), message);
}

function wait(kind, waiting) {
  Object.assign(buttons[kind], { disabled: waiting, textContent: waiting ? "Preparing..." : props.value.kinds[kind] });
  message.textContent = "";
}
