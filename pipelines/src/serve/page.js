// The page of `pipeline serve`: the list of runs, and a plot for each chosen metric. What is chosen is in the address.
const byId = (id) => document.getElementById(id);
const COLORS = 8;
// At the beginning so many runs are shown: those in progress, then those seen last.
const AT_FIRST = 8;
const state = {
  runs: new Map(), shown: new Map(), known: [], metrics: new Set(["loss", "validation_loss"]),
  filter: "", x: "step", smooth: true, zoom: null, chosen: false, live: true,
};
const group = new Group();
const figures = new Map();

function remember() {
  const words = new URLSearchParams();
  if (state.filter) words.set("filter", state.filter);
  if (state.chosen) { for (const name of state.shown.keys()) words.append("run", name); }
  for (const metric of state.metrics) words.append("metric", metric);
  if (state.x !== "step") words.set("x", state.x);
  if (group.log.x) words.set("log_x", 1);
  if (group.log.y) words.set("log_y", 1);
  if (!state.smooth) words.set("smooth", 0);
  if (state.zoom) { words.set("from", state.zoom[0]); words.set("to", state.zoom[1]); }
  if (!state.live) words.set("live", 0);
  history.replaceState(null, "", `#${words}`);
}

function recall() {
  const words = new URLSearchParams(location.hash.slice(1));
  state.filter = words.get("filter") ?? "";
  state.x = ["tokens", "seconds"].includes(words.get("x")) ? words.get("x") : "step";
  state.smooth = words.get("smooth") !== "0";
  group.log = { x: words.has("log_x"), y: words.has("log_y") };
  if (words.has("metric")) state.metrics = new Set(words.getAll("metric"));
  const ends = [words.get("from"), words.get("to")].map(parseFloat);
  state.zoom = ends[0] < ends[1] ? ends : null;
  words.getAll("run").forEach(show);
  state.chosen = words.has("run");
  state.live = words.get("live") !== "0";
  byId("filter").value = state.filter;
  byId("x").value = state.x;
  byId("smooth").checked = state.smooth;
  for (const axis of ["x", "y"]) byId(`log-${axis}`).checked = group.log[axis];
}

// A run keeps its colour for as long as it is shown: the first that no other one has.
function show(name) {
  if (state.shown.has(name)) return;
  const taken = new Set(state.shown.values());
  let slot = 0;
  while (taken.has(slot)) slot++;
  state.shown.set(name, slot);
}
const look = (slot) => `of${slot % COLORS} dash${Math.floor(slot / COLORS) % 4}`;

