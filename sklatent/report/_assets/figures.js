"use strict";

// Pictures, bars and tables. Text from the data only ever becomes text nodes.

/** Values from low to high as colours of equal steps (matplotlib's viridis, by Smith & van der Walt, CC0). */
const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
const [NEGATIVE, POSITIVE] = ["#e76300", "#3f90da"];
const MINUS = "\u2212";

/** Functions that draw what depends on the colours of the theme; called again when these change. */
const drawings = [];
let inverted = false;

function redraw() {
  drawings.forEach((draw) => draw());
}

/** An element with attributes and children, of which strings become text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function svgElement(tag, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

/** A number of a few digits, with a true minus sign. */
function format(value, digits = 4) {
  if (value === null || Number.isNaN(value)) return "missing";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : `${MINUS}∞`;
  const size = Math.abs(value);
  const text =
    size >= 1e6 || (size < 1e-4 && size > 0) ? value.toExponential(digits - 1) : String(+value.toPrecision(digits));
  return text.replace("-", MINUS);
}

function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

function themeColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function channels(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

/** The colour between two others. */
function mix(from, to, t) {
  return from.map((value, i) => Math.round(value + (to[i] - value) * t));
}

/** The colour of a fraction from 0 to 1, as channels. */
function viridis(t) {
  const place = Math.min(Math.max(t, 0), 1) * (VIRIDIS.length - 1);
  const before = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return mix(channels(VIRIDIS[before]), channels(VIRIDIS[before + 1]), place - before);
}

/** The fraction of the way from low to high, within 0 and 1; 0 if there is no way. */
function fraction(value, [low, high]) {
  return high > low ? Math.min(Math.max((value - low) / (high - low), 0), 1) : 0;
}

/** Colours of grey levels: the paper for the lowest value, the ink for the highest. */
function greys(range) {
  const ends = [themeColour("--paper"), themeColour("--ink")].map(channels);
  const [low, high] = inverted ? ends.reverse() : ends;
  return (value) => mix(low, high, fraction(value, range));
}

/** Colours of signed values: orange below 0, the paper at 0, and blue above. */
function signed(limit) {
  const paper = channels(themeColour("--paper"));
  return (value) => mix(paper, channels(value < 0 ? NEGATIVE : POSITIVE), fraction(Math.abs(value), [0, limit]));
}

/** Draw an image of one or three channels, a pixel each; missing values stay transparent. */
function paint(canvas, values, [n_channels, height, width], colour, range) {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const area = height * width;
  const pixels = new ImageData(width, height);
  for (let i = 0; i < area; i++) {
    if (Number.isNaN(values[i])) continue;
    const rgb =
      n_channels === 3 ? [0, 1, 2].map((k) => 255 * fraction(values[k * area + i], range)) : colour(values[i]);
    pixels.data.set([...rgb, 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** A canvas with an image, described for those who do not see it. `makeColour` asks the theme each time. */
function picture(values, shape, label, makeColour, range) {
  const canvas = element("canvas", { role: "img", "aria-label": label, class: "picture" });
  const draw = () => paint(canvas, values, shape, makeColour(), range);
  drawings.push(draw);
  draw();
  return canvas;
}

/** A table with a head, whose cells are texts or elements. */
function table(head, rows, attributes = {}) {
  const line = (cells, tag) =>
    element("tr", {}, ...cells.map((cell) => element(tag, tag === "th" ? { scope: "col" } : {}, cell)));
  const body = element("tbody", {}, ...rows.map((cells) => line(cells, "td")));
  return element("table", attributes, element("thead", {}, line(head, "th")), body);
}

/** A bar from the middle, to the left for negative values and to the right for others. */
function signedBar(value, limit) {
  const bar = element("span", { class: "bar" });
  const track = element("span", { class: "track", "aria-hidden": "true" }, bar);
  setBar(bar, value, limit);
  return track;
}

function setBar(bar, value, limit) {
  const width = 50 * fraction(Math.abs(value), [0, limit]);
  bar.style.width = `${width}%`;
  bar.style.left = `${value < 0 ? 50 - width : 50}%`;
  bar.style.background = value < 0 ? NEGATIVE : POSITIVE;
}

/** Bars over the latent dimensions, with a line of cumulative fractions and marks of noise if there are any. */
function barChart({ values, active, fractions = [], noise = [], label }) {
  const [width, height, left, bottom] = [Math.max(280, 60 + 26 * values.length), 190, 8, 22];
  const step = (width - 2 * left) / values.length;
  const top = Math.max(...values, ...noise) || 1;
  const chart = svgElement("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": `${label}; the table has the numbers`,
    class: "chart",
  });
  const y = (value) => height - bottom - (Math.max(value, 0) / top) * (height - bottom - 16);
  const x = (k) => left + step * (k + 0.5);
  values.forEach((value, k) => {
    const kind = active && !active[k] ? "column idle" : "column";
    chart.append(
      svgElement("rect", {
        x: x(k) - 0.36 * step,
        width: 0.72 * step,
        y: y(value),
        height: height - bottom - y(value),
        class: kind,
      }),
    );
    if (step > 18 || k % 5 === 0)
      chart.append(svgElement("text", { x: x(k), y: height - 6, "text-anchor": "middle" }, `z${k}`));
  });
  if (step > 40)
    values.forEach((value, k) =>
      chart.append(svgElement("text", { x: x(k), y: y(value) - 4, "text-anchor": "middle" }, format(value, 3))),
    );
  noise.forEach((value, k) =>
    chart.append(
      svgElement("line", { x1: x(k) - 0.45 * step, x2: x(k) + 0.45 * step, y1: y(value), y2: y(value), class: "mark" }),
    ),
  );
  appendCumulative(chart, fractions, x, (part) => y(part * top));
  return chart;
}

/** The lowest and the highest of the values that are to be seen: the first ones may be far higher than the others. */
function settledRange(curves) {
  const later = curves.flatMap((values) => values.slice(Math.ceil(values.length / 10)));
  const shown = (later.length ? later : curves.flat()).filter((value) => value !== null);
  const [low, high] = [Math.min(...shown), Math.max(...shown)];
  return high > low ? [low, high] : [low - 0.5, low + 0.5];
}

/** Curves over the epochs, each with its name and a class for its style; the epochs of a warm-up are shaded. */
function lineChart(curves, warmup, label) {
  const [width, height, left, right, top, bottom] = [560, 210, 56, 12, 10, 24];
  const n_epochs = curves[0].values.length;
  const [low, high] = settledRange(curves.map(({ values }) => values));
  const x = (epoch) => left + ((width - left - right) * (epoch - 1)) / Math.max(n_epochs - 1, 1);
  const y = (value) => height - bottom - (height - top - bottom) * ((value - low) / (high - low));
  const attributes = { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "chart" };
  const chart = svgElement("svg", attributes);
  const frame = { x: left, y: top, width: width - left - right, height: height - top - bottom };
  const area = svgElement("svg", { ...frame, viewBox: Object.values(frame).join(" ") });
  if (warmup) area.append(svgElement("rect", { ...frame, width: x(Math.max(warmup, 1)) - left, class: "warm-up" }));
  for (const { values, kind } of curves) {
    const points = values.flatMap((value, i) => (value === null ? [] : [`${x(i + 1)},${y(value)}`])).join(" ");
    area.append(svgElement("polyline", { points, class: `curve ${kind}` }));
  }
  chart.append(area);
  for (const value of [low, high]) {
    chart.append(svgElement("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, format(value)));
  }
  for (const epoch of new Set([1, n_epochs])) {
    chart.append(svgElement("text", { x: x(epoch), y: height - 6, "text-anchor": "middle" }, `${epoch}`));
  }
  return chart;
}

function appendCumulative(chart, fractions, x, y) {
  let sum = 0;
  const points = fractions.map((part, k) => `${x(k)},${y((sum += part))}`);
  if (points.length > 1) chart.append(svgElement("polyline", { points: points.join(" "), class: "cumulative" }));
}

/** Something to open, below a figure. */
function details(summary, ...children) {
  return element("details", {}, element("summary", {}, summary), ...children);
}

/** The same, with a body that is built when it is opened for the first time. */
function lazyDetails(summary, build) {
  const made = details(summary);
  const body = element("div", { class: "scroll tall-table" });
  made.append(body);
  made.addEventListener("toggle", () => body.append(build()), { once: true });
  return made;
}

/** A part of the page with a title and a sentence about what it shows. */
function section(title, note, ...children) {
  const id = `section-${title.toLowerCase().replaceAll(" ", "-")}`;
  const heading = element("h2", { id }, title);
  return element(
    "section",
    { class: "card", "aria-labelledby": id },
    heading,
    element("p", { class: "note" }, note),
    ...children,
  );
}
