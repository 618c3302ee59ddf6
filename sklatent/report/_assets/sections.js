"use strict";

// The figures below the map: each function makes one section of the page.

/** A button with the name of a sample, which moves the point to its latent code. */
function sampleButton(place) {
  const button = element("button", { type: "button", class: "link" }, describe(place));
  button.addEventListener("click", () => {
    moveTo(codeOf(place));
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    find("map-title").scrollIntoView({ behavior: calm ? "auto" : "smooth" });
  });
  return button;
}

function screeSection() {
  const columns = screeColumns();
  const rows = content.scree.values.map((_, k) => columns.map(([, cells]) => cells[k]));
  const numbers = table(
    columns.map(([head]) => head),
    rows,
  );
  const chart = element("div", { class: "scroll" }, barChart(content.scree));
  return section("Latent dimensions", screeNote(), chart, details("As a table", numbers));
}

/** Columns of the table, each with its head and a cell for each latent dimension. */
function screeColumns() {
  const { values, label, active, fractions, noise } = content.scree;
  const columns = [
    ["latent dimension", values.map((_, k) => `z${k}`)],
    [label, values.map((value) => format(value))],
  ];
  if (fractions?.length) columns.push(["fraction of the variance", fractions.map((part) => format(part, 3))]);
  if (noise) columns.push(["noise", noise.map((value) => format(value))]);
  if (active) columns.push([noise ? "above noise" : "active", active.map((is) => (is ? "yes" : "no"))]);
  return columns;
}

function screeNote() {
  const { label, active, fractions = [], noise } = content.scree;
  const total = format(100 * fractions.reduce((sum, part) => sum + part, 0), 3);
  const parts = [`Bars: ${label}.`];
  if (fractions.length > 1) parts.push(`Line: cumulative fraction of the variance, up to ${total} %.`);
  if (noise) parts.push("Dashes: 95 % quantile of the same without correlations (Horn's parallel analysis).");
  const kind = noise ? "above noise" : "active";
  if (active) parts.push(`${active.filter(Boolean).length} of ${count(nz, "latent dimension")} ${kind}.`);
  return parts.join(" ");
}

const CURVES = {
  train_loss: ["loss", "loss"],
  train_reconstruction: ["reconstruction loss", "part"],
  valid_loss: ["loss of the validation set", "valid"],
};

function lossesSection() {
  const { curves: named, warmup } = content.losses;
  const curves = named.map(([name, values]) => ({ name: CURVES[name][0], kind: CURVES[name][1], values }));
  const last = curves[0].values.length - 1;
  const note =
    `Nats per sample over ${count(last + 1, "epoch")}.` +
    (warmup ? ` Shaded: the warm-up of the KL divergence, ${count(warmup, "epoch")}.` : "");
  const keys = curves.map(({ name, kind, values }) =>
    element("span", { class: `key ${kind}` }, `${name}, ${format(values[last])} at the end`),
  );
  const epochs = curves[0].values.map((_, i) => [`${i + 1}`, ...curves.map(({ values }) => format(values[i]))]);
  return section(
    "Training",
    note,
    lineChart(curves, warmup, "Losses over the epochs; the table has the numbers"),
    element("p", { class: "keys" }, ...keys),
    lazyDetails("Losses as a table", () => table(["epoch", ...curves.map(({ name }) => name)], epochs)),
  );
}

function loadingsSection() {
  const { dimensions, pictures, features, values } = content.loadings;
  const heads = dimensions.map((k) => content.latent_names[k]);
  if (pictures) {
    const images = split(unpackPictures(pictures), n_features);
    const channelShape = [1, shape[0] * shape[1], shape[2]]; // channels below one another
    const figures = images.map((image, i) =>
      element(
        "figure",
        {},
        picture(image, channelShape, `Loadings of z${dimensions[i]}`, () => signed(pictures.high)),
        element("figcaption", {}, heads[i]),
      ),
    );
    return section(
      "Loadings",
      "Mean change of each pixel for one standard deviation of the latent dimension: blue up, orange down.",
      element("div", { class: "gallery" }, ...figures),
    );
  }
  const limit = Math.max(...values.flat().map(Math.abs)) || 1;
  const cell = (value) =>
    element(
      "span",
      { class: "cell" },
      signedBar(value, limit),
      element("span", {}, value === null ? "missing" : value.toFixed(2).replace("-", MINUS)),
    );
  const rows = features.map((j, i) => [names[j], ...values.map((line) => cell(line[i]))]);
  const note =
    "Mean change of each feature, in its standard deviations, for one standard deviation of the latent dimension." +
    (features.length < n_features ? ` The ${features.length} features with the largest loadings.` : "");
  return section(
    "Loadings",
    note,
    element("div", { class: "scroll" }, table(["feature", ...heads], rows, { class: "profile" })),
  );
}

/** Parts of equal length. */
function split(values, length) {
  return Array.from({ length: values.length / length }, (_, i) => values.subarray(i * length, (i + 1) * length));
}

function traversalSection() {
  const { dimensions, grid, codes: steps, pictures } = content.traversals;
  const note =
    "Latent dimensions move over the central 95 % of a normal density with their means and standard deviations" +
    (grid
      ? `: z${dimensions[0]} from left to right, z${dimensions[1]} upwards.`
      : ", while the others stay at their means.");
  const body = pictures
    ? imageTraversals(unpackPictures(pictures), grid, dimensions)
    : tableTraversals(dimensions, steps);
  return section("Traversals", note, body);
}

