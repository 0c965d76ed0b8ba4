// Draw on the canvas, send it to the server, show the network's prediction.

const PEN = 30; // of the canvas's 448: MNIST's strokes are about as wide beside its digits
const MAX_BARS = 10; // of more classes, the most probable are shown

const element = (id) => document.getElementById(id);
const canvas = element("canvas");
const context = canvas.getContext("2d");

let strokes = []; // each a list of points {x, y} in the canvas's pixels
let picture = null; // an uploaded picture, instead of strokes
let version = 0; // of what is drawn or uploaded
let pointer = null; // the id of the pointer that is drawing
let next = null; // a function that returns the body of the next request
let request = null; // the AbortController of the current request
let announcement = null; // the timer of the next message for screen readers

const model = await (await fetch("model")).json(); // title, classes, layout
const drawable = model.layout === "mnist";
const invitation = drawable ? "Draw something, or drop a picture." : "Drop or upload a picture.";
element("title").textContent = model.title;

const bars = Array.from({ length: Math.min(model.classes.length, MAX_BARS) }, () => {
  const row = element("bars").insertRow();
  const head = document.createElement("th");
  head.scope = "row";
  const meter = document.createElement("meter");
  row.append(head);
  row.insertCell().append(meter);
  return { row, head, meter, text: row.insertCell() };
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
    context.lineTo(first.x, first.y); // a dot, if no other point follows
    for (const point of others) context.lineTo(point.x, point.y);
    context.stroke();
  }
  const empty = !strokes.length && !picture;
  const focused = document.activeElement;
  element("undo").disabled = element("clear").disabled = empty;
  if (focused.disabled) element("upload").focus(); // else Tab starts at the top of the page
}

function show(message, prediction = null) {
  const known = prediction !== null;
  element("result").textContent = message;
  clearTimeout(announcement); // predictions come faster than they can be read aloud
  announcement = setTimeout(() => (element("announcement").textContent = message), 500);
  element("class").textContent = known ? prediction.class : "–";
  element("class").className = known && prediction.class.length > 2 ? "long" : "";
  element("seen").hidden = !known;
  if (known) element("seen").src = prediction.seen;
  barClasses(known ? prediction.probabilities : null).forEach((number, place) => {
    const { row, head, meter, text } = bars[place];
    const name = model.classes[number];
    const probability = known ? prediction.probabilities[number] : 0;
    head.textContent = name;
    meter.setAttribute("aria-label", `Probability of ${name}`);
    meter.value = probability;
    text.textContent = known ? `${(100 * probability).toFixed(1)} %` : "–";
    row.className = known && name === prediction.class ? "best" : "";
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
      show(`This is ${prediction.class}, with ${percent}\u00a0% probability.`, prediction);
    }
  } catch (error) {
    if (error.name !== "AbortError") show("The server does not answer. Is it still running?");
  }
}

// The canvas as a PNG. canvas.toBlob would wait for an idle moment, up to a second.
function drawing() {
  const [, base64] = canvas.toDataURL("image/png").split(",");
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function changed() {
  version += 1;
  redraw();
  if (strokes.length || picture) {
    next = drawing;
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
  const before = version;
  let opened;
  try {
    opened = await createImageBitmap(file);
  } catch {
    show("Not read: the browser cannot open this file as a picture.");
    return;
  }
  if (version !== before) return; // the user has drawn or uploaded something else
  picture = opened;
  redraw();
  next = () => file; // in its full size
  send();
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

// Without these, the browser would leave the page and open the picture.
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
