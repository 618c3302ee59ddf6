"use strict";

// The decoder of the model: from a latent code to E[x | z], as `inverse_transform` computes it. Numbers are double
// precision, and weights float32. A layer is an object from Python with the key "kind", and becomes a function.

const TYPES = { "<f4": Float32Array, "<f8": Float64Array, "<i4": Int32Array, "|u1": Uint8Array };

/** The numbers of an array that Python has packed. */
function unpack({ dtype, data }) {
  const text = atob(data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new TYPES[dtype](bytes.buffer);
}

/** The values of pictures from their levels; NaN where a value is missing. */
function unpackPictures(packed) {
  const step = (packed.high - packed.low) / 254;
  return Float64Array.from(unpack(packed), (level) => (level === 255 ? NaN : packed.low + step * level));
}

/** The error function; the absolute error is at most 1.5e-7 (Abramowitz & Stegun 1964, 7.1.26). */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

/** coth(u) - 1 / u: a series below 0.1, where the difference cancels. */
function langevin(u) {
  if (Math.abs(u) < 0.1) return u / 3 - u ** 3 / 45 + (2 * u ** 5) / 945 - u ** 7 / 4725;
  return 1 / Math.tanh(u) - 1 / u;
}

const functions = {
  relu: (h) => Math.max(h, 0),
  silu: (h) => h / (1 + Math.exp(-h)),
  tanh: Math.tanh,
  gelu: (h) => 0.5 * h * (1 + erf(h / Math.SQRT2)),
  sigmoid: (eta) => 1 / (1 + Math.exp(-eta)),
  exp: Math.exp,
  continuous_bernoulli: (eta) => 0.5 + 0.5 * langevin(eta / 2),
};

const layers = {
  linear({ n_out, weight, bias }) {
    const W = unpack(weight);
    const b = bias ? unpack(bias) : new Float32Array(n_out);
    return (x) => {
      const y = Float64Array.from(b);
      for (let i = 0, k = 0; i < n_out; i++) for (let j = 0; j < x.length; j++) y[i] += W[k++] * x[j];
      return y;
    };
  },

  affine({ block, scale, shift }) {
    const [a, b] = [unpack(scale), unpack(shift)];
    return (x) => x.map((value, i) => a[Math.floor(i / block)] * value + b[Math.floor(i / block)]);
  },

  convolution({ stride, size, kernel, out, weight, bias }) {
    const W = unpack(weight);
    const b = bias ? unpack(bias) : new Float32Array(out[0]);
    const area = out[1] * out[2];
    return (x) => {
      const y = new Float64Array(out[0] * area).map((_, i) => b[Math.floor(i / area)]);
      x.forEach((value, i) => addKernels(y, value, W, i, { stride, size, kernel, out }));
      return y;
    };
  },

  crop({ shape, left, top, size }) {
    return (x) => {
      const y = new Float64Array(shape[0] * size[0] * size[1]);
      for (let i = 0; i < y.length; i++) {
        const [row, column] = [Math.floor(i / size[1]), i % size[1]];
        const [channel, line] = [Math.floor(row / size[0]), row % size[0]];
        y[i] = x[(channel * shape[1] + line + top) * shape[2] + column + left];
      }
      return y;
    };
  },

  function:
    ({ name }) =>
    (x) =>
      x.map(functions[name]),
};

/** Add one input of a transposed convolution to all outputs: its value times a kernel for each output channel. */
function addKernels(y, value, W, i, { stride, size, kernel, out }) {
  if (value === 0) return;
  const [, n_out, height, width] = kernel;
  const place = i % (size[0] * size[1]);
  const corner = Math.floor(place / size[1]) * stride[0] * out[2] + (place % size[1]) * stride[1];
  let k = Math.floor(i / (size[0] * size[1])) * n_out * height * width;
  for (let channel = 0; channel < n_out; channel++) {
    for (let line = 0; line < height; line++) {
      const start = (channel * out[1] + line) * out[2] + corner;
      for (let column = 0; column < width; column++) y[start + column] += value * W[k++];
    }
  }
}

/** A decoder that knows samples on a grid only, and returns that of the nearest latent code. */
function gridDecoder({ dimensions, low, high, side, values }, n_features) {
  const samples = values.dtype === "|u1" ? unpackPictures(values) : unpack(values);
  return (z) => {
    let number = 0;
    dimensions.forEach((dimension, axis) => {
      const place = Math.round(((z[dimension] - low[axis]) / (high[axis] - low[axis])) * (side - 1));
      number = number * side + Math.min(Math.max(place, 0), side - 1);
    });
    return Float64Array.from(samples.subarray(number * n_features, (number + 1) * n_features));
  };
}

/** The function from a latent code to a sample, from what Python says about the decoder. */
function makeDecoder(description, n_features) {
  if (description.grid) return gridDecoder(description.grid, n_features);
  const steps = description.layers.map((layer) => layers[layer.kind](layer));
  return (z) => steps.reduce((x, step) => step(x), Float64Array.from(z));
}
