// The plots of a page that holds their data.
const group = new Group();
for (const figure of document.querySelectorAll("figure[data-plot]")) {
  group.add(figure).set(JSON.parse(figure.dataset.plot));
}
for (const axis of ["x", "y"]) {
  document.getElementById(`log-${axis}`)?.addEventListener("change", (event) => {
    group.log[axis] = event.target.checked;
    group.draw();
  });
}
document.querySelector(".controls").hidden = group.plots.length === 0;
