"use strict";

// The report: the map, the point that moves over it, and all parts put together.

const MAX_LISTED_SAMPLES = 200;
const MAX_LISTED_DIMENSIONS = 5;

const state = { z: new Float64Array(nz), axes: [0, Math.min(1, nz - 1)], focus: -1 };

// The map

const map = new LatentMap(find("samples"), find("point"), {
  onMove: (x, y) => {
    const z = Float64Array.from(state.z);
    z[state.axes[0]] = x;
    if (nz > 1) z[state.axes[1]] = y;
    moveTo(z);
  },
  onHover: (place) => focusOn(place < 0 ? nearestSample(state.z) : place),
});

/** Places on the map. A single latent dimension is a strip, in which the height has no meaning. */
function placeSamples() {
  const [first, second] = state.axes;
  const jitter = (_, place) => ((place * 0.618034) % 1) * 2 - 1;
  find("rings").hidden = !content.prior || nz === 1;
  map.place(column(first), nz > 1 ? column(second) : Float64Array.from(indices, jitter), {
    rings: content.prior && nz > 1,
    flat: nz === 1,
  });
  showPoint();
}

function showPoint() {
  map.movePoint(state.z[state.axes[0]], nz > 1 ? state.z[state.axes[1]] : 0);
}

/** Choices of the two latent dimensions on the map, if there are more. */
function buildAxes() {
  if (nz < 3) return;
  for (const [axis, label] of ["Across", "Up"].entries()) {
    const select = element("select");
    latentMeans.forEach((_, k) => select.append(element("option", { value: k }, `z${k}`)));
    select.value = state.axes[axis];
    select.disabled = Boolean(content.decoder.grid);
    select.addEventListener("change", () => {
      state.axes[axis] = Number(select.value);
      placeSamples();
    });
    find("axes").append(element("label", {}, `${label} `, select), " ");
  }
}

/** The samples of the map as a table to open, whose buttons move the point. */
function buildSampleTable() {
  const shown = Math.min(indices.length, MAX_LISTED_SAMPLES);
  const columns = Math.min(nz, MAX_LISTED_DIMENSIONS);
  const code = (place) => [...codeOf(place).subarray(0, columns)].map(formatCode);
  const line = (place) => [sampleButton(place), ...code(place), ...(scores ? [format(scores[place])] : [])];
  const head = ["sample", ...Array.from({ length: columns }, (_, k) => `z${k}`), ...(scores ? ["score"] : [])];
  const title = shown < indices.length ? `The first ${shown} samples as a table` : "The samples as a table";
  const build = () =>
    table(
      head,
      Array.from({ length: shown }, (_, place) => line(place)),
    );
  find("map-help").after(lazyDetails(title, build));
}

function buildButtons() {
  const actions = { "zoom-in": () => map.zoom(1.5), "zoom-out": () => map.zoom(1 / 1.5), reset: () => map.reset() };
  for (const [id, action] of Object.entries(actions)) find(id).addEventListener("click", action);
}

// The point and what it decodes to

/** Move the point to a latent code, and show what it decodes to. */
function moveTo(z) {
  state.z = Float64Array.from(z);
  showPoint();
  showDecoded(decode(state.z));
  showSliders();
  focusOn(nearestSample(state.z));
  announce();
}

/** Say where the point is, once it rests. */
function announce() {
  clearTimeout(state.timer);
  state.timer = setTimeout(() => {
    const code = [...state.z].map(formatCode).join(", ");
    find("status").textContent = `Latent code ${code}. Nearest: ${describe(state.focus)}.`;
  }, 400);
}

/** Show a sample beside the decoded one. */
function focusOn(place) {
  if (place === state.focus) return;
  state.focus = place;
  map.mark(place);
  showSample(place);
}

/** Say so where samples are decoded in advance. */
function explainGrid() {
  const { grid, reason } = content.decoder;
  if (!grid) return;
  const axes = grid.dimensions.map((k) => `z${k}`).join(" and ");
  const rest = nz > grid.dimensions.length ? " The other latent dimensions stay at their means." : "";
  const size = Array(grid.dimensions.length).fill(grid.side).join(" × ");
  const what = `It shows the nearest of ${size} latent codes along ${axes}, which were decoded in advance.`;
  find("precomputed").textContent = `Precomputed: ${reason} ${what}${rest}`;
  find("precomputed").hidden = false;
  state.axes = [grid.dimensions[0], grid.dimensions.at(-1)];
}

// All of it

function buildHeader() {
  const shown =
    indices.length < content.n_samples ? ` (${indices.length.toLocaleString("en")} of them on this page)` : "";
  const images = shape ? `, images of ${shape[1]} × ${shape[2]}` : "";
  find("title").textContent = content.title;
  const [samples, features] = [count(content.n_samples, "sample"), count(n_features, "feature")];
  find("summary").textContent = `${samples}${shown}, ${features}${images}, ${count(nz, "latent dimension")}`;
  find("footer").textContent =
    `Written by sklatent ${Object.fromEntries(content.versions).sklatent}. This file loads nothing from the network.`;
}

function buildDecoded() {
  if (shape) buildImageView();
  else if (n_features <= MAX_LISTED) buildListView();
  else buildProfileView();
  drawings.push(() => {
    showDecoded(decode(state.z));
    showSample(state.focus);
  });
}

/** A change of the theme or of the grey scale draws everything anew. */
function watchTheme() {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  find("inverting").hidden = !shape || shape[0] !== 1;
  find("invert").addEventListener("change", () => {
    inverted = find("invert").checked;
    redraw();
  });
}

buildHeader();
explainGrid();
buildAxes();
buildButtons();
buildDecoded();
buildSliders();
buildColouring();
buildSampleTable();
placeSamples();
moveTo(codeOf(nearestSample(latentMeans)));
buildSections();
watchTheme();
redraw();
