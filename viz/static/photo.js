// The photo with its faces: each frame is a button; a frame that was not found is drawn by hand.
//
//   props.value {photo, faces: [{box: [x0, y0, x1, y1] in shares of the photo, on, failed}], index, lies}
//     -> trigger("select", {index}), ({toggle: index}), ({box}) or ({turn: quarters})

watch("value", load);
load();

function load() {
  const value = props.value;
  const focused = element.contains(document.activeElement) && document.activeElement.dataset.face;
  element.innerHTML = `
    <figure class="photo">
      <div class="frames"><img src="${value.photo}" alt="Your photo${value.faces.length ? ", its faces framed" : ""}"
        draggable="false">${value.faces.map(frame).join("")}<span class="drawn" hidden></span></div>
      <figcaption>${caption(value)}</figcaption>
    </figure>`;
  for (const button of element.querySelectorAll("[data-face]")) {
    button.onclick = () => {
      const index = Number(button.dataset.face);
      trigger("select", index === value.index && value.faces.length > 1 ? { toggle: index } : { index });
    };
  }
  const turn = element.querySelector("[data-turn]");
  if (turn) turn.onclick = () => trigger("select", { turn: value.lies });
  draw(element.querySelector(".frames"));
  if (focused) element.querySelector(`[data-face="${focused}"]`)?.focus();
}

function caption({ faces, lies }) {
  if (lies) {
    return `<span>The photo ${lies === 2 ? "stands on its head" : "lies on its side"}.</span><button type="button" class="pill" data-turn>Turn it</button>`;
  }
  const marked = "drag over one to mark it";
  if (!faces.length) return `<span>No face was found: ${marked}.</span>`;
  if (faces.length === 1) return `<span>One face. Another was missed? ${marked[0].toUpperCase()}${marked.slice(1)}.</span>`;
  return `<span>${faces.length} faces. Click one to look at it, again to leave it as it was; missed one: ${marked}.</span>`;
}

function frame(face, i) {
  const [x0, y0, x1, y1] = face.box.map((share) => 100 * share);
  const chosen = i === props.value.index;
  const done = face.failed ? "not restored" : face.on ? "restored" : "left as it was";
  const state = `${done}${chosen ? ", shown" : ""}`;
  const small = x1 - x0 < 18 ? "small" : "";
  return `<button type="button" data-face="${i}" aria-label="Face ${i + 1}, ${state}" aria-pressed="${chosen}"
    class="${face.on ? "" : "off"} ${small}" style="left:${x0}%; top:${y0}%; width:${x1 - x0}%; height:${y1 - y0}%;
    --above:${y0 / (y1 - y0)}; --right:${(100 - x0) / (x1 - x0)}">
    <b>${i + 1}</b></button>`;
}

/** A frame drawn by hand, of at least a thirtieth of the photo's sides. */
function draw(place) {
  const drawn = place.querySelector(".drawn");
  let from = null;
  const at = (event) => {
    const box = place.getBoundingClientRect();
    const share = (position, length) => Math.min(1, Math.max(0, position / length));
    return [share(event.clientX - box.left, box.width), share(event.clientY - box.top, box.height)];
  };
  const rectangle = (event) => {
    const to = at(event);
    return [0, 1].map((i) => Math.min(from[i], to[i])).concat([0, 1].map((i) => Math.max(from[i], to[i])));
  };
  place.onpointerdown = (event) => {
    if (event.target.closest("button")) return;
    event.preventDefault();
    place.setPointerCapture(event.pointerId);
    from = at(event);
  };
  place.onpointermove = (event) => {
    if (!from) return;
    const [left, top, right, bottom] = rectangle(event).map((share) => 100 * share);
    drawn.hidden = false;
    Object.assign(drawn.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
  };
  place.onpointercancel = () => {
    from = null;
    drawn.hidden = true;
  };
  place.onpointerup = (event) => {
    if (!from) return;
    const box = rectangle(event);
    place.onpointercancel();
    if (box[2] - box[0] > 1 / 30 && box[3] - box[1] > 1 / 30) trigger("select", { box });
  };
}
