// The page: images from files or the camera go to the classifier, and its labels are shown.

const LARGEST_FILE = 2 ** 28; // bytes
const LARGEST_IMAGE = 2 ** 27; // pixels
const THUMBNAIL = 192; // pixels
const TIMES_KEPT = 30;
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
// As Pillow reads them: without color profiles. The orientation of a photo is applied.
const DECODING = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };

const part = (id) => document.getElementById(id);
const worker = new Worker(new URL("classifier.mjs", import.meta.url), { type: "module" });
const waiting = new Map(); // from the number of a question to its promise
const times = [];
let asked = 0;
let stream = null; // of the camera that is on
let isReady = false;
let failure = null; // why the worker stopped

worker.addEventListener("message", ({ data }) => {
  if (data.progress !== undefined) showProgress(data.progress);
  else if (data.ready) showReady(data.ready);
  else if (data.id !== undefined) answerQuestion(data);
  else stopWith(data.error);
});
worker.addEventListener("error", (event) => stopWith(event.message || "this browser cannot run it"));
worker.postMessage({ load: true });
part("status").textContent = "Loading the model.";

part("files").addEventListener("change", async ({ target }) => {
  const files = [...target.files];
  target.disabled = true;
  await labelFiles(files);
  target.value = "";
  target.disabled = Boolean(failure);
});
part("camera").addEventListener("click", () => (stream ? stopCamera() : startCamera()));

function showProgress(share) {
  part("progress").value = share;
  part("status").textContent = `Loading the model: ${Math.floor(100 * share)}%`;
}

function showReady({ classes, checked }) {
  isReady = true;
  const hashes = checked.length
    ? `${checked.join(", ")} have their recorded hashes`
    : "hashes are checked with HTTPS or on localhost only";
  part("status").textContent = `Ready: ${classes} classes; ${hashes}.`;
  part("progress").hidden = true;
  part("files").disabled = false;
  const hasCamera = Boolean(navigator.mediaDevices?.getUserMedia);
  part("camera").disabled = !hasCamera;
  part("camera-note").hidden = hasCamera;
}

/** The worker is gone: every question that waits fails, and no other can be asked. */
function stopWith(message) {
  failure = new Error(isReady ? `The model stopped: ${message}` : `Cannot load the model: ${message}`);
  stopCamera();
  for (const { reject } of waiting.values()) reject(failure);
  waiting.clear();
  part("files").disabled = part("camera").disabled = true;
  part("progress").hidden = true;
  part("status").textContent = printable(failure.message);
  part("status").className = "error";
}

/** The classifier's answer for a bitmap, which is handed over. */
async function classify(bitmap) {
  if (failure) {
    bitmap.close();
    throw failure;
  }
  const id = asked++;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, bitmap }, [bitmap]);
  });
}

function answerQuestion({ id, answer, error }) {
  if (failure) return;
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(new Error(error));
  else {
    showTime(answer);
    resolve(answer);
  }
}

/** The median time in this browser, which says nothing about other devices. */
function showTime(answer) {
  times.push(answer);
  if (times.length > TIMES_KEPT) times.shift();
  const [inference, preprocessing] = [median("inference_ms"), median("preprocessing_ms")];
  const count = times.length === 1 ? "1 image" : `the last ${times.length} images, median`;
  part("time").textContent =
    `Time of this browser on this device (${count}): model ${inference} ms, preprocessing ${preprocessing} ms.`;
}

function median(name) {
  const sorted = times.map((time) => time[name]).sort((a, b) => a - b);
  const middle = (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.floor(sorted.length / 2)]) / 2;
  return middle.toFixed(1);
}

async function labelFiles(files) {
  let count = 0;
  for (const [index, file] of files.entries()) {
    part("status").textContent = `Image ${index + 1} of ${files.length}`;
    count += await labelFile(file);
    if (failure) return;
  }
  const share = count === files.length ? `${count}` : `${count} of ${files.length}`;
  part("status").textContent = `${share} ${files.length === 1 ? "image" : "images"} labelled.`;
}

/** Whether the file was labelled. Its labels, or the error, are shown. */
async function labelFile(file) {
  const item = document.createElement("li");
  const [thumbnail, name] = [document.createElement("canvas"), textElement("span", "name", file.name)];
  item.append(thumbnail, name);
  part("results").append(item);
  let bitmap = null;
  try {
    bitmap = await decoded(file);
    drawThumbnail(bitmap, thumbnail);
    item.append(labelList((await classify(bitmap)).labels));
    return true;
  } catch (error) {
    item.append(textElement("span", "error", error.message));
    return false;
  } finally {
    bitmap?.close();
  }
}

async function decoded(file) {
  if (file.size > LARGEST_FILE) throw new Error(`it has more than ${LARGEST_FILE} bytes`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, DECODING);
  } catch {
    throw new Error("this browser cannot read it as an image");
  }
  if (bitmap.width * bitmap.height <= LARGEST_IMAGE) return bitmap;
  bitmap.close();
  throw new Error(`it has more than ${LARGEST_IMAGE} pixels`);
}

function drawThumbnail(bitmap, canvas) {
  const scale = Math.min(1, THUMBNAIL / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
}

function labelList(labels) {
  const list = document.createElement("ol");
  list.className = "labels";
  list.append(...labelItems(labels));
  return list;
}

function labelItems(labels) {
  return labels.map(({ label, confidence }) => {
    const item = document.createElement("li");
    const meter = document.createElement("meter");
    meter.value = confidence;
    const share = textElement("span", "share", `${(100 * confidence).toFixed(1)}%`);
    share.dataset.confidence = confidence;
    item.append(textElement("bdi", "label", label), meter, share);
    return item;
  });
}

/** An element whose text is never read as HTML. */
function textElement(tag, className, content) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = printable(content);
  return element;
}

function printable(content) {
  return content.replace(CONTROLS, (control) => `\\u${control.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

async function startCamera() {
  part("camera").disabled = true;
  let opened = null;
  try {
    opened = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    part("video").srcObject = opened;
    await part("video").play();
  } catch (error) {
    closeCamera(opened);
    if (!failure) part("status").textContent = printable(`No camera: ${error.message}`);
    return;
  } finally {
    part("camera").disabled = Boolean(failure);
  }
  if (failure) return closeCamera(opened);
  stream = opened;
  part("live").hidden = false;
  part("camera").textContent = "Stop camera";
  await labelFrames(opened);
}

/** Labels frames of a stream until it is stopped. */
async function labelFrames(own) {
  while (stream === own) {
    try {
      const { labels } = await classify(await createImageBitmap(part("video")));
      if (stream === own) part("live-labels").replaceChildren(...labelItems(labels));
    } catch (error) {
      if (stream !== own) return; // stopped in the middle of a frame
      part("status").textContent = printable(`The camera stopped: ${error.message}`);
      stopCamera();
    }
    await new Promise(requestAnimationFrame); // waits while the page is in the background
  }
}

function stopCamera() {
  closeCamera(stream);
  stream = null;
  part("live").hidden = true;
  part("camera").textContent = "Start camera";
}

function closeCamera(opened) {
  opened?.getTracks().forEach((track) => track.stop());
  part("video").srcObject = null;
}
