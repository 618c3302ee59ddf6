"use strict";

// The map of the latent codes: samples on one canvas, and on another above it the point, which is drawn far more often.

const REACH = 18; // pixels from the point, or from a sample, within which the pointer takes it
const MARGIN = { left: 42, right: 10, top: 10, bottom: 26 };
const CLICK = 4; // pixels of movement below which a drag is a click

/** Round numbers within a range, about `n` of them. */
function ticks([low, high], n = 6) {
  const rough = (high - low) / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => +((first + i) * step).toPrecision(12));
}

/** The range of some numbers with a margin, which is never empty. */
function paddedRange(values, margin = 0.08) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  const pad = high > low ? margin * (high - low) : 1;
  return [low - pad, high + pad];
}

class LatentMap {
  /** `onMove(x, y)` hears where the point is to go, and `onHover(index)` which sample is below the pointer, or -1. */
  constructor(base, top, { onMove, onHover }) {
    Object.assign(this, {
      base,
      top,
      onMove,
      onHover,
      x: [],
      y: [],
      colours: [],
      faint: null,
      rings: false,
      hovered: -1,
    });
    this.point = [0, 0];
    this.view = [
      [-1, 1],
      [-1, 1],
    ];
    this.pointers = new Map();
    this.listen();
    new ResizeObserver(() => this.resize()).observe(base.parentElement);
  }

  /** Show samples at these places; `rings` are the standard deviations of a standard normal prior. */
  place(x, y, { rings = false, flat = false } = {}) {
    Object.assign(this, { x, y, rings, flat });
    this.reset();
  }

  /** Colour the samples; those for which `faint` is true stand back. */
  colour(colours, faint = null) {
    Object.assign(this, { colours, faint });
    this.draw();
  }

  movePoint(x, y) {
    this.point = [x, y];
    this.drawPoint();
  }

  mark(index) {
    this.hovered = index;
    this.drawPoint();
  }

  reset() {
    this.view = [paddedRange(this.x), paddedRange(this.y)];
    this.draw();
  }

  /** Zoom by a factor about a place on the canvas; without one, about the point. */
  zoom(factor, pixel = this.toPixel(...this.point)) {
    const centre = this.toData(...pixel);
    this.view = this.view.map((range, axis) => range.map((end) => centre[axis] + (end - centre[axis]) / factor));
    this.draw();
  }

  pan(dx, dy) {
    const [width, height] = this.size();
    const [[left, right], [bottom, top]] = this.view;
    const [x, y] = [(-dx / width) * (right - left), (dy / height) * (top - bottom)];
    this.view = [
      [left + x, right + x],
      [bottom + y, top + y],
    ];
    this.draw();
  }

  // Places

  size() {
    const { clientWidth, clientHeight } = this.base;
    return [
      Math.max(clientWidth - MARGIN.left - MARGIN.right, 1),
      Math.max(clientHeight - MARGIN.top - MARGIN.bottom, 1),
    ];
  }

  toPixel(x, y) {
    const [width, height] = this.size();
    const [[left, right], [bottom, top]] = this.view;
    return [MARGIN.left + ((x - left) / (right - left)) * width, MARGIN.top + ((top - y) / (top - bottom)) * height];
  }

  toData(px, py) {
    const [width, height] = this.size();
    const [[left, right], [bottom, top]] = this.view;
    return [left + ((px - MARGIN.left) / width) * (right - left), top - ((py - MARGIN.top) / height) * (top - bottom)];
  }

  /** Index of the nearest sample within reach of a place on the canvas, or -1. */
  sampleAt(px, py) {
    let [best, nearest] = [-1, REACH ** 2];
    for (let i = 0; i < this.x.length; i++) {
      const [x, y] = this.toPixel(this.x[i], this.y[i]);
      const distance = (x - px) ** 2 + (y - py) ** 2;
      if (distance < nearest) [best, nearest] = [i, distance];
    }
    return best;
  }

  // Drawing