async function ask(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

async function list() {
  let found;
  try {
    found = await ask(`api/runs?filter=${encodeURIComponent(state.filter)}`);
  } catch (error) {
    byId("wrong").textContent = error.message;
    byId("wrong").hidden = false;
    return;
  }
  byId("wrong").hidden = true;
  byId("title").textContent = found.folder;
  state.runs = new Map(found.runs.map((run) => [run.name, run]));
  state.known = found.metrics;
  if (!state.chosen && state.shown.size === 0) {
    const order = [...found.runs].sort((a, b) =>
      (b.state === "running") - (a.state === "running") || (b.seen ?? 0) - (a.seen ?? 0));
    order.slice(0, AT_FIRST).map((run) => run.name).sort().forEach(show);
  }
  rows();
  chips();
  plots();
}

function rows() {
  byId("rows").replaceChildren(...[...state.runs.values()].map(row));
  const running = [...state.runs.values()].filter((run) => run.state === "running").length;
  const runs = state.runs.size === 1 ? "1 run" : `${state.runs.size} runs`;
  byId("said").textContent = `${runs}, ${running} in progress, ${state.shown.size} shown`;
}

function row(run) {
  const slot = state.shown.get(run.name);
  const box = element("input", { type: "checkbox", checked: slot !== undefined,
    onchange: (event) => { choose(event.target.checked ? [run.name] : [], event.target.checked ? [] : [run.name]); } });
  const swatch = element("span", { class: "swatch", style: slot === undefined ? "" : `background: var(--of${slot % COLORS})` });
  const state_ = run.state === "done" ? null : element("small", { class: run.state }, ` ${run.state}`);
  const report = element("a", { href: `report/${encodeURIComponent(run.name)}`, title: "The report of this run" }, "report");
  const loss = run.validation_loss ?? run.loss;
  const title = [run.error, run.tok_per_sec && `${Math.round(run.tok_per_sec).toLocaleString("en")} tokens/s`,
    run.bits_per_byte && `${run.bits_per_byte.toFixed(4)} bits per byte`].filter(Boolean).join("\n");
  return element("tr", { title, "data-run": run.name },
    element("td", {}, box),
    element("td", {}, element("label", { onclick: () => box.click() }, swatch, " ", run.name), state_, report),
    element("td", { class: "n" }, run.steps ? `${run.step}/${run.steps}` : String(run.step)),
    element("td", { class: "n" }, loss == null ? "-" : loss.toFixed(3)));
}

function choose(more, fewer) {
  state.chosen = true;
  fewer.forEach((name) => state.shown.delete(name));
  more.forEach(show);
  rows();
  plots();
}

// A button for each metric that a run has.
function chips() {
  const names = [...new Set([...state.known, ...state.metrics])];
  byId("metrics").replaceChildren(...names.map((name) => element("button", {
    type: "button", "aria-pressed": String(state.metrics.has(name)),
    onclick: () => {
      if (!state.metrics.delete(name)) state.metrics.add(name);
      chips();
      plots();
    },
  }, name)));
}

// One request for each plot at a time; what has changed meanwhile is asked for after it.
function plots() {
  remember();
  byId("reset").hidden = !state.zoom;
  byId("hint").hidden = state.shown.size === 0;
  for (const [metric, figure] of figures) {
    if (state.metrics.has(metric)) continue;
    figure.plot.figure.remove();
    group.plots = group.plots.filter((plot) => plot !== figure.plot);
    figures.delete(metric);
  }
  for (const metric of state.metrics) {
    if (!figures.has(metric)) {
      const frame = element("figure", { class: figures.size === 0 ? "wide" : null, "data-metric": metric });
      byId("plots").append(frame);
      figures.set(metric, { plot: group.add(frame), busy: false, again: false });
    }
    load(metric);
  }
}

async function load(metric) {
  const figure = figures.get(metric);
  figure.again = figure.busy;
  if (figure.busy) return;
  figure.busy = true;
  const words = new URLSearchParams({ metric, x: state.x, log_x: Number(group.log.x), smooth: Number(state.smooth),
    width: figure.plot.figure.clientWidth || 600 });
  if (state.zoom) { words.set("from", state.zoom[0]); words.set("to", state.zoom[1]); }
  const shown = [...state.shown.keys()].filter((name) => state.runs.has(name));
  shown.forEach((name) => words.append("run", name));
  try {
    const data = await ask(`api/plot?${words}`);
    const thin = data.series.length > 12 ? " thin" : "";
    for (const series of data.series) series.class = look(state.shown.get(series.name) ?? 0) + thin;
    figure.plot.set(data);
  } catch (error) {
    byId("said").textContent = error.message;
  }
  figure.busy = false;
  if (figure.again && figures.get(metric) === figure) load(metric);
}

function listen() {
  const events = new EventSource("api/events");
  const say = (text) => { byId("live").textContent = text; byId("live").className = `state ${text}`; };
  events.onopen = () => { say("live"); list(); };
  events.onerror = () => say("disconnected");
  events.addEventListener("runs", (event) => {
    const { changed, gone } = JSON.parse(event.data);
    // A run that is new, or gone, may or may not match the filter.
    if (gone.length > 0 || changed.some((run) => !state.runs.has(run.name))) {
      const fresh = changed.filter((run) => !state.runs.has(run.name) && run.state === "running");
      if (!state.filter) fresh.forEach((run) => show(run.name));
      list();
      return;
    }
    for (const run of changed) {
      state.runs.set(run.name, run);
      document.querySelector(`tr[data-run=${CSS.escape(run.name)}]`)?.replaceWith(row(run));
    }
    if (changed.some((run) => state.shown.has(run.name))) plots();
  });
}

let typing;
byId("filter").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => { state.filter = event.target.value.trim(); list(); }, 200);
});
byId("all").addEventListener("click", () => choose([...state.runs.keys()], []));
byId("none").addEventListener("click", () => choose([], [...state.shown.keys()]));
byId("x").addEventListener("change", (event) => { state.x = event.target.value; state.zoom = null; plots(); });
byId("smooth").addEventListener("change", (event) => { state.smooth = event.target.checked; plots(); });
for (const axis of ["x", "y"]) {
  byId(`log-${axis}`).addEventListener("change", (event) => { group.log[axis] = event.target.checked; plots(); });
}
byId("reset").addEventListener("click", () => group.onzoom(null));
group.onzoom = (range) => { state.zoom = range; plots(); };
recall();
if (state.live) listen(); else byId("live").textContent = "not live";
list();
