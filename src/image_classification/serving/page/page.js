// Send chosen, dropped or pasted images to /invocations and show each with its answer.
import { command, copy } from "./curl.js";
import { fit, megabytes } from "./shrink.js";

const MOST = 100; // images on the page
const AT_ONCE = 2; // requests; the server's queue is for other clients too
const SHOWN_ALONE = 10, SHOWN = 5; // classes of one image, of each of several
const TRIES = 4; // of a request that the busy server refuses
const LONGEST_WAIT = 10; // seconds before a refused request is sent again

const byId = (id) => document.getElementById(id);
const drop = byId("drop"), file = byId("file"), status = byId("status"), error = byId("error");
const gallery = byId("gallery"), clear = byId("clear"), api = byId("api"), template = byId("card");
const limits = Object.fromEntries(Object.entries(document.querySelector("main").dataset).map(([key, value]) => [key, Number(value)]));
const url = new URL("invocations", location.href).href;

let cards = []; // {element, file, state: "waiting" | "asked" | "answered" | "failed", abort, blobs}
let running = 0;

api.textContent = url;
byId("example").textContent = command(url, headersFor(SHOWN), "photo.jpg");
file.addEventListener("change", () => { take([...file.files]); file.value = ""; });
document.addEventListener("paste", (event) => takeFrom(event, event.clipboardData));
document.addEventListener("drop", (event) => { drop.classList.remove("over"); takeFrom(event, event.dataTransfer); });
document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
document.addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copies]");
  if (button) copy(button.closest(".copyable").querySelector("code"), button);
});
clear.addEventListener("click", () => { remove(cards); cards = []; error.hidden = true; report(); file.focus(); });

function takeFrom(event, data) {
  event.preventDefault();
  const items = [...(data?.items ?? [])].filter((item) => item.kind === "file");
  const folders = new Set(items.map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry?.isDirectory).map((entry) => entry.name));
  take([...(data?.files ?? [])].filter((one) => !folders.has(one.name)), folders.size);
}

function take(files, folders = 0) {
  const said = [];
  if (folders) said.push("A folder cannot be dropped here: open it and drop the images in it.");
  else if (!files.length) said.push("That was not a file: drop, paste or choose image files.");
  if (files.length > MOST) {
    said.push(`This page shows ${MOST} images at a time: the first ${MOST} of ${files.length.toLocaleString("en")} files were taken. ` +
      "For whole folders, use image-classification predict.");
  }
  error.textContent = said.join(" ");
  error.hidden = !said.length;
  if (!files.length) return;
  const taken = files.slice(0, MOST), classes = taken.length === 1 ? SHOWN_ALONE : SHOWN;
  const added = taken.map((one) => newCard(one, classes));
  gallery.prepend(...added.map((card) => card.element));
  remove(cards.slice(MOST - added.length));
  cards = [...added, ...cards].slice(0, MOST);
  report();
  next();
}

function newCard(image, classes) {
  const element = template.content.firstElementChild.cloneNode(true);
  const card = { element, file: image, classes, state: "waiting", abort: new AbortController(), blobs: [] };
  part(card, "name").textContent = image.name;
  part(card, "again").addEventListener("click", () => { card.state = "waiting"; report(); next(); });
  part(card, "caption").textContent = `The most probable classes of ${image.name}`;
  part(card, "verdict").textContent = "Waiting …";
  return card;
}

function part(card, name) {
  return card.element.querySelector(`.${name}`);
}

function remove(gone) {
  for (const card of gone) {
    card.state = "removed";
    card.abort.abort();
    card.blobs.forEach((blob) => URL.revokeObjectURL(blob));
    card.element.remove();
  }
}

/** Start requests until AT_ONCE run; each one that ends starts the next. */
function next() {
  while (running < AT_ONCE) {
    const card = cards.find((one) => one.state === "waiting");
    if (!card) return;
    card.state = "asked";
    running += 1;
    ask(card).finally(() => { running -= 1; report(); next(); });
  }
}

async function ask(card) {
  part(card, "problem").hidden = part(card, "again").hidden = true;
  part(card, "verdict").hidden = false;
  part(card, "verdict").textContent = "Predicting …";
  try {
    const { body, thumbnail, shrunk } = await fit(card.file, limits);
    if (card.state === "removed") return;
    show(card, body, thumbnail, shrunk);
    const begun = performance.now();
    const answer = await send(card, body);
    if (card.state === "removed") return;
    draw(card, answer, performance.now() - begun, body.size);
    card.state = "answered";
  } catch (reason) {
    if (card.state !== "removed") fail(card, reason.message);
  }
}

function headersFor(classes) {
  return { "Content-Type": "application/x-image", Accept: `application/json;verbose;top_k=${classes}` };
}

