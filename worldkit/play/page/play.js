"use strict";
// One page, no library. Frames come as bytes (a header in JSON, then pictures); commands go as JSON.

const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token") || "";
const HINTS = { sample: "Drawn from what the model thinks likely.", mean: "The middle of what it thinks likely.",
  inferred: "Read off what really happened, as long as that is known." };
let socket = null, state = {}, head = null, shown = [], overlay = "none", picked = null, drag = null, serial = 0, held = new Set();

// -- the line to the game; whoever was cut off comes back to the game as it was

function connect() {
  socket = new WebSocket(`ws://${location.host}/socket?token=${encodeURIComponent(token)}`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { $("link").textContent = "connected"; $("link").classList.add("on"); };
  socket.onclose = () => {
    $("link").textContent = "waiting for worldkit play"; $("link").classList.remove("on");
    setTimeout(connect, 1000);
  };
  socket.onmessage = (event) => {
    if (typeof event.data !== "string") { frame(event.data); say({ got: 1 }); return; }
    const message = JSON.parse(event.data);
    if (message.error) toast(message.error);
    if (message.state) { state = message.state; controls(); }
    if ("outline" in message) outlined(message);
  };
}

const say = (message) => { if (socket && socket.readyState === 1) socket.send(JSON.stringify(message)); };
const act = (name, more = {}) => say({ do: name, ...more });

let toasting = 0;
function toast(text) {
  $("toast").textContent = text; $("toast").classList.add("on");
  clearTimeout(toasting); toasting = setTimeout(() => $("toast").classList.remove("on"), 3500);
}

// -- pictures

function frame(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const size = head.height * head.width;
  let at = 4 + length;
  const take = (n) => { at += n; return new Uint8Array(buffer, at - n, n); };
  figures(head.futures.length);
  head.futures.forEach((future, i) => {
    future.rgb = take(3 * size);
    future.mask = future.owners ? take(size) : null;
    paint(shown[i].picture, future.rgb);
  });
  $("truthtext").textContent = head.truth ? "" : "The data end here: from now on only the dream knows.";
  $("truth").hidden = !head.truth;
  if (head.truth) paint($("truth"), take(3 * size));
  const [first, last] = head.futures[0].span;
  Object.assign($("time"), { min: first, max: Math.max(last, first), value: head.futures[0].t });
  $("step").textContent = `step ${head.futures[0].t}`;
  shown.forEach((view, i) => view.note.textContent = words(head.futures[i], i));
  shown.forEach((_, i) => trace(i));
}

function words(future, i) {
  const said = Object.entries(future.said).map(([name, x]) => `${name} ${x.toFixed(2)}`);
  if (future.frozen) said.push("frozen");
  if (i === 0 && state.playing && head.speed) said.push(`${head.speed.toFixed(0)}/s`);
  return said.join(" · ");
}

function paint(canvas, rgb) {
  if (canvas.width !== head.width || canvas.height !== head.height) {
    canvas.width = head.width; canvas.height = head.height;
  }
  const image = new ImageData(head.width, head.height), out = image.data;
  for (let i = 0, j = 0; i < out.length; i += 4) { out[i] = rgb[j++]; out[i + 1] = rgb[j++]; out[i + 2] = rgb[j++]; out[i + 3] = 255; }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function figures(count) {
  if (shown.length === count) return;
  $("futures").replaceChildren(); $("futures").classList.toggle("two", count > 1); shown = [];
  for (let i = 0; i < count; i++) {
    const figure = document.createElement("figure"), box = document.createElement("div");
    const picture = document.createElement("canvas"), over = document.createElement("canvas");
    const caption = document.createElement("figcaption"), title = document.createElement("b"), note = document.createElement("span");
    if (i) figure.classList.add("second");
    figure.dataset.future = i; box.className = "frame"; picture.className = "picture"; over.className = "over";
    title.textContent = count === 1 ? "The dream" : i ? "What if" : "As it was";
    caption.append(title, note); box.append(picture, over); figure.append(caption, box); $("futures").append(figure);
    shown.push({ figure, box, picture, over, note });
    pointer(box, i);
  }
  $("drop").disabled = count === 1;
  if (picked && picked.future >= count) pick(null);
}

const hue = (i) => `hsl(${(i * 67 + 210) % 360} 85% 65%)`;

function trace(i) {
  const { over, box } = shown[i], future = head.futures[i], scale = window.devicePixelRatio || 1;
  const width = Math.round(box.clientWidth * scale), height = Math.round(box.clientHeight * scale);
  if (over.width !== width || over.height !== height) { over.width = width; over.height = height; }
  const pen = over.getContext("2d"), x = (v) => (v + 1) / 2 * width, y = (v) => (v + 1) / 2 * height;
  pen.clearRect(0, 0, width, height); pen.lineWidth = 2 * scale;
  if (overlay === "boxes") {
    future.boxes.forEach(([cy, cx, h, w, a], k) => {
      pen.strokeStyle = hue(k); pen.globalAlpha = .35 + .65 * a;
      pen.strokeRect(x(cx - w), y(cy - h), x(cx + w) - x(cx - w), y(cy + h) - y(cy - h));
      pen.fillStyle = hue(k); pen.beginPath(); pen.arc(x(cx), y(cy), 4 * scale, 0, 7); pen.fill();
    });
    pen.globalAlpha = 1;
  }
  if (overlay === "masks" && future.mask) {
    pen.imageSmoothingEnabled = false; pen.globalAlpha = .62;
    pen.drawImage(tinted(future.mask), 0, 0, width, height);
    pen.globalAlpha = 1;
  }
  if (overlay === "difference" && i === 1) {
    pen.imageSmoothingEnabled = false; pen.drawImage(differing(head.futures[0].rgb, future.rgb), 0, 0, width, height);
  }
  if (picked && picked.future === i && picked.box) selection(pen, picked.box, x, y, scale, picked.by || [0, 0], i);
}

function tinted(mask) {
  const small = document.createElement("canvas"); small.width = head.width; small.height = head.height;
  const pen = small.getContext("2d");
  for (let k = 0; k < mask.length; k++) {
    if (mask[k] === 255) continue;
    pen.fillStyle = hue(mask[k]); pen.fillRect(k % head.width, Math.floor(k / head.width), 1, 1);
  }
  return small;
}

function differing(one, other) {
  const small = document.createElement("canvas"); small.width = head.width; small.height = head.height;
  const image = new ImageData(head.width, head.height), out = image.data;
  for (let k = 0; k < one.length / 3; k++) {  // dim grey is the other future; what glows differs
    const far = Math.max(...[0, 1, 2].map((c) => Math.abs(one[3 * k + c] - other[3 * k + c]))) / 255;
    const grey = 0.25 * (other[3 * k] + other[3 * k + 1] + other[3 * k + 2]) / 3;
    out.set([Math.max(grey, 255 * Math.min(1, 1.6 * far)), Math.max(grey, 210 * Math.max(0, 2 * far - .7)), grey, 255], 4 * k);
  }
  small.getContext("2d").putImageData(image, 0, 0);
  return small;
}

function selection(pen, [y0, x0, y1, x1], x, y, scale, [dy, dx], i) {
  const moving = dy || dx, picture = shown[i].picture;
  if (moving) {
    const sx = (x0 + 1) / 2 * head.width, sy = (y0 + 1) / 2 * head.height;
    pen.imageSmoothingEnabled = false; pen.globalAlpha = .85;
    pen.drawImage(picture, sx, sy, (x1 - x0) / 2 * head.width, (y1 - y0) / 2 * head.height,
      x(x0 + dx), y(y0 + dy), x(x1) - x(x0), y(y1) - y(y0));
    pen.globalAlpha = 1; pen.strokeStyle = "#ffffff88"; pen.setLineDash([6 * scale, 5 * scale]);
    pen.strokeRect(x(x0), y(y0), x(x1) - x(x0), y(y1) - y(y0)); pen.setLineDash([]);
    pen.beginPath(); pen.moveTo(x((x0 + x1) / 2), y((y0 + y1) / 2)); pen.lineTo(x((x0 + x1) / 2 + dx), y((y0 + y1) / 2 + dy)); pen.stroke();
  }
  pen.strokeStyle = "#fff"; pen.lineWidth = 2.5 * scale; pen.beginPath();
  pen.roundRect(x(x0 + dx), y(y0 + dy), x(x1) - x(x0), y(y1) - y(y0), 6 * scale); pen.stroke();
}

// -- things: click one, drag it, remove it, freeze it

function place(box, event) {
  const r = box.getBoundingClientRect(), clip = (v) => Math.min(1, Math.max(-1, v));
  return [clip((event.clientY - r.top) / r.height * 2 - 1), clip((event.clientX - r.left) / r.width * 2 - 1)];
}

function pointer(box, i) {
  box.addEventListener("pointerdown", (event) => {
    if (!state.picks) { toast("Things are picked in pictures of one camera, and this model has several."); return; }
    box.setPointerCapture(event.pointerId);
    if (state.playing) act("play", { on: false });
    const at = place(box, event);
    drag = { future: i, from: at, to: at, serial: ++serial };
    pick({ future: i, at, box: null });
    act("outline", { future: i, at, serial });
  });
  box.addEventListener("pointermove", (event) => {
    if (!drag || drag.future !== i) return;
    drag.to = place(box, event);
    if (picked) { picked.by = state.moves ? [drag.to[0] - drag.from[0], drag.to[1] - drag.from[1]] : [0, 0]; trace(i); }
  });
  box.addEventListener("pointerup", () => {
    if (!drag || drag.future !== i) return;
    const by = [drag.to[0] - drag.from[0], drag.to[1] - drag.from[1]], far = Math.hypot(...by) > .06, from = drag.from;
    drag = null;
    if (picked) picked.by = [0, 0];
    if (!far) { trace(i); return; }
    pick(null);
    if (!state.moves) { toast("The tokens of this model have no places: they can be removed and frozen, not moved."); return; }
    act("move", { future: i, at: from, by });
    toast("What if it lay there? Play to see both futures.");
  });
}

function outlined({ outline, future, serial: mine }) {
  if (mine !== serial || !picked) return;
  if (!outline) { pick(null); drag = null; toast("Nothing is there that the model tells apart."); return; }
  picked.box = outline; picked.future = future; buttons(); trace(future);
}

function pick(thing) { picked = thing; buttons(); shown.forEach((_, i) => head && trace(i)); }

function buttons() {
  const some = Boolean(picked && picked.box);
  $("remove").disabled = $("freeze").disabled = !some;
  $("picked").textContent = some
    ? `A thing at ${picked.at[0].toFixed(2)}, ${picked.at[1].toFixed(2)} (y, x)${state.moves ? ". Drag it to ask what if." : "."}`
    : state.moves === false ? "Click a thing in the picture." : "Click a thing in the picture, or drag it.";
}

function change(name, text) {
  if (!picked || !picked.box) return;
  act(name, { future: picked.future, at: picked.at }); pick(null); toast(text);
}

// -- controls

function controls() {
  $("about").textContent = `${state.model} on ${state.data}, clip ${state.clip + 1} of ${state.clips}`;
  document.title = `${state.model} · worldkit play`;
  $("play").textContent = state.playing ? "Pause" : "Play";
  $("record").classList.toggle("on", state.recording);
  $("record").querySelector("span").textContent = state.recording ? "Stop" : "Record";
  $("gif").hidden = !state.recorded || state.recording;
  $("gif").href = `recording.gif?token=${encodeURIComponent(token)}&n=${state.recorded}`;
  $("fps").value = state.fps || 31; $("rate").textContent = state.fps ? state.fps : "as fast as it goes";
  if ($("modes").childElementCount !== state.modes.length) {
    const names = { sample: "Draw", mean: "Mean", inferred: "As it was" };
    $("modes").replaceChildren(...state.modes.map((mode) => button(names[mode], () => act("mode", { mode }), { mode })));
  }
  for (const b of $("modes").children) b.classList.toggle("on", b.dataset.mode === state.mode);
  $("modehelp").textContent = HINTS[state.mode];
  steering(state.steering); buttons();
  const move = state.moves ? "<kbd>drag</kbd> a thing: what if it lay there? " : "";
  $("hint").innerHTML = `${move}<kbd>space</kbd> play <kbd>,</kbd> <kbd>.</kbd> step <kbd>B</kbd> branch <kbd>X</kbd> remove `
    + "<kbd>F</kbd> freeze <kbd>N</kbd> another clip <kbd>R</kbd> record";
}

function button(text, work, data = {}) {
  const b = document.createElement("button");
  b.textContent = text; Object.assign(b.dataset, data); b.addEventListener("click", work);
  return b;
}

let steered = "";
function steering(what) {
  if (steered === JSON.stringify(what)) return;
  steered = JSON.stringify(what);
  $("steering").hidden = !what.name;
  if (!what.name) return;
  $("pad").hidden = what.dim !== 2; $("sliders").hidden = !what.dim || what.dim === 2; $("choices").hidden = !what.choices;
  $("keys").textContent = what.choices ? "Number keys, too." : what.dim === 2 ? "Arrow keys or WASD, too. Let go: it stands still."
    : "Arrow keys: the first two.";
  if (what.factors) $("keys").textContent += " Number keys: another factor.";
  $("factors").hidden = !what.factors;
  if (what.factors) $("factors").replaceChildren(...[...Array(what.factors).keys()].map((factor) => {
    const b = button(String(factor), () => act("aim", { factor })); b.classList.toggle("on", factor === what.factor); return b;
  }));
  if (what.choices) $("choices").replaceChildren(...[...Array(what.choices).keys()].map((k) => button(String(k), () => choose(k), { k })));
  if (what.dim && what.dim !== 2) $("sliders").replaceChildren(...[...Array(what.dim).keys()].map((k) => {
    const label = document.createElement("label"), slide = document.createElement("input");
    Object.assign(slide, { type: "range", min: -1, max: 1, step: .05, value: 0 });
    slide.addEventListener("input", () => act("steer", { action: [...$("sliders").querySelectorAll("input")].map((s) => +s.value) }));
    label.append(String(k + 1), slide); return label;
  }));
}

function choose(k) {
  for (const b of $("choices").children) b.classList.toggle("on", +b.dataset.k === k);
  act("steer", { action: k });
}

let last = "";
function push(y, x) {
  $("pad").firstElementChild.style.transform = `translate(${x * 84}px, ${y * 84}px)`;
  const now = `${y.toFixed(2)},${x.toFixed(2)}`;
  if (now !== last) { last = now; act("steer", { action: [y, x] }); }
}

function keys() {
  const on = (...names) => names.some((name) => held.has(name)) ? 1 : 0;
  const y = on("ArrowDown", "s") - on("ArrowUp", "w"), x = on("ArrowRight", "d") - on("ArrowLeft", "a");
  if (state.steering.dim === 2) push(y, x);
  else if (state.steering.factors && !held.size) act("steer", { action: null });  // let go: it does as the others do
  else act("steer", { action: [y, x, ...Array(Math.max(0, state.steering.dim - 2)).fill(0)].slice(0, state.steering.dim) });
}

const steerKeys = new Set(["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "w", "a", "s", "d"]);
const isSteering = (key) => steerKeys.has(key) && state.steering && state.steering.dim;

function bind() {
  const pad = $("pad");
  const slide = (event) => { const [y, x] = place(pad, event); push(y, x); };
  pad.addEventListener("pointerdown", (event) => { pad.setPointerCapture(event.pointerId); slide(event); });
  pad.addEventListener("pointermove", (event) => { if (event.buttons) slide(event); });
  pad.addEventListener("pointerup", () => push(0, 0));
  const toggle = () => act("play", { on: !state.playing });
  const step = () => act("step");
  const back = () => head && act("look", { t: head.futures[0].t - 1 });
  const record = () => act("record", { on: !state.recording });
  $("play").onclick = toggle; $("forward").onclick = step; $("back").onclick = back; $("record").onclick = record;
  $("begin").onclick = () => { pick(null); act("begin"); };
  $("branch").onclick = () => act("branch");
  $("drop").onclick = () => act("drop");
  $("remove").onclick = () => change("remove", "What if it were not there? Play to see both futures.");
  $("freeze").onclick = () => change("freeze", "It stays as it is. Again: it goes on.");
  $("time").addEventListener("input", () => { pick(null); act("look", { t: +$("time").value }); });
  $("fps").addEventListener("input", () => act("fps", { fps: +$("fps").value > 30 ? 0 : +$("fps").value }));
  $("smooth").addEventListener("change", () => document.body.classList.toggle("smooth", $("smooth").checked));
  for (const b of $("overlay").children) b.onclick = () => {
    overlay = b.dataset.overlay;
    for (const other of $("overlay").children) other.classList.toggle("on", other === b);
    act("owners", { on: overlay === "masks" });
    shown.forEach((_, i) => head && trace(i));
  };
  const map = { " ": toggle, ".": step, ",": back, b: () => act("branch"), n: $("begin").onclick, r: record,
    x: $("remove").onclick, Delete: $("remove").onclick, f: $("freeze").onclick, Escape: () => pick(null) };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.target.type === "range" && key.startsWith("Arrow")) return;  // they move the slider
    if (isSteering(key)) { event.preventDefault(); if (!held.has(key)) { held.add(key); keys(); } return; }
    if (state.steering && state.steering.choices && /^[0-9]$/.test(key) && +key < state.steering.choices) { choose(+key); return; }
    if (state.steering && state.steering.factors && /^[0-9]$/.test(key) && +key < state.steering.factors) { act("aim", { factor: +key }); return; }
    if (key === "ArrowRight") { step(); return; }
    if (key === "ArrowLeft") { back(); return; }
    if (key === "d") { act("drop"); return; }
    if (map[key]) { event.preventDefault(); map[key](); }
  });
  addEventListener("pointerup", (event) => { if (event.target.type === "range") event.target.blur(); });  // arrows step again
  addEventListener("keyup", (event) => {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (held.delete(key)) keys();
  });
  addEventListener("blur", () => { if (held.size) { held.clear(); keys(); } });
  addEventListener("resize", () => shown.forEach((_, i) => head && trace(i)));
}

bind();
connect();
