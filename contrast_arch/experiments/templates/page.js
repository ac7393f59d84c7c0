"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 44rem)");
const symbols = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star"];
const dashes = ["solid", "dash", "dot", "dashdot"];
const element = (id) => document.getElementById(id);

// Colours of the page: as the system, light, dark.
function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
}
element("theme").addEventListener("click", (event) => {
  const next = { undefined: "light", light: "dark", dark: undefined }[root.dataset.theme];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  event.target.textContent = `colours: ${next || "as the system"}`;
  drawCharts();
});
system.addEventListener("change", drawCharts);
narrow.addEventListener("change", drawCharts);

// Curves.
function traces(panel, axis) {
  const colors = data.colors[isDark() ? "dark" : "light"];
  const found = [];
  for (const curve of panel.curves) {
    const x = curve.x[axis];
    if (!x) continue;
    const color = colors[curve.slot % colors.length];
    const common = { x, legendgroup: curve.label, name: curve.label };
    const trace = {
      ...common, y: curve.y, mode: "lines+markers",
      line: { color, width: 2, dash: dashes[Math.floor(curve.slot / colors.length) % dashes.length] },
      marker: { color, size: 6, symbol: symbols[curve.slot % symbols.length] },
    };
    if (curve.low.length) {
      const edge = { ...common, mode: "lines", line: { width: 0 }, showlegend: false, hoverinfo: "skip" };
      found.push({ ...edge, y: curve.low }, { ...edge, y: curve.high, fill: "tonexty", fillcolor: `${color}33` });
    }
    found.push(trace);
  }
  return found;
}
function logAxis(panel) {
  const values = panel.curves.flatMap((curve) => curve.y);
  const steps = Math.max(...values) > 20 * Math.min(...values) ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
  const decades = Array.from({ length: 16 }, (_, i) => 10 ** (i - 10));
  return { type: "log", tickvals: decades.flatMap((decade) => steps.map((step) => step * decade)), tickformat: "~g" };
}
function drawCharts() {
  const style = getComputedStyle(root);
  const [ink, muted, grid] = ["--ink", "--muted", "--grid"].map((name) => style.getPropertyValue(name).trim());
  for (const chart of data.charts) {
    const axis = element("axis").value;
    for (const [number, panel] of chart.panels.entries()) {
      const lines = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true };
      const found = traces(panel, axis);
      const layout = {
        title: { text: escaped(panel.y_label), x: 0, xanchor: "left", font: { size: 14 }, automargin: false },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, family: "inherit", size: 12 },
        xaxis: { ...lines, title: { text: data.axes[axis] }, rangemode: "normal" },
        yaxis: { ...lines, ...(panel.log ? logAxis(panel) : {}) },
        legend: { orientation: "h", x: 0, xanchor: "left", yref: "container", y: 0, yanchor: "bottom" },
        margin: { l: 10, r: 10, t: 40, b: 10 }, dragmode: "zoom", showlegend: true, hovermode: "closest",
        uirevision: axis, modebar: { bgcolor: "rgba(0,0,0,0)", color: muted, activecolor: ink },
        annotations: found.length ? [] : [{ text: "not recorded", showarrow: false, font: { color: ink } }],
      };
      const config = { responsive: true, displaylogo: false, displayModeBar: !narrow.matches,
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"] };
      Plotly.react(`${chart.name}-${number}`, found, layout, config);
    }
  }
}
function escaped(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}
if (data.charts.length) {
  for (const chart of data.charts) {
    for (const panel of chart.panels) for (const curve of panel.curves) curve.label = escaped(curve.label);
  }
  element("axis").addEventListener("change", drawCharts);
  drawCharts();
}

// Tables: a click sorts, numbers with the largest first; cells without a value stay last.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const table = heading.closest("table");
    const body = table.tBodies[0];
    const column = heading.cellIndex;
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...body.rows];
    const numbers = rows.every((row) => value(row) === undefined || !isNaN(value(row)));
    const up = heading.ariaSort ? heading.ariaSort === "descending" : !numbers;
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return (up ? 1 : -1) * (numbers ? x - y : x.localeCompare(y, undefined, { numeric: true }));
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows);
  });
}

// Pictures.
function fill(select, labels, chosen) {
  select.replaceChildren(...labels.map((label, i) => new Option(label, i)));
  select.selectedIndex = chosen;
}
function showSides() {
  const { layers } = data.slides[element("slide").selectedIndex];
  for (const [side, image] of [["left", "over"], ["right", "under"]]) {
    const [label, text, file] = layers[element(side).selectedIndex];
    element(image).src = file;
    element(image).alt = `${label} ${text}`;
    element(image).classList.toggle("pixels", label === "LQ" || element("size").value > 1);
    element(`${side}-text`).textContent = text ? `${label}: ${text}` : label;
  }
  showSize();
}
function showSize() {
  const truth = strip.lastElementChild.firstElementChild;
  if (!truth.complete) truth.onload = showSize;
  const zoom = Number(element("size").value);
  element("stage").style.width = zoom ? `${truth.naturalWidth * zoom}px` : "100%";
  element("stage").style.aspectRatio = `${truth.naturalWidth} / ${truth.naturalHeight}`;
  const widest = zoom ? "none" : `${Math.max(2 * truth.naturalWidth, 320)}px`;
  for (const id of ["stage", "position"]) element(id).style.maxWidth = widest;
}
function showBorder() {
  const position = element("position").value;
  element("over").style.clipPath = `inset(0 ${100 - position}% 0 0)`;
  element("stage").lastElementChild.style.left = `${position}%`;
}
function showSlide() {
  const { layers } = data.slides[element("slide").selectedIndex];
  const labels = layers.map(([label]) => label);
  const chosen = ["left", "right"].map((id) => labels.indexOf(element(id).selectedOptions[0]?.text));
  fill(element("left"), labels, chosen[0] < 0 ? 1 : chosen[0]);
  fill(element("right"), labels, chosen[1] < 0 ? 2 : chosen[1]);
  strip.replaceChildren(...layers.map(([label, text, file], i) => {
    const button = document.createElement("button");
    const image = new Image();
    image.src = file;
    image.alt = "";
    button.type = "button";
    button.append(image, label, Object.assign(document.createElement("small"), { textContent: text }));
    button.addEventListener("click", () => {
      element("right").selectedIndex = i;
      showSides();
    });
    return button;
  }));
  showSides();
}
const strip = element("strip");
if (data.slides.length) {
  fill(element("slide"), data.slides.map((slide) => slide.label), 0);
  element("slide").addEventListener("change", showSlide);
  for (const id of ["left", "right", "size"]) element(id).addEventListener("change", showSides);
  element("position").addEventListener("input", showBorder);
  element("stage").addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse" && !event.buttons) return;
    const box = element("stage").getBoundingClientRect();
    element("position").value = (100 * (event.clientX - box.left)) / box.width;
    showBorder();
  });
  for (const image of [element("under"), element("over")]) image.draggable = false;
  showSlide();
  showBorder();
}
