// The camera beside the restored face, with one unit's map over it.
//
//   camera -> square -> JPEG -> server.frame({visitor, image, mode, unit}) -> {face, restored, unit, side, map} -> drawn
//
// Two frames are under way at most, each the newest when it is taken, so the picture is never older than two answers.
// Colours and opacity change what is drawn, at once. Mirrored for the person before it; not in what is sent.
//
// Gradio runs this, after maps.js, with `element`, `props`, `trigger`, `server` and `upload`.

const SIDE = 320; // pixels of a frame
const UNDER_WAY = 2;
const REASONS = {
  NotFoundError: "No camera was found. Connect one and start again, or give a photo in the tab Restore.",
  NotAllowedError: "The browser was not allowed to use the camera. Allow it beside the page's address, then start again.",
  NotReadableError: "The camera is used by another program. Close that, then start again.",
  TypeError: "Browsers give the camera only to pages at https:// or on this machine. Give a photo in the tab Restore.",
};
const look = { mode: "simulate", unit: "", colors: "viridis", opacity: 80 };
const tables = colorTables(props.value.tables);
let running = null; // {stream, visitor, sent, shown, times, last}

const video = make("video", { autoplay: true, muted: true, playsInline: true });
const seen = mapCanvas(SIDE, "The camera's picture that was answered");
const frame = make("span", { className: "frame", hidden: true });
const place = stage();
const map = mapCanvas(1, "The unit's map over it");
const made = make("figcaption", {}, "Restored");
const speed = make("span", { className: "hint" });
const notice = make("p", { className: "notice", role: "alert", hidden: true });
const switched = make("button", { type: "button", className: "pill", onclick: () => (running ? stop() : start()) }, "Start the camera");
const moment = make("button", { type: "button", className: "pill", disabled: true, onclick: snapshot }, "Restore this moment as a photo");
const units = choice("Unit", "unit", [["", "of the highest contrast"]], "", (unit) => (look.unit = unit));
const redraw = (values) => {
  Object.assign(look, values);
  if (running?.last) draw(running.last);
};
element.replaceChildren(make("div", { className: "live maps" },
  make("div", { className: "views" },
    make("figure", {}, make("div", { className: "stage" }, video, seen, frame), make("figcaption", {}, "Camera")),
    make("figure", {}, place, made)),
  make("div", { className: "overlay" }, switched, moment, speed), notice,
  make("div", { className: "overlay" },
    choice("Faces", "mode", [["simulate", "rebuilt from 16x16"], ["as_is", "as they are"]], look.mode, (mode) => (look.mode = mode)),
    units,
    choice("Colours", "colors", SEQUENTIAL.map((name) => [name, name]), look.colors, (colors) => redraw({ colors })),
    opacityRange(look.opacity, (opacity) => redraw({ opacity })))));

async function start() {
  tell("");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 640, facingMode: "user" }, audio: false });
  } catch (error) {
    tell(REASONS[error.name] ?? `The camera cannot be used (${error.message}). Give a photo in the tab Restore.`);
    return;
  }
  running = { stream, visitor: crypto.randomUUID(), sent: 0, shown: 0, times: [], last: null };
  video.srcObject = stream;
  await video.play();
  switched.textContent = "Stop";
  moment.disabled = false;
  for (let i = 0; i < UNDER_WAY; i++) loop(running);
}

function stop(message = "") {
  for (const track of running.stream.getTracks()) track.stop();
  running = video.srcObject = null;
  switched.textContent = "Start the camera";
  moment.disabled = true;
  speed.textContent = "";
  tell(message);
}

async function loop(mine) {
  while (running === mine) {
    if (!element.offsetParent) return stop("The camera was switched off, as another tab was opened.");
    const picture = square(SIDE);
    const number = ++mine.sent;
    const taken = performance.now();
    const image = picture.toDataURL("image/jpeg", 0.85).split(",")[1];
    const answer = await server.frame({ visitor: mine.visitor, image, mode: look.mode, unit: look.unit })
      .catch(() => ({ error: "The server cannot be reached. Start again in a moment." }));
    if (running !== mine) return;
    if (answer.error) return stop(answer.error);
    if (number < mine.shown) continue; // a newer one was drawn already
    mine.shown = number;
    mine.last = { ...answer, picture };
    await draw(mine.last);
    const now = performance.now();
    mine.times = [...mine.times.filter((time) => now - time < 2000), now];
    const rate = (1000 * (mine.times.length - 1)) / Math.max(now - mine.times[0], 1);
    speed.textContent = `${rate.toFixed(1)} faces a second, ${Math.round(now - taken)} ms behind`;
  }
}

/** The middle of the camera's picture as others see it, `side` pixels a side. */
function square(side) {
  const canvas = mapCanvas(side);
  const { videoWidth: width, videoHeight: height } = video;
  const edge = Math.min(width, height);
  canvas.getContext("2d").drawImage(video, (width - edge) / 2, (height - edge) / 2, edge, edge, 0, 0, side, side);
  return canvas;
}

async function draw({ picture, face, model, ...answer }) {
  seen.getContext("2d").drawImage(picture, 0, 0);
  frame.hidden = !face;
  made.textContent = face ? `Restored by ${model}${answer.unit ? `, ${answer.unit} over it` : ""}` : "No face in sight";
  if (!face) return;
  const [left, top, right, bottom] = face.map((share) => `${100 * share}%`);
  Object.assign(frame.style, { left, top, width: `calc(${right} - ${left})`, height: `calc(${bottom} - ${top})` });
  const restored = make("img", { alt: "The restored face", src: answer.restored });
  await restored.decode();
  place.replaceChildren(restored, map);
  offer(answer.units);
  map.hidden = !answer.map;
  if (map.hidden) return;
  map.width = map.height = answer.side;
  paint(map, bytes(answer.map), tables[look.colors], [0, Math.max(...bytes(answer.map))], { opacity: look.opacity, blend: "glow" });
}

function offer(names) {
  const select = units.lastChild;
  if ([...select.options].slice(1).map(({ value }) => value).join() === names.join()) return;
  if (!names.includes(look.unit)) look.unit = "";
  select.replaceChildren(select.options[0], ...names.map((name) => new Option(name, name, false, name === look.unit)));
}

async function snapshot() {
  const picture = await new Promise((done) => square(640).toBlob(done, "image/jpeg", 0.95));
  const { path } = await upload(new File([picture], "camera.jpg", { type: "image/jpeg" }));
  if (running) stop();
  trigger("select", { path });
}

function tell(message) {
  Object.assign(notice, { textContent: message, hidden: !message });
}
