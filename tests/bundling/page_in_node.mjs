// Reads cases from standard input, one JSON object, and prints what the page's modules make of them.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder] = process.argv.slice(2);
const { fitToSize, preprocess } = await import(pathToFileURL(`${folder}/preprocess.mjs`));
const { bestLabels, probabilities } = await import(pathToFileURL(`${folder}/class_scores.mjs`));

const cases = JSON.parse(readFileSync(0, "utf8"));
const encoded = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");

function imageOf({ width, height, rgb }) {
  const bytes = Buffer.from(rgb, "base64");
  const rows = (left, top, columns, count) => {
    const pixels = new Uint8ClampedArray(4 * columns * count).fill(255);
    for (let row = 0; row < count; row++) {
      for (let column = 0; column < columns; column++) {
        const from = 3 * ((top + row) * width + left + column);
        pixels.set(bytes.subarray(from, from + 3), 4 * (row * columns + column));
      }
    }
    return pixels;
  };
  return { width, height, rows };
}

const images = (cases.images ?? []).map(({ rule, ...image }) => ({
  fitted: encoded(fitToSize(imageOf(image), rule)),
  input: encoded(preprocess(imageOf(image), rule).data),
}));
const scores = (cases.scores ?? []).map(({ values, meaning, labels }) => {
  const confidences = probabilities(Float32Array.from(values), meaning);
  return { confidences, best: labels && bestLabels(confidences, labels, 3) };
});
console.log(JSON.stringify({ images, scores }));
