// Draw on the canvas, send it to the server, show what the network says.

const PEN = 30; // of the canvas's 448: MNIST's strokes are about as wide beside its digits
const MOST_BARS = 10; // of more classes, the most probable are shown

const element = (id) => document.getElementById(id);
const canvas = element("canvas");
const context = canvas.getContext("2d");

let strokes = []; // each a list of points {x, y} in the canvas's pixels
let picture = null; // an uploaded one, instead of strokes
let version = 0; // of what is drawn or uploaded
let pointer = null; // the id of the pointer that is drawing
let wanted = null; // gives the body of the next request
let request = null; // the AbortController of the one under way
let announcement = null; // the timer of what a screen reader is to say

const model = await (await fetch("model")).json(); // title, classes, layout
const drawable = model.layout === "mnist";
const invitation = drawable ? "Draw something, or drop a picture." : "Drop or upload a picture.";
element("title").textContent = model.title;

const bars = Array.from({ length: Math.min(model.classes.length, MOST_BARS) }, () => {
  const row = element("bars").insertRow();
  const head = document.createElement("th");
  head.scope = "row";
  const meter = document.createElement("meter");
  row.append(head);
  row.insertCell().append(meter);
  return { row, head, meter, text: row.insertCell() };
});

// The classes' numbers, as many as there are bars: all in their order, or the most probable.
function shown(probabilities) {
  const every = model.classes.map((_, number) => number);
  if (every.length <= bars.length || !probabilities) return every.slice(0, bars.length);
  return every.sort((a, b) => probabilities[b] - probabilities[a]).slice(0, bars.length);
}

function redraw() {
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (picture) {
    const scale = Math.min(canvas.width / picture.width, canvas.height / picture.height);
    const [width, height] = [picture.width * scale, picture.height * scale];
    context.drawImage(
      picture, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  }
  context.strokeStyle = "#111";
  context.lineWidth = PEN;
  context.lineCap = context.lineJoin = "round";
  for (const [first, ...others] of strokes) {
    context.beginPath();
    context.moveTo(first.x, first.y);
    context.lineTo(first.x, first.y); // a dot, should nothing follow
    for (const point of others) context.lineTo(point.x, point.y);
    context.stroke();
  }
  const empty = !strokes.length && !picture;
  const focused = document.activeElement;
  element("undo").disabled = element("clear").disabled = empty;
  if (focused.disabled) element("upload").focus(); // else the keyboard would start from the top
}

function show(message, answer = null) {
  const known = answer !== null && answer.class !== null;
  element("result").textContent = message;
  clearTimeout(announcement); // the answers follow the pen faster than they could be said
  announcement = setTimeout(() => (element("announcement").textContent = message), 500);
  element("class").textContent = known ? answer.class : "–";
  element("class").className = known && answer.class.length > 2 ? "long" : "";
  element("seen").hidden = !known;
  if (known) element("seen").src = answer.seen;
  shown(known ? answer.probabilities : null).forEach((number, place) => {
    const { row, head, meter, text } = bars[place];
    const name = model.classes[number];
    const probability = known ? answer.probabilities[number] : 0;
    head.textContent = name;
    meter.setAttribute("aria-label", `Probability of ${name}`);
    meter.value = probability;
    text.textContent = known ? `${(100 * probability).toFixed(1)} %` : "–";
    row.className = known && name === answer.class ? "best" : "";
  });
}

// Ask about what is wanted, and again for what was wanted meanwhile: one request at a time, and none
// about what is already out of date.
async function ask() {
  if (request) return;
  while (wanted) {
    const body = wanted();
    wanted = null;
    request = new AbortController();
    await answer(body, request.signal);
  }
  request = null;
}

async function answer(body, signal) {
  try {
    const response = await fetch("predict", { method: "POST", body, signal });
    const found = await response.json();
    if (signal.aborted) return;
    if (!response.ok) {
      show(`Not read: ${found.error}.`);
    } else if (found.class === null) {
      show(`Nothing found. ${invitation}`);
    } else {
      const percent = (100 * found.probabilities[model.classes.indexOf(found.class)]).toFixed(1);
      show(`This is ${found.class}, with ${percent}\u00a0% probability.`, found);
    }
  } catch (error) {
    if (error.name !== "AbortError") show("The server does not answer. Is it still running?");
  }
}

// The canvas as a PNG. At once: canvas.toBlob waits for an idle moment, up to a second.
function drawing() {
  const [, base64] = canvas.toDataURL("image/png").split(",");
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function changed() {
  version += 1;
  redraw();
  if (strokes.length || picture) {
    wanted = drawing;
    ask();
  } else {
    wanted = null;
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
  const ours = version;
  let opened;
  try {
    opened = await createImageBitmap(file);
  } catch {
    show("Not read: this file is no picture that the browser knows.");
    return;
  }
  if (version !== ours) return; // something else was drawn or uploaded meanwhile
  picture = opened;
  redraw();
  wanted = () => file; // itself, in its full size
  ask();
}

function point(event) {
  const box = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) / box.width) * canvas.width,
    y: ((event.clientY - box.top) / box.height) * canvas.height,
  };
}

canvas.addEventListener("pointerdown", (event) => {
  if (!drawable || pointer !== null || event.button !== 0) return;
  pointer = event.pointerId;
  canvas.setPointerCapture(pointer);
  strokes.push([point(event)]);
  changed();
});
canvas.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  const points = event.getCoalescedEvents?.() ?? [];
  strokes.at(-1).push(...(points.length ? points : [event]).map(point));
  changed();
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => {
    if (event.pointerId === pointer) pointer = null;
  });
}

element("undo").addEventListener("click", undo);
element("clear").addEventListener("click", clear);
element("upload").addEventListener("click", () => element("file").click());
element("file").addEventListener("change", ({ target }) => {
  if (target.files.length) upload(target.files[0]);
  target.value = ""; // the same file may be chosen again
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") clear();
  else if ((event.ctrlKey || event.metaKey) && !event.shiftKey
      && event.key.toLowerCase() === "z") {
    event.preventDefault();
    undo();
  }
});

// A picture may be dropped anywhere on the page; else the browser would leave it for the picture.
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) upload(event.dataTransfer.files[0]);
});

if (!drawable) {
  canvas.style.cursor = "default";
  canvas.setAttribute("aria-label", "The picture that was dropped or uploaded");
}
redraw();
show(invitation);
