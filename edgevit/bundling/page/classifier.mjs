// A worker that loads the model of this bundle and labels images, so that the page stays responsive.

import * as ort from "./ort.wasm.bundle.min.mjs";
import { bestLabels, probabilities } from "./class_scores.mjs";
import { preprocess } from "./preprocess.mjs";

const RUNTIME = "ort-wasm-simd-threaded.wasm";
const CHECKED = ["iospec.json", "labels.txt", "model.onnx", RUNTIME]; // with their hashes in bundle.json
const LARGEST_RECORD = 2 ** 26; // bytes
const LABELS_SHOWN = 3;

let model = null;

addEventListener("message", async ({ data }) => {
  try {
    if (data.bitmap) postMessage({ id: data.id, answer: await classify(data.bitmap) });
    else {
      model = await load();
      postMessage({ ready: { classes: model.labels.length, checked: model.checked } });
    }
  } catch (error) {
    postMessage({ id: data.id, error: String(error.message ?? error).slice(0, 500) });
  }
});

/** Fetches the bundle's files, checks their hashes, and opens the model. */
async function load() {
  const record = JSON.parse(text(await fetched("bundle.json", LARGEST_RECORD)));
  const total = [RUNTIME, "model.onnx"].reduce((sum, name) => sum + record.files[name].size, 0);
  const files = {};
  let before = 0;
  for (const name of CHECKED) {
    const { size, sha256 } = record.files[name];
    files[name] = await fetched(name, size, (bytes) => postMessage({ progress: Math.min(1, (before + bytes) / total) }));
    before += size;
    await check(name, files[name], sha256);
  }
  // Several threads need headers that a plain web server does not send.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = files[RUNTIME].buffer;
  const session = await ort.InferenceSession.create(files["model.onnx"], sessionOptions(record.session_options));
  const spec = JSON.parse(text(files["iospec.json"]));
  const rule = { ...spec.preprocess, pillow: parseInt(record.runtime.verified_with.pillow, 10) };
  const labels = text(files["labels.txt"]).split("\n").slice(0, -1);
  return { session, spec, rule, labels, checked: globalThis.crypto?.subtle ? CHECKED : [] };
}

function sessionOptions(recorded) {
  const disabled = (recorded.disabled_optimizers ?? []).join(";");
  return {
    executionProviders: ["wasm"],
    graphOptimizationLevel: recorded.graph_optimization_level ?? "all",
    extra: disabled ? { optimization: { disable_specified_optimizers: disabled } } : {},
  };
}

/** The bytes of a file beside this one, at most `most` of them. */
async function fetched(name, most, onBytes = () => {}) {
  const response = await fetch(new URL(name, import.meta.url), { cache: "no-cache" });
  if (!response.ok) throw new Error(`${name}: the server answered ${response.status}`);
  const parts = [];
  let size = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    if (size > most) throw new Error(`${name}: is larger than recorded`);
    parts.push(value);
    onBytes(size);
  }
  const whole = new Uint8Array(size);
  parts.reduce((place, part) => (whole.set(part, place), place + part.length), 0);
  return whole;
}

/** Throws if a file was altered. Browsers compute hashes with HTTPS and on localhost only. */
async function check(name, content, expected) {
  if (!globalThis.crypto?.subtle) return;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const got = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (got !== expected) throw new Error(`${name}: was altered`);
}

function text(content) {
  return new TextDecoder("utf-8", { fatal: true }).decode(content);
}

/** The best labels of an image, and the milliseconds that they took. */
async function classify(bitmap) {
  const started = performance.now();
  const input = preprocessed(bitmap);
  const prepared = performance.now();
  const [{ name, meaning }] = model.spec.outputs;
  const outputs = await model.session.run({ [model.spec.inputs[0].name]: tensorOf(input) }, [name]);
  const values = outputs[name].data.slice(0, outputs[name].dims.at(-1));
  const inferred = performance.now();
  const labels = bestLabels(probabilities(values, meaning), model.labels, LABELS_SHOWN);
  return { labels, preprocessing_ms: prepared - started, inference_ms: inferred - prepared };
}

/** The preprocessed image. The bitmap is closed. */
function preprocessed(bitmap) {
  try {
    return preprocess(imageOf(bitmap), model.rule);
  } finally {
    bitmap.close();
  }
}

/** The input of the model: the image once, or as often as a fixed batch needs. */
function tensorOf({ data, dims }) {
  const [first] = model.spec.inputs[0].shape;
  const batch = Number.isInteger(first) ? first : 1;
  const repeated = new data.constructor(batch * data.length);
  for (let index = 0; index < batch; index++) repeated.set(data, index * data.length);
  return new ort.Tensor(data instanceof Float32Array ? "float32" : "uint8", repeated, [batch, ...dims]);
}

/** The pixels of a bitmap, read a rectangle at a time: canvases of the size of a photo fail on some phones. */
function imageOf(bitmap) {
  const rows = (left, top, width, height) => {
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white"; // behind transparent parts, as in preprocess.py
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, left, top, width, height, 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  };
  return { width: bitmap.width, height: bitmap.height, rows };
}
