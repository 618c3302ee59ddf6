"use strict";

// What the point decodes to, beside the sample below the pointer or nearest to it: an image, a list or a profile.

const MAX_LISTED = 24; // features that are listed one below another; more are a profile, and a table to open
const PROFILE_SPAN = 3; // standard deviations at either side of a profile or a bar

/** Show a decoded sample, and one of the samples by its place; defined for images, few features or many. */
let showDecoded, showSample;

function caption(place) {
  return scores ? `${describe(place)}, score ${format(scores[place])}` : describe(place);
}

/** Images: the decoded one, and the sample below the pointer, or nearest to the point, with its reconstruction. */
function buildImageView() {
  const canvases = ["Decoded image", "Sample", "Reconstruction"].map((label) =>
    element("canvas", { role: "img", "aria-label": label, class: "picture" }),
  );
  const [large, original, copy] = canvases;
  const text = element("p", { class: "caption" });
  const figure = (canvas, label) => element("figure", {}, canvas, element("figcaption", {}, label));
  const pair = element("div", { class: "pair" }, figure(original, "sample"), figure(copy, "reconstruction"));
  const { list, update } = decodedTable();
  find("decoded").append(element("div", { class: "large" }, large), element("div", {}, text, pair), list);
  showDecoded = (x) => {
    paint(large, x, shape, grey(), range);
    update(x);
  };
  showSample = (place) => {
    text.textContent = caption(place);
    paint(original, valuesOf(place) ?? new Float64Array(n_features).fill(NaN), shape, grey(), range);
    original.parentElement.hidden = !carried.has(place);
    paint(copy, decode(codeOf(place)), shape, grey(), range);
  };
}

/** Few features: a bar for each, in standard deviations from the mean, with a tick for the sample. */
function buildListView() {
  const lines = names.map((name) => {
    const [track, tick] = [signedBar(0, 1), element("span", { class: "tick" })];
    track.append(tick);
    return { bar: track.firstChild, tick, decoded: element("span"), sample: element("span"), cells: [name, track] };
  });
  const text = element("p", { class: "caption" });
  const rows = lines.map(({ cells, decoded, sample }) => [...cells, decoded, sample]);
  const note = `Bars: from the mean of the feature, up to ${PROFILE_SPAN} standard deviations. Ticks: the sample.`;
  find("decoded").append(
    text,
    table(["feature", "", "decoded", "sample"], rows, { class: "profile wide" }),
    element("p", { class: "note" }, note),
  );
  showDecoded = (x) =>
    lines.forEach((line, j) => {
      setBar(line.bar, standardized(x[j], j), PROFILE_SPAN);
      line.decoded.textContent = format(x[j]);
    });
  showSample = (place) => {
    const x = valuesOf(place);
    text.textContent = caption(place);
    lines.forEach(({ tick, sample }, j) => {
      tick.hidden = !x || Number.isNaN(x[j]);
      sample.textContent = x ? format(x[j]) : "";
      if (x) tick.style.left = `${50 + 50 * withinSpan(x[j], j)}%`;
    });
  };
}

/** Standard deviations of a value from the mean of its feature. */
function standardized(value, j) {
  return (value - content.loc[j]) / spread[j];
}

/** The same from -1 to 1, for what is shown; missing values are at the mean. */
function withinSpan(value, j) {
  return Math.max(-1, Math.min(1, standardized(value, j) / PROFILE_SPAN || 0));
}

/** Many features: a profile over them, and a table to open. */
function buildProfileView() {
  const [width, height] = [480, 220];
  const chart = svgElement("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": "Decoded features, in standard deviations from their means",
    class: "chart",
  });
  const [original, decoded] = ["sample-line", "decoded-line"].map((kind) => svgElement("polyline", { class: kind }));
  const text = element("p", { class: "caption" });
  chart.append(
    svgElement("line", { x1: 0, x2: width, y1: height / 2, y2: height / 2, class: "axis" }),
    original,
    decoded,
  );
  const span = `From ${MINUS}${PROFILE_SPAN} to ${PROFILE_SPAN} standard deviations about the mean`;
  const note = `${span} of each of ${n_features} features. Wide line: the sample.`;
  const { list, update } = decodedTable();
  find("decoded").append(text, chart, element("p", { class: "note" }, note), list);
  const pointOf = (value, j) => `${(j / (n_features - 1)) * width},${(height / 2) * (1 - withinSpan(value, j))}`;
  const points = (x) => Array.from(x, pointOf).join(" ");
  showDecoded = (x) => {
    decoded.setAttribute("points", points(x));
    update(x);
  };
  showSample = (place) => {
    text.textContent = caption(place);
    original.setAttribute("points", valuesOf(place) ? points(valuesOf(place)) : "");
  };
}

/** The decoded values as a table to open, which follows the point while it is open. */
function decodedTable() {
  const cells = [];
  const list = lazyDetails("Decoded values as a table", () => {
    cells.push(...names.map(() => element("span")));
    return table(
      ["feature", "decoded"],
      names.map((name, j) => [name, cells[j]]),
    );
  });
  const update = (x) => list.open && cells.forEach((cell, j) => (cell.textContent = format(x[j])));
  list.addEventListener("toggle", () => update(decode(state.z)));
  return { list, update };
}

const sliders = [];

/** A slider for each latent dimension, which also tells the latent code of the point. */
function buildSliders() {
  content.latent_names.forEach((name, k) => {
    const [low, high] = paddedRange(column(k), 0.25);
    const slider = element("input", { type: "range", min: low, max: high, step: (high - low) / 400 });
    const output = element("output");
    slider.disabled = Boolean(content.decoder.grid) && !content.decoder.grid.dimensions.includes(k);
    slider.addEventListener("input", () => moveTo(state.z.map((value, i) => (i === k ? Number(slider.value) : value))));
    find("sliders").append(
      element("label", { class: "slider", title: name }, element("span", {}, `z${k}`), slider, output),
    );
    sliders.push({ slider, output });
  });
}

function showSliders() {
  sliders.forEach(({ slider, output }, k) => {
    if (document.activeElement !== slider) slider.value = state.z[k];
    output.textContent = formatCode(state.z[k], k);
  });
}
