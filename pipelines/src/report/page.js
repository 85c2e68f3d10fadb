// The pointer on one plot reads all of them at the same step.
const plots = [...document.querySelectorAll("figure[data-plot]")].map((figure) => {
  const data = JSON.parse(figure.dataset.plot);
  const outputs = [...figure.querySelectorAll("output")];
  return { figure, data, svg: figure.querySelector("svg"), cursor: figure.querySelector(".cursor"),
    at: figure.querySelector(".at"), outputs, last: outputs.map((output) => output.textContent) };
});
function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle; else high = middle;
  }
  return x - xs[low] < xs[high] - x ? low : high;
}
function show(step) {
  for (const { data, cursor, at, outputs } of plots) {
    const [low, high] = data.x;
    const share = high > low ? (step - low) / (high - low) : 0.5;
    const x = data.left + Math.min(1, Math.max(0, share)) * data.width;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
    at.textContent = "step " + Math.round(step).toLocaleString("en");
    data.series.forEach((series, i) => {
      const y = series.y[nearest(series.x, step)];
      outputs[i].textContent = y !== 0 && Math.abs(y) < 1e-3 ? y.toExponential(2) : String(+y.toPrecision(5));
    });
  }
}
function hide() {
  for (const { cursor, at, outputs, last } of plots) {
    cursor.setAttribute("visibility", "hidden");
    at.textContent = "";
    outputs.forEach((output, i) => { output.textContent = last[i]; });
  }
}
document.querySelector(".hint").hidden = plots.length === 0;
for (const { svg, data } of plots) {
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width * data.total - data.left) / data.width;
    const [low, high] = data.x;
    show(Math.min(high, Math.max(low, low + share * (high - low))));
  });
  svg.addEventListener("pointerleave", hide);
}