  resize() {
    for (const canvas of [this.base, this.top]) {
      const ratio = window.devicePixelRatio || 1;
      [canvas.width, canvas.height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
      canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    this.draw();
  }

  cleared(canvas) {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    return context;
  }

  draw() {
    const context = this.cleared(this.base);
    this.drawAxes(context);
    context.save();
    context.beginPath();
    context.rect(MARGIN.left, MARGIN.top, ...this.size());
    context.clip();
    if (this.rings) this.drawRings(context);
    this.drawSamples(context);
    context.restore();
    this.drawPoint();
  }

  drawAxes(context) {
    const [width, height] = this.size();
    context.strokeStyle = themeColour("--line");
    context.fillStyle = themeColour("--soft");
    context.font = "11px system-ui, sans-serif";
    for (const value of ticks(this.view[0])) {
      const [px] = this.toPixel(value, 0);
      this.line(context, px, MARGIN.top, px, MARGIN.top + height);
      this.text(context, format(value), px, MARGIN.top + height + 16, "center");
    }
    for (const value of this.flat ? [] : ticks(this.view[1])) {
      const [, py] = this.toPixel(0, value);
      this.line(context, MARGIN.left, py, MARGIN.left + width, py);
      this.text(context, format(value), MARGIN.left - 6, py + 4, "right");
    }
  }

  line(context, ...ends) {
    context.beginPath();
    context.moveTo(ends[0], ends[1]);
    context.lineTo(ends[2], ends[3]);
    context.stroke();
  }

  text(context, text, x, y, align) {
    context.textAlign = align;
    context.fillText(text, x, y);
  }

  drawRings(context) {
    const [x, y] = this.toPixel(0, 0);
    const [right, top] = this.toPixel(1, 1);
    context.strokeStyle = themeColour("--soft");
    context.setLineDash([3, 4]);
    for (const radius of [1, 2, 3]) {
      context.beginPath();
      context.ellipse(x, y, radius * Math.abs(right - x), radius * Math.abs(top - y), 0, 0, 2 * Math.PI);
      context.stroke();
    }
    context.setLineDash([]);
  }

  drawSamples(context) {
    const radius = Math.min(Math.max(100 / Math.sqrt(this.x.length), 1.8), 5);
    for (let i = 0; i < this.x.length; i++) {
      const [px, py] = this.toPixel(this.x[i], this.y[i]);
      context.globalAlpha = this.faint && this.faint[i] ? 0.08 : 0.7;
      context.fillStyle = this.colours[i];
      context.beginPath();
      context.arc(px, py, radius, 0, 2 * Math.PI);
      context.fill();
    }
    context.globalAlpha = 1;
  }

  drawPoint() {
    const context = this.cleared(this.top);
    const [px, py] = this.toPixel(...this.point);
    const ink = themeColour("--ink");
    if (this.hovered >= 0)
      this.circle(context, this.toPixel(this.x[this.hovered], this.y[this.hovered]), 7, null, ink, 1.5);
    this.circle(context, [px, py], 10, themeColour("--paper"), ink, 2.5);
    this.circle(context, [px, py], 4, themeColour("--accent"), null, 0);
  }

  circle(context, [x, y], radius, fill, stroke, width) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.lineWidth = width;
    if (fill) Object.assign(context, { fillStyle: fill }).fill();
    if (stroke) Object.assign(context, { strokeStyle: stroke }).stroke();
  }

  // Pointer and keyboard

  listen() {
    const handlers = {
      pointerdown: this.press,
      pointermove: this.move,
      pointerup: this.release,
      pointercancel: this.release,
      pointerleave: () => this.onHover(-1),
      keydown: this.pressKey,
    };
    for (const [name, handler] of Object.entries(handlers)) this.top.addEventListener(name, handler.bind(this));
    this.top.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  pixelOf(event) {
    const box = this.top.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  press(event) {
    const pixel = this.pixelOf(event);
    const [x, y] = this.toPixel(...this.point);
    this.dragging = Math.hypot(x - pixel[0], y - pixel[1]) <= REACH;
    this.travelled = 0;
    this.pointers.set(event.pointerId, pixel);
    // Events of scripts have no pointer that could be captured.
    if (event.isTrusted) this.top.setPointerCapture(event.pointerId);
  }

  move(event) {
    const pixel = this.pixelOf(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) return this.onHover(this.sampleAt(...pixel));
    this.travelled += Math.hypot(pixel[0] - before[0], pixel[1] - before[1]);
    if (this.pointers.size === 2) this.pinch(event.pointerId, before, pixel);
    else if (this.dragging) this.onMove(...this.toData(...pixel));
    else this.pan(pixel[0] - before[0], pixel[1] - before[1]);
    this.pointers.set(event.pointerId, pixel);
  }

  /** Two fingers zoom about the one that rests. */
  pinch(id, before, pixel) {
    const [other] = [...this.pointers].filter(([key]) => key !== id).map(([, place]) => place);
    const distance = (place) => Math.max(Math.hypot(place[0] - other[0], place[1] - other[1]), 1);
    this.zoom(distance(pixel) / distance(before), other);
  }

  release(event) {
    const pressed = this.pointers.delete(event.pointerId);
    if (pressed && event.type === "pointerup" && this.travelled < CLICK)
      this.onMove(...this.toData(...this.pixelOf(event)));
  }

  wheel(event) {
    if (document.activeElement !== this.top && !event.ctrlKey) return; // the page scrolls
    event.preventDefault();
    this.zoom(Math.exp(-0.0015 * event.deltaY), this.pixelOf(event));
  }

  pressKey(event) {
    const step = event.shiftKey ? 0.1 : 0.02;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowDown: [0, -step], ArrowUp: [0, step] };
    const actions = {
      "+": () => this.zoom(1.25),
      "=": () => this.zoom(1.25),
      "-": () => this.zoom(0.8),
      0: () => this.reset(),
    };
    const action = moves[event.key] ? () => this.step(...moves[event.key]) : actions[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  }

  /** Move the point by fractions of the view. */
  step(right, up) {
    const [[low, high], [bottom, top]] = this.view;
    this.onMove(this.point[0] + right * (high - low), this.point[1] + up * (top - bottom));
  }
}