/** Return the server's answer; an Error's message is a sentence for the user. */
async function send(card, body) {
  for (let tries = 1; ; tries += 1) {
    let response;
    try {
      response = await fetch(url, { method: "POST", headers: headersFor(card.classes), body, signal: card.abort.signal });
    } catch {
      throw new Error("The server cannot be reached. Is it still running?");
    }
    const text = await response.text().catch(() => "");
    if (response.status === 503 && tries < TRIES) {
      const seconds = Math.min(Number(response.headers.get("Retry-After")) || 1, LONGEST_WAIT);
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      if (card.state === "removed") throw new Error("");
      continue;
    }
    const answer = parsed(text);
    if (response.ok) return answer ?? text;
    if (response.status === 503) throw new Error("The server is busy. Try again in a moment.");
    throw new Error(sentence(answer?.error ?? `The server answered ${response.status} without a reason.`));
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

function show(card, body, thumbnail, shrunk) {
  const preview = part(card, "preview"), isFirst = !card.blobs.length;
  if (thumbnail && isFirst) preview.src = blobUrl(card, thumbnail);
  preview.alt = `Preview of ${card.file.name}`;
  preview.hidden = !thumbnail;
  part(card, "blank").hidden = Boolean(thumbnail);
  let name = card.file.name;
  if (shrunk) {
    name = `${name.replace(/\.[^.]*$/, "")}-small.jpg`;
    const bound = card.file.size > limits.bytes ? megabytes(limits.bytes) : `${(limits.pixels / 1e6).toFixed(1)} megapixels`;
    part(card, "note").textContent = `Larger than this server's limit of ${bound}: shrunk here from ${shrunk} before it was sent.`;
    part(card, "note").hidden = false;
    const saved = part(card, "save");
    saved.href = blobUrl(card, body);
    saved.download = name;
    saved.textContent = `Save the shrunk image as ${name}`;
    saved.parentNode.hidden = false;
  }
  part(card, "command").textContent = command(url, headersFor(card.classes), name);
  part(card, "curl").hidden = false;
}

function blobUrl(card, blob) {
  const made = URL.createObjectURL(blob);
  card.blobs.push(made);
  return made;
}

function draw(card, answer, milliseconds, bytes) {
  const { labels, probabilities, predicted_label: label, predicted_labels: several } = answer ?? {};
  const verdict = part(card, "verdict"), timing = part(card, "timing");
  if (Array.isArray(labels) && Array.isArray(probabilities)) {
    verdict.textContent = several ? several.join(", ") || "None of the classes" : `${label}, ${percent(probabilities[0])}`;
    part(card, "bars").tBodies[0].replaceChildren(...labels.map((name, rank) => row(name, probabilities[rank], rank)));
    part(card, "bars").hidden = false;
  } else { // the model's own code answers in its own form
    verdict.textContent = "Answer of the model's own code:";
    part(card, "raw").textContent = (typeof answer === "string" ? answer : JSON.stringify(answer, null, 1)).slice(0, 2000);
    part(card, "raw").hidden = false;
  }
  timing.textContent = `Answered in ${milliseconds.toFixed(0)} ms, including the upload of ${megabytes(bytes)}.`;
  timing.hidden = false;
}

function row(label, probability, rank) {
  const line = document.createElement("tr");
  line.role = "row"; // named, because the style sheet displays the table as something else
  if (rank === 0) line.className = "first";
  const name = cell("th", "rowheader", label), value = cell("td", "cell", percent(probability));
  const groove = document.createElement("td"), bar = document.createElement("div");
  groove.className = "groove";
  groove.ariaHidden = "true";
  bar.className = "bar";
  bar.style.width = `${100 * probability}%`;
  groove.append(bar);
  line.append(name, value, groove);
  return line;
}

function cell(tag, role, text) {
  const made = document.createElement(tag);
  made.role = role;
  made.textContent = text;
  return made;
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)}%`;
}

function fail(card, message) {
  card.state = "failed";
  part(card, "verdict").hidden = true;
  part(card, "problem").textContent = message;
  part(card, "problem").hidden = part(card, "again").hidden = false;
}

/** Say in one line how far the images are; a screen reader reads it aloud. */
function report() {
  const count = (state) => cards.filter((card) => card.state === state).length;
  const answered = count("answered"), failed = count("failed"), all = cards.length;
  gallery.classList.toggle("many", all > 1);
  gallery.hidden = clear.hidden = !all;
  if (!all) status.textContent = "No images yet.";
  else if (answered + failed < all) status.textContent = all === 1 ? "Predicting …" : `${answered + failed} of ${all} images done …`;
  else if (all === 1) status.textContent = failed ? `No answer. ${part(cards[0], "problem").textContent}` : `${cards[0].file.name}: ${part(cards[0], "verdict").textContent}`;
  else status.textContent = `${answered} of ${all} images answered${failed ? `, ${failed} without an answer` : ""}.`;
}
