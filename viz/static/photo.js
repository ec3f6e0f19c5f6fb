// The whole photo with the faces that were found: each box is a button that chooses the face.
//
//   props.value {original, restored or null, faces: [{box: [x0, y0, x1, y1] in shares of the photo}]}
//     -> trigger("select", {index})

let side = "restored";

watch("value", load);
load();

function load() {
  const value = props.value;
  if (!value) {
    element.replaceChildren();
    return;
  }
  const sides = ["original", "restored"].filter((name) => value[name]);
  if (!sides.includes(side)) side = sides[0];
  element.innerHTML = `
    <figure class="photo">
      <div><img alt="">${value.faces.map(box).join("")}</div>
      <figcaption><span>${caption(value.faces.length)}</span>
        ${value.restored ? `<fieldset><legend>Photo</legend>${sides.map(switchTo).join("")}</fieldset>` : ""}</figcaption>
    </figure>`;
  for (const radio of element.querySelectorAll("[name=side]")) {
    radio.onchange = () => show(radio.value);
  }
  for (const button of element.querySelectorAll("[data-face]")) {
    button.onclick = () => {
      press(Number(button.dataset.face));
      trigger("select", { index: Number(button.dataset.face) });
    };
  }
  press(0);
  show(side);
}

function caption(count) {
  if (count > 1) return `${count} faces. Choose one to look at it.`;
  return props.value.restored ? "One face, restored in its place." : "One face.";
}

function box(face, i) {
  const [x0, y0, x1, y1] = face.box.map((share) => 100 * share);
  return `<button type="button" data-face="${i}" aria-label="Face ${i + 1}" style="left:${x0}%; top:${y0}%;
    width:${x1 - x0}%; height:${y1 - y0}%"><b>${i + 1}</b></button>`;
}

function switchTo(name) {
  return `<label><input type="radio" name="side" value="${name}" ${name === side ? "checked" : ""}>
    <span>${name}</span></label>`;
}

function press(chosen) {
  for (const button of element.querySelectorAll("[data-face]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.face) === chosen));
  }
}

function show(name) {
  side = name;
  const picture = element.querySelector("img");
  picture.src = props.value[name];
  picture.alt = `The photo, ${name}`;
}
