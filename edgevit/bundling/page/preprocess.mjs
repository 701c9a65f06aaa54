// How an image becomes the model's input: preprocess.py of this bundle in JavaScript, with equal bytes.
//
// An image is {width, height, rows(left, top, width, height)}; rows gives the RGBA bytes of a rectangle. The rule is
// `preprocess` in iospec.json, with `pillow`: the major version of Pillow whose rounding is wanted.

const LONGEST_STRIP = 64; // aspect ratio; the far ends of longer strips are cut off before resizing
const BAND_PIXELS = 2 ** 20;

// Pillow resizes in integers: weights have 22 bits behind the point, and each pass rounds to 8 bits.
const WEIGHT_BITS = 22;
const ONE = 2 ** WEIGHT_BITS;
const HALF = ONE / 2;

const FILTERS = {
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, at: cubic },
};

/** The input tensor of one image: {data, dims} without the batch. */
export function preprocess(image, rule) {
  const fitted = fitToSize(image, rule);
  if (rule.normalised_inside) return { data: fitted, dims: [rule.height, rule.width, 3] };
  return { data: normalized(fitted, rule), dims: [3, rule.height, rule.width] };
}

/** The image resized to (height, width, 3), uint8; `crop` keeps the aspect ratio and cuts out the center. */
export function fitToSize(image, rule) {
  const { height, width, resize, crop_pct: cropShare } = rule;
  const whole = { left: 0, top: 0, width: image.width, height: image.height };
  if (resize === "squash") {
    return resized(image, whole, { width, height }, { left: 0, top: 0, width, height }, rule);
  }
  if (resize !== "crop") throw new Error(`resize is '${resize}', expected 'crop' or 'squash'`);
  const kept = withoutFarEnds(whole);
  const cover = coveringSize(kept, Math.trunc(width / cropShare), Math.trunc(height / cropShare));
  const left = roundedHalfToEven((cover.width - width) / 2);
  const top = roundedHalfToEven((cover.height - height) / 2);
  return resized(image, kept, cover, { left, top, width, height }, rule);
}

function normalized(fitted, rule) {
  const area = rule.height * rule.width;
  const tensor = new Float32Array(3 * area);
  for (let channel = 0; channel < 3; channel++) {
    const values = normalizedValues(rule.mean[channel], rule.std[channel]);
    for (let pixel = 0; pixel < area; pixel++) {
      tensor[channel * area + pixel] = values[fitted[3 * pixel + channel]];
    }
  }
  return tensor;
}

/** The normalized value of each byte. Every step is rounded to float32, as in NumPy. */
function normalizedValues(mean, std) {
  const [center, spread] = [Math.fround(mean), Math.fround(std)];
  return Float32Array.from({ length: 256 }, (_, byte) =>
    Math.fround(Math.fround(Math.fround(byte / 255) - center) / spread),
  );
}

function withoutFarEnds(box) {
  const width = Math.min(box.width, box.height * LONGEST_STRIP);
  const height = Math.min(box.height, box.width * LONGEST_STRIP);
  const left = Math.floor((box.width - width) / 2);
  const top = Math.floor((box.height - height) / 2);
  return { left, top, width, height };
}

function coveringSize(box, width, height) {
  if (width * box.height >= height * box.width) return { width, height: Math.floor((width * box.height) / box.width) };
  return { width: Math.floor((height * box.width) / box.height), height };
}

function roundedHalfToEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

/**
 * The part `window` of a box of the image that is resized to `size`. Pixels outside of `size` are black.
 * The image is read in bands, so that a large photo takes little memory.
 */
function resized(image, box, size, window, { interpolation, pillow }) {
  if (size.width < 1 || size.height < 1) throw new Error("height and width must be > 0");
  const across = weightsOf(box.width, size.width, window.left, window.width, interpolation);
  const down = weightsOf(box.height, size.height, window.top, window.height, interpolation);
  const source = { left: box.left + across.first, top: box.top + down.first, width: across.span, height: down.span };
  if (columnsFirst(box, size, pillow)) {
    const flat = emptyImage(source.width, window.height);
    for (const band of columnBands(source)) {
      paste(resizedColumns(read(image, band), down), flat, band.left - source.left, 0);
    }
    return resizedRows(flat, across).data;
  }
  const narrow = emptyImage(window.width, source.height);
  for (const band of rowBands(source)) paste(resizedRows(read(image, band), across), narrow, 0, band.top - source.top);
  return resizedColumns(narrow, down).data;
}

/** Pillow rounds to bytes between its two passes, and since version 13 some images are resized down their columns first. */
function columnsFirst(box, size, pillow) {
  return pillow >= 13 && size.height < box.height && box.height - size.height > 2 * (box.width - size.width);
}

function emptyImage(width, height) {
  return { width, height, data: new Uint8Array(3 * width * height) };
}

