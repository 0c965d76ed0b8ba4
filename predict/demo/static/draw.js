// Draw on the canvas, send it to the server, show what the network says.

const PEN = 30; // of the canvas's 448: MNIST's strokes are about as wide beside its digits

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

const bars = Array.from({ length: 10 }, (_, digit) => {
  const row = element("bars").insertRow();
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = digit;
  const meter = document.createElement("meter");
  meter.setAttribute("aria-label", `Probability of ${digit}`);
  row.append(head);
  row.insertCell().append(meter);
  return { row, meter, text: row.insertCell() };
});

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
  const known = answer !== null && answer.digit !== null;
  element("result").textContent = message;
  clearTimeout(announcement); // the answers follow the pen faster than they could be said
  announcement = setTimeout(() => (element("announcement").textContent = message), 500);
  element("digit").textContent = known ? answer.digit : "–";
  element("seen").hidden = !known;
  if (known) element("seen").src = answer.seen;
  bars.forEach(({ row, meter, text }, digit) => {
    const probability = known ? answer.probabilities[digit] : 0;
    meter.value = probability;
    text.textContent = known ? `${(100 * probability).toFixed(1)} %` : "–";
    row.className = known && digit === answer.digit ? "best" : "";
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
    } else if (found.digit === null) {
      show("No digit found. Draw one from 0 to 9.");
    } else {
      const percent = (100 * found.probabilities[found.digit]).toFixed(1);
      show(`This is a ${found.digit}, with ${percent}\u00a0% probability.`, found);
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
    show("Draw a digit from 0 to 9.");
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
  if (pointer !== null || event.button !== 0) return;
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

redraw();
show("Draw a digit from 0 to 9.");
