// Draw on the canvas, send it to the server, show the network's prediction.

import { toTiff } from "./pixels.js";

const PEN = 30; // of the canvas's 448: MNIST's strokes are about as wide beside its digits
const MAX_BARS = 10; // of more classes, the most probable are shown
const NO_SERVER = "The server does not answer. Is it still running?";

const element = (id) => document.getElementById(id);
const canvas = element("canvas");
const context = canvas.getContext("2d");

let strokes = []; // each a list of points {x, y} in the canvas's pixels
let picture = null; // {file, bitmap} of an uploaded picture; hidden while there are strokes
let version = 0; // of what is drawn or uploaded
let pointer = null; // the pointerdown event of the stroke that is being drawn
let next = null; // a function that returns the body of the next request
let request = null; // the AbortController of the current request
let announcement = null; // the timer of the next message for screen readers

const model = await describe();
const drawable = model.layout === "drawing";
const invitation = drawable ? "Draw something, or drop a picture." : "Drop or upload a picture.";
const accuracy = `${(100 * model.accuracy).toFixed(2)}\u00a0%`;
element("about").textContent =
  `${model.title}; recipe ${model.recipe}; `
  + `${accuracy} of ${model.test_images.toLocaleString("en")} test images are classified correctly.`;

// The server's description of the model, as app.py's `describe` returns it.
async function describe() {
  try {
    return await (await fetch("model")).json();
  } catch (error) {
    say(NO_SERVER);
    throw error;
  }
}

const bars = Array.from({ length: Math.min(model.classes.length, MAX_BARS) }, () => {
  const row = element("bars").insertRow();
  const head = document.createElement("th");
  const name = document.createElement("span");
  const meter = document.createElement("meter");
  head.scope = "row";
  head.append(name);
  row.append(head);
  row.insertCell().append(meter);
  return { row, name, meter, text: row.insertCell() };
});

// The numbers of the classes that have bars: all of them in order, or the most probable.
function barClasses(probabilities) {
  const all = model.classes.map((_, number) => number);
  if (all.length <= bars.length || !probabilities) return all.slice(0, bars.length);
  return all.sort((a, b) => probabilities[b] - probabilities[a]).slice(0, bars.length);
}

function redraw() {
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (picture && !strokes.length) {
    const { bitmap } = picture;
    const scale = Math.min(canvas.width / bitmap.width, canvas.height / bitmap.height);
    const [width, height] = [bitmap.width * scale, bitmap.height * scale];
    context.imageSmoothingEnabled = scale < 4; // a tiny picture shows its pixels
    context.drawImage(
      bitmap, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  }
  context.fillStyle = context.strokeStyle = "#111";
  context.lineWidth = PEN;
  context.lineCap = context.lineJoin = "round";
  for (const [first, ...others] of strokes) {
    context.beginPath();
    context.arc(first.x, first.y, PEN / 2, 0, 2 * Math.PI); // a click: Chromium strokes no dots
    context.fill();
    context.beginPath();
    context.moveTo(first.x, first.y);
    for (const point of others) context.lineTo(point.x, point.y);
    context.stroke();
  }
  const empty = !strokes.length && !picture;
  const focused = document.activeElement;
  element("undo").disabled = element("clear").disabled = empty;
  if (focused.disabled) element("upload").focus(); // else Tab starts at the top of the page
}

function say(message) {
  element("result").textContent = message;
  clearTimeout(announcement); // predictions come faster than they can be read aloud
  announcement = setTimeout(() => (element("announcement").textContent = message), 500);
}

function show(message, prediction = null) {
  const known = prediction !== null;
  say(message);
  element("class").textContent = known ? prediction.class : "";
  element("class").className = known && prediction.class.length > 2 ? "long" : "";
  element("seen").hidden = !known;
  if (known) element("seen").src = prediction.seen;
  barClasses(known ? prediction.probabilities : null).forEach((number, place) => {
    const bar = bars[place];
    const name = model.classes[number];
    const probability = known ? prediction.probabilities[number] : 0;
    bar.name.textContent = name;
    bar.meter.setAttribute("aria-label", `Probability of ${name}`);
    bar.meter.value = probability;
    bar.text.textContent = known ? `${(100 * probability).toFixed(1)} %` : "–";
    bar.row.className = known && name === prediction.class ? "best" : "";
  });
}

// Send one request at a time; of the drawings made meanwhile, send only the latest.
async function send() {
  if (request) return;
  while (next) {
    const body = next();
    next = null;
    request = new AbortController();
    await predict(body, request.signal);
  }
  request = null;
}

async function predict(body, signal) {
  try {
    const response = await fetch("predict", { method: "POST", body, signal });
    if (!response.ok) {
      const error = await response.text();
      if (!signal.aborted) show(`Not read: ${error}.`);
      return;
    }
    const prediction = await response.json();
    if (signal.aborted) return;
    if (prediction.class === null) {
      show(`Nothing found. ${invitation}`);
    } else {
      const probability = prediction.probabilities[model.classes.indexOf(prediction.class)];
      const percent = (100 * probability).toFixed(1);
      const found = prediction.unsure ? "Unsure. Perhaps" : "This is";
      show(`${found} ${prediction.class}, with ${percent}\u00a0% probability.`, prediction);
    }
  } catch (error) {
    if (error.name !== "AbortError") show(NO_SERVER);
  }
}

function changed() {
  version += 1;
  redraw();
  if (strokes.length || picture) {
    const file = picture?.file; // in its full size
    next = () => (strokes.length ? toTiff(strokes, canvas.width, canvas.height, PEN) : file);
    send();
  } else {
    next = null;
    request?.abort();
    show(invitation);
  }
}

function clear() {
  strokes = [];
  picture = null;
  pointer = null;
  changed();
}

function undo() {
  pointer = null;
  if (strokes.length) strokes.pop();
  else picture = null;
  changed();
}

async function upload(file) {
  clear();
  if (file.size > model.max_bytes) {
    show(`Not read: larger than ${model.max_bytes / 1e6} MB; scale it down.`);
    return;
  }
  const before = version;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    if (version === before) show("Not read: the browser cannot open this file as a picture.");
    return;
  }
  if (version !== before) return; // the user has drawn or uploaded something else
  picture = { file, bitmap };
  changed();
}