/** A rectangle of the image in RGB. */
function read(image, { left, top, width, height }) {
  const pixels = image.rows(left, top, width, height);
  const rgb = emptyImage(width, height);
  for (let from = 0, to = 0; from < pixels.length; from += 4) {
    rgb.data[to++] = pixels[from];
    rgb.data[to++] = pixels[from + 1];
    rgb.data[to++] = pixels[from + 2];
  }
  return rgb;
}

function paste(part, whole, left, top) {
  for (let row = 0; row < part.height; row++) {
    const pixels = part.data.subarray(3 * row * part.width, 3 * (row + 1) * part.width);
    whole.data.set(pixels, 3 * ((top + row) * whole.width + left));
  }
}

function* rowBands({ left, top, width, height }) {
  const most = Math.max(1, Math.floor(BAND_PIXELS / width));
  for (let done = 0; done < height; done += most) yield { left, top: top + done, width, height: Math.min(most, height - done) };
}

function* columnBands({ left, top, width, height }) {
  const most = Math.max(1, Math.floor(BAND_PIXELS / height));
  for (let done = 0; done < width; done += most) yield { left: left + done, top, width: Math.min(most, width - done), height };
}

function resizedRows(image, across) {
  const out = emptyImage(across.positions.length, image.height);
  let to = 0;
  for (let row = 0; row < image.height; row++) {
    for (const { start, weights } of across.positions) {
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      let from = 3 * (row * image.width + start);
      for (let index = 0; index < weights.length; index++, from += 3) {
        red += image.data[from] * weights[index];
        green += image.data[from + 1] * weights[index];
        blue += image.data[from + 2] * weights[index];
      }
      out.data[to++] = byteOf(red);
      out.data[to++] = byteOf(green);
      out.data[to++] = byteOf(blue);
    }
  }
  return out;
}

function resizedColumns(image, down) {
  const out = emptyImage(image.width, down.positions.length);
  const stride = 3 * image.width;
  const sums = new Float64Array(stride);
  down.positions.forEach(({ start, weights }, row) => {
    sums.fill(HALF);
    for (let index = 0; index < weights.length; index++) {
      const from = (start + index) * stride;
      for (let column = 0; column < stride; column++) sums[column] += image.data[from + column] * weights[index];
    }
    for (let column = 0; column < stride; column++) out.data[row * stride + column] = byteOf(sums[column]);
  });
  return out;
}

/** A sum of weighted bytes, rounded and clipped to 0..255. */
function byteOf(sum) {
  return Math.min(255, Math.max(0, Math.floor(sum / ONE)));
}

/**
 * The weights of a window of output positions: {positions: [{start, weights}], first, span}.
 * `start` counts from `first`, the first input that has a weight; `span` is the number of inputs from there on.
 */
function weightsOf(inSize, outSize, windowStart, count, interpolation) {
  const nearest = interpolation === "nearest" ? nearestPositions(inSize, outSize) : null;
  if (!nearest && !FILTERS[interpolation]) throw new Error(`interpolation is '${interpolation}'`);
  const positions = Array.from({ length: count }, (_, index) => {
    const position = windowStart + index;
    if (position < 0 || position >= outSize) return { start: 0, weights: new Int32Array(0) };
    if (nearest) return { start: nearest[position], weights: Int32Array.of(ONE) };
    return filterWeights(inSize, outSize, position, FILTERS[interpolation]);
  });
  const used = positions.filter(({ weights }) => weights.length);
  const first = used.length ? used[0].start : 0;
  const end = used.reduce((most, { start, weights }) => Math.max(most, start + weights.length), first);
  return { positions: positions.map((each) => ({ ...each, start: each.start - first })), first, span: end - first };
}

/** The nearest input position of each output position; the position is added up step by step, as in Pillow. */
function nearestPositions(inSize, outSize) {
  const step = inSize / outSize;
  const positions = new Int32Array(outSize);
  for (let index = 0, place = step * 0.5; index < outSize; index++, place += step) positions[index] = Math.floor(place);
  return positions;
}

/** The weights of one output position. A filter is widened when the image shrinks, against aliasing. */
function filterWeights(inSize, outSize, position, filter) {
  const scale = inSize / outSize;
  const widening = Math.max(scale, 1);
  const reach = filter.support * widening;
  const center = (position + 0.5) * scale;
  const start = Math.max(0, Math.trunc(center - reach + 0.5));
  const end = Math.min(inSize, Math.trunc(center + reach + 0.5));
  const step = 1 / widening;
  const real = Array.from({ length: end - start }, (_, index) => filter.at((index + start - center + 0.5) * step));
  const total = real.reduce((sum, weight) => sum + weight, 0);
  return { start, weights: Int32Array.from(real, (weight) => integerWeight(total === 0 ? weight : weight / total)) };
}

function integerWeight(weight) {
  return Math.trunc(weight * ONE + (weight < 0 ? -0.5 : 0.5));
}

/** Keys' cubic convolution with a = -0.5. */
function cubic(signed) {
  const a = -0.5;
  const x = Math.abs(signed);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}
