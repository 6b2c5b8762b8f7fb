// Send the chosen, dropped or pasted image to /invocations and draw the answer.
"use strict";

const SHOWN = 10;
const byId = (id) => document.getElementById(id);
const drop = byId("drop"), file = byId("file"), preview = byId("preview");
const invitation = byId("invitation"), status = byId("status"), error = byId("error");
const bars = byId("bars"), timing = byId("timing");
let asked = 0; // a late answer must not replace the answer to a later image

file.addEventListener("change", () => file.files[0] && ask(file.files[0]));
document.addEventListener("paste", (event) => take(event, event.clipboardData));
document.addEventListener("drop", (event) => { drop.classList.remove("over"); take(event, event.dataTransfer); });
document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
document.addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));

function take(event, data) {
  event.preventDefault();
  if (data && data.files[0]) ask(data.files[0]);
  else fail("That was not a file: drop, paste or choose an image file.");
}

async function ask(image) {
  const turn = ++asked;
  show(image);
  const begun = performance.now();
  let answer;
  try {
    const response = await fetch("invocations", {
      method: "POST",
      headers: { "Content-Type": "application/x-image", "Accept": `application/json;verbose;top_k=${SHOWN}` },
      body: image,
    });
    answer = await response.json();
  } catch (reason) {
    answer = { error: `the server cannot be reached or did not answer in JSON (${reason.message})` };
  }
  if (turn !== asked) return;
  if (answer.error) fail(answer.error);
  else draw(answer, performance.now() - begun, image.size);
}

function show(image) {
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(image);
  preview.alt = `Preview of ${image.name}`;
  preview.hidden = false;
  preview.onerror = () => { preview.hidden = true; };
  invitation.textContent = image.name;
  error.hidden = bars.hidden = timing.hidden = true;
  status.hidden = false;
  status.textContent = "Predicting …";
}

function draw(answer, milliseconds, bytes) {
  const several = answer.predicted_labels;
  const found = several ? several.join(", ") || "none of the classes" : answer.predicted_label;
  status.textContent = several ? `Predicted: ${found}` : `${found}, ${percent(answer.probabilities[0])}`;
  bars.tBodies[0].replaceChildren(...answer.labels.map((label, rank) => row(label, answer.probabilities[rank], rank)));
  timing.textContent = `Answered in ${milliseconds.toFixed(0)} ms, including the upload of ${Math.ceil(bytes / 1024)} KB.`;
  bars.hidden = timing.hidden = false;
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

function fail(message) {
  error.textContent = message;
  error.hidden = false;
  status.hidden = bars.hidden = timing.hidden = true;
}