// Upload what was dropped or pasted, a DataTransfer.
function receive(transfer) {
  if (transfer.files.length) upload(transfer.files[0]);
  else say("Only files can be dropped or pasted. Save the picture, then drop or upload its file.");
}

for (const sample of model.samples) {
  const button = document.createElement("button");
  const image = new Image();
  image.src = sample.image;
  image.alt = `Test image: ${sample.class}`;
  button.type = "button";
  button.title = sample.class;
  button.append(image);
  button.addEventListener("click", () => {
    const [, base64] = sample.image.split(",");
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    upload(new Blob([bytes], { type: "image/png" }));
  });
  element("samples").append(button);
}
element("samples").parentElement.hidden = !model.samples.length;

function point(event) {
  const box = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) / box.width) * canvas.width,
    y: ((event.clientY - box.top) / box.height) * canvas.height,
  };
}

canvas.addEventListener("pointerdown", (event) => {
  if (!drawable || event.button !== 0) return;
  if (pointer) {
    // Of several fingers the first is primary: another primary pointer means that the release of
    // `pointer` was lost. Only a pen goes before a palm that rests on the screen.
    const palm = pointer.pointerType === "pen" && event.pointerType === "touch";
    if (palm || !event.isPrimary) return;
    if (pointer.pointerType === "touch" && event.pointerType === "pen") strokes.pop();
  }
  pointer = event;
  canvas.setPointerCapture(event.pointerId);
  strokes.push([point(event)]);
  changed();
});
canvas.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer?.pointerId) return;
  if (!(event.buttons & 1)) { // released, but not over this page
    pointer = null;
    return;
  }
  const points = event.getCoalescedEvents?.() ?? [];
  strokes.at(-1).push(...(points.length ? points : [event]).map(point));
  changed();
});
for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
  canvas.addEventListener(name, (event) => {
    if (event.pointerId === pointer?.pointerId) pointer = null;
  });
}

element("undo").addEventListener("click", undo);
element("clear").addEventListener("click", clear);
element("upload").addEventListener("click", () => element("file").click());
element("file").addEventListener("change", ({ target }) => {
  if (target.files.length) upload(target.files[0]);
  target.value = ""; // choosing the same file again is a change, too
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") clear();
  else if ((event.ctrlKey || event.metaKey) && !event.shiftKey
      && event.key.toLowerCase() === "z") {
    event.preventDefault();
    undo();
  }
});

// A stroke on selected text, or a tap on a sample that slips, would drag it instead.
document.addEventListener("dragstart", (event) => event.preventDefault());
// Without these, the browser would leave the page and open the picture.
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  receive(event.dataTransfer);
});
document.addEventListener("paste", (event) => receive(event.clipboardData));

if (!drawable) {
  canvas.style.cursor = "default";
  canvas.setAttribute("aria-label", "The picture that was dropped or uploaded");
}
redraw();
show(invitation);
