// Before and after on one spot: two pictures of the chosen face, or of the whole photo, and a bar between them.
//
//   props.value {key, of, face: {Original, Input, Bicubic, Restored}, photo: {Original, Restored}, names, before, index,
//     faces: [{i, on}] that were restored, alone, note} -> trigger("select", {index}) for another face, trigger("release", {strength})
//
// The bar is a range input over all of the pictures, so that mouse, finger and arrow keys move it. A Restored picture
// is laid over the Original with `strength` as its opacity: no network is asked.

const SIDES = ["left", "right"];
const look = { whole: false, left: null, right: "Restored", strength: 1, cut: 50, before: null };

watch("value", load);
load();

function load() {
  const value = props.value;
  if (look.before !== value.before) look.left = look.before = value.before;
  if (look.of !== value.of && look.strength !== 1) {
    look.strength = 1;
    trigger("release", { strength: 1 });
  }
  if (look.of !== value.of || look.index !== value.index) Object.assign(look, { of: value.of, index: value.index, whole: false });
  if (look.key && look.key !== value.key && innerWidth < 760) element.scrollIntoView({ behavior: "smooth" });
  look.key = value.key;
  if (element.contains(document.activeElement) && document.activeElement.name === "chip") refresh("[name=chip]:checked");
  else build();
}

function build() {
  const { face, faces, index, names } = props.value;
  const whole = look.whole || !face;
  const pictures = whole ? props.value.photo : face;
  const sides = Object.keys(pictures);
  const on = Object.fromEntries(SIDES.map((side) => [side, sides.includes(look[side]) ? look[side] : sides.at(side === "left" ? 0 : -1)]));
  const several = faces.length > 1;
  const left = !whole && !faces.find(({ i }) => i === index).on; // as it was
  const label = (name) => (left && name === "Restored" ? "Left as it was" : names[name] ?? name);
  const note = left ? "This face is left as it was. Click its frame again to restore it." : props.value.note;
  element.innerHTML = `
    <figure class="stage">
      <div class="compare" style="--cut:${look.cut}%">
        ${SIDES.map((side) => `<div class="side ${side}"><img class="base" alt="" draggable="false">
          <img class="over" alt="" draggable="false"></div>`).join("")}
        ${SIDES.map((side) => `<b class="${side}">${label(on[side])}</b>`).join("")}
        <b class="note" role="status" ${note ? "" : "hidden"}>${note}</b>
        <span class="bar" aria-hidden="true"></span>
        <input type="range" min="0" max="100" step="1" value="${look.cut}" aria-label="${on.left} to the left, ${on.right} to the right">
      </div>
      <figcaption>
        ${SIDES.map((side) => `<fieldset data-side="${side}"><legend>On the ${side}</legend>
          ${sides.map((name) => `<label><input type="radio" name="${side}" value="${name}" ${name === on[side] ? "checked" : ""}>
            <span>${name}</span></label>`).join("")}</fieldset>`).join("")}
        <fieldset data-chips ${faces.length ? "" : "hidden"}><legend>Show</legend>
          ${faces.map(({ i, on }) => `<label><input type="radio" name="chip" value="${i}" aria-label="face${several ? ` ${i + 1}` : ""}" ${!whole && i === index ? "checked" : ""}>
            <span${on ? "" : " class=\"off\""}>${several ? i + 1 : "face"}</span></label>`).join("")}
          ${props.value.alone ? "" : `<label><input type="radio" name="chip" value="photo" ${whole ? "checked" : ""}>
            <span>photo</span></label>`}</fieldset>
        <label class="strength">Strength <input type="range" name="strength" min="0" max="100" value="${100 * look.strength}">
          <output></output></label>
      </figcaption>
    </figure>`;
  const place = element.querySelector(".compare");
  const range = place.querySelector("input");
  range.oninput = () => {
    look.cut = Number(range.value);
    place.style.setProperty("--cut", `${look.cut}%`);
  };
  for (const side of SIDES) {
    for (const radio of element.querySelectorAll(`[name=${side}]`)) {
      radio.onchange = () => {
        look[side] = radio.value;
        refresh(`[name=${side}][value="${radio.value}"]`);
      };
    }
  }
  for (const radio of element.querySelectorAll("[name=chip]")) {
    radio.onchange = () => {
      look.whole = radio.value === "photo";
      if (!look.whole && Number(radio.value) !== index) trigger("select", { index: Number(radio.value) });
      else refresh(`[name=chip][value="${radio.value}"]`);
    };
  }
  const strength = element.querySelector("[name=strength]");
  strength.oninput = () => {
    look.strength = strength.value / 100;
    fade();
  };
  strength.onchange = () => trigger("release", { strength: look.strength });
  show(pictures, on, whole ? "The photo" : "The face", left ? "left as it was" : "restored");
  fade();
}

function refresh(focused) {
  build();
  element.querySelector(focused).focus();
}

function show(pictures, on, subject, done) {
  for (const side of SIDES) {
    const name = on[side];
    const restored = name === "Restored";
    const place = element.querySelector(`.side.${side}`);
    place.classList.toggle("blocks", name === "Input");
    const base = place.querySelector(".base");
    const over = place.querySelector(".over");
    base.src = pictures[restored ? "Original" : name];
    base.alt = restored ? "" : `${subject}, ${name.toLowerCase()}`;
    over.hidden = !restored;
    if (restored) Object.assign(over, { src: pictures.Restored, alt: `${subject}, ${done}` });
  }
}

function fade() {
  for (const over of element.querySelectorAll(".over")) over.style.opacity = look.strength;
  element.querySelector(".strength output").textContent = look.strength.toFixed(2);
}
