"use strict";

// What Python has collected: the samples, and what they can be coloured by.

const content = JSON.parse(document.getElementById("content").textContent);
const { nz, n_features, image_shape: shape, feature_names: names, range } = content;
const codes = unpack(content.codes); // (n_points, nz)
const indices = unpack(content.indices);
const scores = content.scores && unpack(content.scores);
const decode = makeDecoder(content.decoder, n_features);
const carried = new Map([...unpack(content.samples.places)].map((place, line) => [place, line]));
const carriedValues = shape ? unpackPictures(content.samples.values) : unpack(content.samples.values);
const spread = content.spread.map((value) => value || 1);

const find = (id) => document.getElementById(id);
const grey = () => greys(range);

// Samples

/** The latent code of a sample on the page. */
function codeOf(place) {
  return codes.subarray(place * nz, (place + 1) * nz);
}

/** The values of a sample, or null if the file does not carry them. */
function valuesOf(place) {
  if (!carried.has(place)) return null;
  const line = carried.get(place);
  return carriedValues.subarray(line * n_features, (line + 1) * n_features);
}

function describe(place) {
  const { classes, members, quantity } = colouringOfY;
  const label = classes ? `, ${classes[members[place]]}` : quantity ? `, y = ${format(quantity[place])}` : "";
  return `Sample ${indices[place]}${label}`;
}

/** The sample whose latent code is nearest, in standard deviations of each latent dimension. */
function nearestSample(z) {
  let [best, nearest] = [0, Infinity];
  for (let place = 0; place < indices.length; place++) {
    let distance = 0;
    for (let k = 0; k < nz; k++) distance += ((codes[place * nz + k] - z[k]) / latentSpread[k]) ** 2;
    if (distance < nearest) [best, nearest] = [place, distance];
  }
  return best;
}

function column(k) {
  return Float64Array.from(indices, (_, place) => codes[place * nz + k]);
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function standardDeviation(values) {
  const centre = mean(values);
  return Math.sqrt(mean(values.map((value) => (value - centre) ** 2)));
}

const latentMeans = Array.from({ length: nz }, (_, k) => mean(column(k)));
const latentSpread = Array.from({ length: nz }, (_, k) => standardDeviation(column(k)) || 1);

/** A coordinate of a latent code as text; what is 0 but for rounding is 0. */
function formatCode(value, k) {
  return format(Math.abs(value) < 1e-3 * latentSpread[k] ? 0 : value, 3);
}

// Colours

function unpackColouring(packed) {
  if (!packed) return {};
  return packed.classes
    ? { classes: packed.classes, members: unpack(packed.members) }
    : { quantity: unpack(packed.quantity) };
}

const colouringOfY = unpackColouring(content.colouring);

/** What the samples can be coloured by: names, and functions that colour them and explain the colours. */
function colourings() {
  const found = [];
  const { classes, quantity } = colouringOfY;
  if (classes) found.push(["label", showClasses]);
  if (quantity) found.push(["y", () => showQuantity(quantity, "y")]);
  if (scores) found.push(["score", () => showQuantity(scores, "score (nats)")]);
  found.push(["none", () => showColours(() => content.colours[0])]);
  if (!shape) names.forEach((name, j) => found.push([name, () => showQuantity(featureColumn(j), name)]));
  return found;
}

function featureColumn(j) {
  return Float64Array.from(indices, (_, place) => (carried.has(place) ? valuesOf(place)[j] : NaN));
}

function showColours(colourAt, faint = null, ...legend) {
  map.colour(
    Array.from(indices, (_, place) => colourAt(place)),
    faint,
  );
  find("legend").replaceChildren(...legend);
}

/** More classes than colours follow the scale of a quantity. */
function classColour(k) {
  const { classes } = colouringOfY;
  return classes.length <= content.colours.length ? content.colours[k] : css(viridis(k / (classes.length - 1)));
}

function css(rgb) {
  return `rgb(${rgb.join(", ")})`;
}

/** Classes have a legend, whose buttons bring one of them to the front. */
function showClasses(chosen = null) {
  const { classes, members } = colouringOfY;
  const chips = classes.map((label, k) =>
    chip(label, classColour(k), chosen === k, () => showClasses(chosen === k ? null : k)),
  );
  const faint = chosen === null ? null : Array.from(members, (k) => k !== chosen);
  showColours((place) => classColour(members[place]), faint, ...chips);
}

function chip(label, colour, pressed, onClick) {
  const dot = element("span", { class: "dot", "aria-hidden": "true" });
  dot.style.background = colour;
  const made = element("button", { type: "button", class: "chip", "aria-pressed": String(pressed) }, dot, label);
  made.addEventListener("click", onClick);
  return made;
}

/** The scale of a quantity covers all but 1 % of the samples at either side; values that are missing are grey. */
function showQuantity(values, label) {
  const sorted = Float64Array.from(values).filter(Number.isFinite).sort();
  const ends = [0.01, 0.99].map((part) => sorted[Math.round(part * (sorted.length - 1))] ?? 0);
  const scale = element("span", { class: "scale", "aria-hidden": "true" });
  scale.style.background = `linear-gradient(to right, ${VIRIDIS.join(", ")})`;
  const colourAt = (place) =>
    Number.isFinite(values[place]) ? css(viridis(fraction(values[place], ends))) : "#94a4a2";
  showColours(
    colourAt,
    null,
    element("span", {}, label),
    element("span", {}, format(ends[0])),
    scale,
    element("span", {}, format(ends[1])),
  );
}

function buildColouring() {
  const choices = colourings();
  const select = find("colouring");
  choices.forEach(([name], i) => select.append(element("option", { value: i }, name)));
  const show = () => choices[select.value][1]();
  select.addEventListener("change", show);
  drawings.push(show);
}
