// Draws plots from their data: axes, lines, and the values under the pointer. The server (or the report) has computed
// scales, ticks and which points are drawn; `Group` is the plots of a page, which share axes and pointer.
"use strict";

function element(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "circle", "line", "text", "rect", "title"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function short(value) {
  return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2) : String(+value.toPrecision(5));
}

// The index of the number in ascending `xs` that is nearest to `x`.
function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle; else high = middle;
  }
  return x - xs[low] < xs[high] - x ? low : high;
}

// Places from 0 to 1 on an axis, and back.
function place(axis, value) {
  const of = axis.log ? Math.log : (x) => x;
  return axis.high > axis.low ? (of(value) - of(axis.low)) / (of(axis.high) - of(axis.low)) : 0.5;
}
function value(axis, share) {
  if (!axis.log) return axis.low + share * (axis.high - axis.low);
  return Math.exp(Math.log(axis.low) + share * (Math.log(axis.high) - Math.log(axis.low)));
}

const ROOM = { left: 52, top: 8, right: 16, bottom: 36 };
// More lines than this, on a wide plot and on others, have no names above it; the one at the pointer is named.
const NAMED = { wide: 8, other: 3 };

class Plot {
  constructor(figure, group) {
    Object.assign(this, { figure, group, at: element("span", { class: "at" }) });
    this.svg = element("svg", {
      role: "img",
      onpointermove: (event) => this.point(event),
      onpointerleave: () => this.group.hide(),
      onpointerdown: (event) => this.begin(event),
      onpointerup: (event) => this.end(event),
      onpointercancel: () => this.drop(),
      ondblclick: () => this.group.onzoom && this.group.onzoom(null),
    });
    this.caption = element("figcaption");
    figure.replaceChildren(this.caption, this.svg);
    new ResizeObserver(() => { if (this.data && this.svg.clientWidth !== this.width) this.draw(); }).observe(figure);
  }

  set(data) {
    this.data = data;
    const one = (series) => {
      const last = series.y[series.y.length - 1];
      const output = element("output", {}, last === undefined ? "" : short(last));
      return { output, key: element("span", { class: `key ${series.class}` }, series.name + " ", output) };
    };
    const named = this.figure.classList.contains("wide") ? NAMED.wide : NAMED.other;
    this.keys = data.series.length <= named ? data.series.map(one) : [];
    this.last = this.keys.map(({ output }) => output.textContent);
    this.caption.replaceChildren(
      element("strong", {}, data.title), " ", data.unit ? element("small", {}, data.unit) : "", this.at,
      element("button", { class: "csv", type: "button", title: "Download the points of this plot as CSV",
        onclick: () => this.download() }, "CSV"),
      ...this.keys.map(({ key }) => key));
    this.draw();
  }

  axes() {
    const { x, y } = this.data;
    const pick = (axis, log) => (log && axis.log) || axis.linear || axis.log;
    return [pick(x, this.group.log.x), pick(y, this.group.log.y)];
  }

  draw() {
    const [x, y] = this.axes();
    const { svg, data } = this;
    svg.replaceChildren(element("title", {}, data.told));
    svg.setAttribute("aria-label", data.title);
    this.x = x && y ? x : null;
    if (!this.x) {
      svg.setAttribute("height", 40);
      svg.append(element("text", { x: 4, y: 20 }, "nothing measured"));
      return;
    }
    this.width = svg.clientWidth || 560;
    const height = this.figure.classList.contains("wide") && this.width > 700 ? 300 : 230;
    svg.setAttribute("height", height);
    svg.setAttribute("viewBox", `0 0 ${this.width} ${height}`);
    this.inner = { width: Math.max(40, this.width - ROOM.left - ROOM.right), height: height - ROOM.top - ROOM.bottom };
    this.y = y;
    this.drawAxes(x, y);
    this.area = element("svg", { x: ROOM.left, y: ROOM.top, width: this.inner.width, height: this.inner.height });
    this.paths = data.series.map((series) => this.drawLine(series, x, y));
    this.cursor = element("line", { class: "cursor", y1: ROOM.top, y2: ROOM.top + this.inner.height,
      visibility: "hidden" });
    svg.append(this.area, this.cursor);
  }

  drawAxes(x, y) {
    const { width, height } = this.inner, bottom = ROOM.top + height, right = ROOM.left + width;
    const line = (name, x1, x2, y1, y2) => this.svg.append(element("line", { class: name, x1, x2, y1, y2 }));
    const text = (name, x, y, label) => this.svg.append(element("text", { class: name, x, y }, label));
    for (const [tick, label] of y.ticks) {
      const at = ROOM.top + (1 - place(y, tick)) * height;
      line("grid", ROOM.left, right, at, at);
      text("y", ROOM.left - 6, at + 3.5, label);
    }
    // A label for which there is no room is left out.
    let end = -Infinity;
    for (const [tick, label] of x.ticks) {
      const at = ROOM.left + place(x, tick) * width, half = label.length * 3.3;
      if (at - half < end + 8 || at + half > this.width) continue;
      end = at + half;
      text("x", at, bottom + 15, label);
    }
    text("x", ROOM.left + width / 2, bottom + 30, this.data.along);
    line("axis", ROOM.left, right, bottom, bottom);
  }

