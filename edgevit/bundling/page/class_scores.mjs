// Class probabilities from the model's output: answers.py of this bundle in JavaScript.

/** The probability of each class, from the output's values and the `meaning` of the output in iospec.json. */
export function probabilities(values, meaning) {
  const numbers = Array.from(values, Number);
  if (meaning === "class probabilities" || meaning === "independent class probabilities") return numbers;
  if (meaning === "probability of class 1") return [1 - numbers[0], numbers[0]];
  return softmax(meaning === "score of class 1" ? [0, numbers[0]] : numbers);
}

/** The `count` best classes, best first: [{label, confidence}]. Throws if a confidence is NaN or infinite. */
export function bestLabels(confidences, labels, count) {
  if (confidences.some((value) => !Number.isFinite(value))) throw new Error("the model's output is NaN or infinite");
  const order = confidences.map((_, index) => index).sort((a, b) => confidences[b] - confidences[a] || a - b);
  return order.slice(0, count).map((index) => ({ label: labels[index], confidence: confidences[index] }));
}

function softmax(scores) {
  const largest = scores.reduce((a, b) => Math.max(a, b));
  const exponentials = scores.map((score) => Math.exp(score - largest));
  const sum = exponentials.reduce((a, b) => a + b);
  return exponentials.map((value) => value / sum);
}
