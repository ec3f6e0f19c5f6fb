// The instruments under their four questions; choosing one opens it.
//
//   props.value {groups [{question, instruments: [{name, label, title, why}]}], open: the name of one, token: the face's}
//     why: it has nothing to say of this face, or null -> the visitor's choice is open -> trigger("select")
//     another face has come, and is on the screen; what is open stays open -> trigger("submit")
//
// A list of buttons beside the answer, a <select> above it where the page is narrow; app.css shows one of them.

let token, opened;

watch("value", draw);
draw();

function draw() {
  if (!props.value) return;
  const another = props.value.token !== token;
  if (another && opened) props.value = { ...props.value, open: opened };
  ({ token, open: opened } = props.value);
  const nav = Object.assign(document.createElement("nav"), { ariaLabel: "Instruments" });
  const select = Object.assign(document.createElement("select"), { ariaLabel: "Instrument" });
  for (const { question, instruments } of props.value.groups) {
    const list = document.createElement("ul");
    const group = Object.assign(document.createElement("optgroup"), { label: question });
    for (const { name, label, title, why } of instruments) {
      const button = Object.assign(document.createElement("button"), { type: "button", title, value: name, disabled: Boolean(why) });
      button.append(label, ...(why ? [Object.assign(document.createElement("small"), { textContent: why })] : []));
      button.onclick = () => open(name);
      const item = document.createElement("li");
      item.append(button);
      list.append(item);
      const option = new Option(why ? `${label} (${why})` : label, name);
      option.disabled = Boolean(why);
      group.append(option);
    }
    nav.append(Object.assign(document.createElement("h2"), { textContent: question }), list);
    select.append(group);
  }
  select.onchange = () => open(select.value);
  element.replaceChildren(nav, select);
  mark();
  if (another && element.offsetParent) trigger("submit");
}

function open(name) {
  opened = name;
  props.value = { ...props.value, open: name };
  mark();
  trigger("select");
}

function mark() {
  for (const button of element.querySelectorAll("button")) button.ariaCurrent = button.value === props.value.open ? "true" : null;
  element.querySelector("select").value = props.value.open;
}