function imageTraversals(values, grid, dimensions) {
  const n_steps = content.traversals.codes[0].length;
  const lines = split(values, n_features * n_steps).map((line, i) => {
    const label = grid ? "" : content.latent_names[dimensions[i]];
    const images = split(line, n_features).map((x, step) =>
      picture(x, shape, `Decoded, step ${step + 1} of ${n_steps}`, grey, range),
    );
    return element(
      "div",
      { class: "strip" },
      ...(grid ? [] : [element("span", { class: "strip-name" }, label)]),
      ...images,
    );
  });
  return element("div", { class: grid ? "traversal grid" : "traversal" }, ...lines);
}

/** For each latent dimension, features over steps, coloured by standard deviations from the mean. */
function tableTraversals(dimensions, steps) {
  const { features, values } = content.traversals;
  const lines = split(unpack(values), features.length); // for each step of each latent dimension
  const n_steps = steps[0].length;
  const made = dimensions.map((k, i) => {
    const head = [content.latent_names[k], ...steps[i].map((code) => formatCode(code, k))];
    const rows = features.map((j, column) => [
      names[j],
      ...lines.slice(i * n_steps, (i + 1) * n_steps).map((line) => heatCell(line[column], j)),
    ]);
    return element("div", { class: "scroll" }, table(head, rows, { class: "heat" }));
  });
  return element("div", {}, ...made);
}

function heatCell(value, j) {
  const cell = element("span", { class: "heat-cell" }, format(value, 3));
  const strength = Math.min(Math.abs(standardized(value, j)) / PROFILE_SPAN, 1);
  const rgb = channels(value < content.loc[j] ? NEGATIVE : POSITIVE);
  cell.style.background = `rgba(${rgb.join(", ")}, ${0.75 * strength})`;
  return cell;
}

/** Samples with pictures of themselves, or with the features that stand out. */
function casesSection(title, note, cases, figureName, amountName) {
  const body = cases.reasons ? reasonsTable(cases, figureName, amountName) : caseGallery(cases, figureName, amountName);
  return section(title, note, body);
}

function caseGallery(cases, figureName, amountName) {
  const [samples, copies, amounts] = ["samples", "reconstructions", "amounts"].map((part) =>
    split(unpackPictures(cases[part]), n_features),
  );
  const figures = cases.places.map((place, i) => {
    const images = [
      picture(samples[i], shape, "Sample", grey, range),
      picture(copies[i], shape, "Reconstruction", grey, range),
    ];
    if (shape[0] === 1) images.push(picture(amounts[i], shape, amountName, () => signed(cases.amounts.high)));
    return element(
      "figure",
      {},
      element("div", { class: "triple" }, ...images),
      element("figcaption", {}, sampleButton(place), element("span", {}, `${figureName} ${format(cases.figures[i])}`)),
    );
  });
  return element("div", { class: "cases" }, ...figures);
}

function reasonsTable(cases, figureName, amountName) {
  const rows = cases.places.map((place, i) => [
    sampleButton(place),
    format(cases.figures[i]),
    reasonList(cases.reasons[i], amountName),
  ]);
  return element(
    "div",
    { class: "scroll" },
    table(["sample", figureName, "features that stand out"], rows, { class: "reasons" }),
  );
}

function reasonList(reasons, amountName) {
  const lines = reasons.map(([j, value, copy, amount]) => {
    const text = `${format(value)}, decoded ${format(copy)}, ${amountName} ${format(amount, 3)}`;
    return element("li", {}, element("strong", {}, names[j]), " ", text);
  });
  return element("ul", {}, ...lines);
}

function worstSection() {
  const unit = shape ? "squared units of the pixels" : "squared standard deviations of the features";
  const note =
    `The largest squared errors, in ${unit}.` +
    (shape ? " Sample, reconstruction and their difference: blue where the sample is higher." : "");
  return casesSection("Worst reconstructions", note, content.worst, "squared error", shape ? "Difference" : "residual");
}

function surprisingSection() {
  const { in_nats } = content.surprising;
  const what = in_nats
    ? "log-likelihood of a value given the others, less its mean over the samples, in nats"
    : `residuals in ${shape ? "units of the pixels" : "standard deviations of the features"}`;
  const meaning = in_nats ? "orange where a pixel is improbable" : "blue where the sample is higher";
  const pictures = `Sample, reconstruction and what stands out, ${meaning}`;
  const note = `The lowest scores. ${shape ? pictures : "What stands out"}: ${what}.`;
  return casesSection("Most surprising samples", note, content.surprising, "score", in_nats ? "nats" : "residual");
}

function parametersSection() {
  const versions = content.versions.map(([name, version]) => `${name} ${version}`).join(", ");
  return section(
    "Parameters and versions",
    versions,
    element("div", { class: "scroll parameters" }, table(["parameter", "value"], content.parameters)),
  );
}

/** The sections in their order; narrow ones stand beside one another where the window is wide. */
function orderedSections() {
  const { traversals, loadings, losses, surprising } = content;
  const scree = [screeSection(), "half"];
  const training = [losses && lossesSection(), "half"];
  const spread = [loadings && loadingsSection(), shape ? "half" : ""];
  const travel = [traversals && traversalSection(), traversals?.grid ? "half tall" : ""];
  const cases = [worstSection(), surprising && surprisingSection()].map((part) => [part, shape ? "" : "half"]);
  if (!shape) return [scree, training, [parametersSection(), losses ? "" : "half"], spread, travel, ...cases];
  const figures = traversals?.grid ? [travel, spread] : [spread, travel];
  return [scree, ...figures, ...cases, training, [parametersSection(), losses ? "half" : ""]];
}

function buildSections() {
  for (const [part, width] of orderedSections().filter(([part]) => part)) {
    part.className = `card ${width}`;
    find("sections").append(part);
  }
}