  drawLine(series, x, y) {
    const { width, height } = this.inner;
    let path = "", pen = "M";
    for (let i = 0; i < series.x.length; i++) {
      if ((x.log && series.x[i] <= 0) || (y.log && series.y[i] <= 0)) { pen = "M"; continue; }
      const [px, py] = [place(x, series.x[i]) * width, (1 - place(y, series.y[i])) * height];
      path += `${pen}${px.toFixed(1)} ${py.toFixed(1)}`;
      pen = "L";
      if (series.marked) {
        this.area.append(element("circle", { class: series.class, cx: px.toFixed(1), cy: py.toFixed(1), r: 3 }));
      }
    }
    const drawn = element("path", { class: series.class, d: series.apart ? "" : path });
    this.area.append(drawn);
    return drawn;
  }

  // Where the pointer is: x as a value, and the place from the top.
  where(event) {
    const box = this.svg.getBoundingClientRect();
    const share = (event.clientX - box.left - ROOM.left) / this.inner.width;
    return { x: value(this.x, Math.min(1, Math.max(0, share))), y: event.clientY - box.top - ROOM.top,
      left: ROOM.left + Math.min(1, Math.max(0, share)) * this.inner.width };
  }

  point(event) {
    if (!this.x) return;
    const at = this.where(event);
    this.group.show(at.x);
    this.name(at);
    if (this.from !== undefined) this.stretch(at.left);
  }

  begin(event) {
    if (!this.x || !this.group.onzoom || event.button !== 0) return;
    this.from = this.where(event).left;
    this.box = element("rect", { class: "zoom", x: this.from, y: ROOM.top, width: 0, height: this.inner.height });
    this.svg.append(this.box);
    this.svg.setPointerCapture(event.pointerId);
  }

  stretch(to) {
    this.box.setAttribute("x", Math.min(this.from, to));
    this.box.setAttribute("width", Math.abs(to - this.from));
  }

  end(event) {
    if (this.from === undefined) return;
    const ends = [this.from, this.where(event).left].sort((a, b) => a - b);
    this.drop();
    if (ends[1] - ends[0] < 8) return;
    this.group.onzoom(ends.map((left) => value(this.x, (left - ROOM.left) / this.inner.width)));
  }

  drop() {
    if (this.box) this.box.remove();
    this.from = this.box = undefined;
  }

  // The values of all lines at `x`.
  show(x) {
    if (!this.x) return;
    const at = ROOM.left + Math.min(1, Math.max(0, place(this.x, x))) * this.inner.width;
    this.cursor.setAttribute("x1", at);
    this.cursor.setAttribute("x2", at);
    this.cursor.setAttribute("visibility", "visible");
    const shown = this.data.along === "seconds" ? short(x) : Math.round(x).toLocaleString("en");
    this.at.textContent = `${this.data.along} ${shown}`;
    this.keys.forEach(({ output }, i) => {
      const series = this.data.series[i];
      output.textContent = short(series.y[nearest(series.x, x)]);
    });
  }

  // Of many lines: names the one at the pointer.
  name({ x, y }) {
    if (this.keys.length > 0 || this.data.series.length === 0) return;
    const off = ({ x: xs, y: ys }) => Math.abs((1 - place(this.y, ys[nearest(xs, x)])) * this.inner.height - y);
    let best = 0;
    this.data.series.forEach((series, i) => { if (off(series) < off(this.data.series[best])) best = i; });
    const series = this.data.series[best];
    this.paths.forEach((path, i) => path.classList.toggle("near", i === best));
    this.at.textContent += ` · ${series.name} ${short(series.y[nearest(series.x, x)])}`;
  }

  hide() {
    if (!this.x) return;
    this.cursor.setAttribute("visibility", "hidden");
    this.at.textContent = "";
    this.keys.forEach(({ output }, i) => { output.textContent = this.last[i]; });
    this.paths.forEach((path) => path.classList.remove("near"));
  }

  // The points that are drawn, a row for each: without those that decimation has left out.
  csv() {
    const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
    const rows = this.data.series.flatMap(({ name, x, y }) => x.map((x, i) => `${quoted(name)},${x},${y[i]}`));
    return [`series,${quoted(this.data.along)},${quoted(this.data.title)}`, ...rows].join("\n") + "\n";
  }

  download() {
    const url = URL.createObjectURL(new Blob([this.csv()], { type: "text/csv" }));
    const link = element("a", { href: url, download: `${this.data.title.replaceAll(/[^\w.-]+/g, "-")}.csv` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}

class Group {
  constructor() { Object.assign(this, { plots: [], log: { x: false, y: false }, onzoom: null }); }
  add(figure) {
    const plot = new Plot(figure, this);
    this.plots.push(plot);
    return plot;
  }
  show(x) { this.plots.forEach((plot) => plot.show(x)); }
  hide() { this.plots.forEach((plot) => plot.hide()); }
  draw() { this.plots.forEach((plot) => plot.data && plot.draw()); }
}
