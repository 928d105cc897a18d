"use strict";
// Draws the report from the data in the page. Text from the data is only ever set as text.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);

function make(kind, text, parent, attributes = {}) {
  const element = document.createElement(kind);
  if (text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (parent) parent.append(element);
  return element;
}

function fill(select, options) {
  for (const [value, text] of options) make("option", text, select, { value });
}

function heading() {
  at("title").textContent = data.title;
  at("about").textContent = data.about;
  for (const sentence of data.summary) make("p", sentence, at("summary"));
  if (data.missing.length) make("p", "Not run yet: " + data.missing.join(", "), at("summary"), { class: "hint" });
  if (!at("summary").childElementCount) at("summary").remove();
}

// A cell's first number, or its text where it has none.
function sortable(text) {
  const number = parseFloat(text.replace("+", ""));
  return Number.isNaN(number) ? text.toLowerCase() : number;
}

function table() {
  const { headings, rows, notes } = data.table;
  const head = make("tr", null, make("thead", null, at("rows")));
  const body = make("tbody", null, at("rows"));
  const lines = rows.map((cells) => {
    const line = document.createElement("tr");
    for (const cell of cells) make("td", cell, line);
    return { cells, line };
  });
  lines.forEach(({ line }) => body.append(line));
  headings.forEach((title, place) => {
    const cell = make("th", title, head, { scope: "col", tabindex: "0" });
    const sort = () => {
      const order = cell.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      head.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      lines.sort((one, other) => {
        const [a, b] = [one.cells[place], other.cells[place]];
        if (a === "-" || b === "-") return (a === "-") - (b === "-"); // what was not measured comes last either way
        const [x, y] = [sortable(a), sortable(b)];
        if (typeof x !== typeof y) return typeof x === "string" ? 1 : -1;
        return x < y ? -sign : x > y ? sign : 0;
      });
      lines.forEach(({ line }) => body.append(line));
    };
    cell.addEventListener("click", sort);
    cell.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
  for (const note of notes) make("li", note, at("notes"));
}

function shownAtPointer(point) {
  const panel = at("hovered");
  panel.replaceChildren();
  make("strong", point.label, panel);
  const images = (data.images.rows[point.row] || []).slice(0, 6);
  images.forEach((source, place) => make("img", null, panel, { src: source, alt: data.images.samples[place].prompt }));
  if (!images.length) make("p", "No images of this row are on the machine that made the report.", panel, { class: "hint" });
  for (const [name, info] of Object.entries(data.metrics)) {
    const [value, spread] = point[name];
    if (value !== null) make("div", `${info.title}: ${value.toFixed(info.digits)}${spread ? " ± " + spread.toFixed(info.digits) : ""}`, panel);
  }
  if (point.saving) make("div", `saving: ${point.saving.toFixed(2)} times`, panel);
}

function frontier() {
  const metrics = Object.entries(data.metrics), costs = Object.entries(data.costs);
  if (!metrics.length || !costs.length) {
    at("frontier").replaceChildren();
    make("p", "No two rows have a quality and a cost to be drawn against each other.", at("frontier"), { class: "hint" });
    return;
  }
  fill(at("metric"), metrics.map(([name, info]) => [name, info.title]));
  fill(at("cost"), costs);
  const draw = () => {
    const metric = at("metric").value, cost = at("cost").value, info = data.metrics[metric];
    const points = data.points.filter((point) => point[metric][0] !== null && point[cost]);
    const better = (a, b) => (info.higher ? a >= b : a <= b);
    const front = points.filter(
      (one) =>
        !points.some(
          (other) =>
            other !== one && other[cost] <= one[cost] && better(other[metric][0], one[metric][0]) &&
            (other[cost] < one[cost] || other[metric][0] !== one[metric][0]),
        ),
    );
    const trace = (name, chosen, more) => ({
      name, x: chosen.map((point) => point[cost]), y: chosen.map((point) => point[metric][0]),
      text: chosen.map((point) => point.label), customdata: chosen, type: "scatter",
      hovertemplate: "%{text}<br>%{x:.4g}, %{y:.5g}<extra></extra>", ...more,
    });
    const spread = (chosen) => ({ type: "data", array: chosen.map((point) => point[metric][1]), thickness: 1, width: 2 });
    const plain = points.filter((point) => point.plain).sort((one, other) => one[cost] - other[cost]);
    const rest = points.filter((point) => !point.plain);
    const few = rest.length <= 15;
    Plotly.react(
      "chart",
      [
        trace("on the front", front, { mode: "markers", marker: { size: 20, color: "rgba(0,0,0,0)", line: { width: 2, color: "#e3a008" } }, hoverinfo: "skip", hovertemplate: null }),
        trace("fewer steps", plain, { mode: "lines+markers", marker: { size: 9, color: "#667085" }, line: { color: "#98a2b3" }, error_y: spread(plain) }),
        trace("methods", rest, { mode: few ? "markers+text" : "markers", textposition: "top center", marker: { size: 11, color: "#2563c9" }, error_y: spread(rest) }),
      ],
      {
        xaxis: { title: { text: data.costs[cost] + " ↓" }, rangemode: "tozero" },
        yaxis: { title: { text: info.title + (info.higher ? " ↑" : " ↓") } },
        margin: { l: 70, r: 20, t: 20, b: 50 }, legend: { orientation: "h", y: 1.08 }, hovermode: "closest",
      },
      { displaylogo: false, responsive: true },
    );
  };
  at("metric").addEventListener("change", draw);
  at("cost").addEventListener("change", draw);
  draw();
  at("chart").on("plotly_hover", (event) => shownAtPointer(event.points[0].customdata));
  at("chart").on("plotly_click", (event) => shownAtPointer(event.points[0].customdata));
}

const loaded = (source) =>
  new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = source;
  });

async function difference(source, other, gain, canvas) {
  const [one, two] = await Promise.all([loaded(source), loaded(other)]);
  const [width, height] = [one.naturalWidth, one.naturalHeight];
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(two, 0, 0, width, height);
  const before = pen.getImageData(0, 0, width, height);
  pen.drawImage(one, 0, 0, width, height);
  const after = pen.getImageData(0, 0, width, height);
  for (let i = 0; i < after.data.length; i++) {
    if (i % 4 !== 3) after.data[i] = Math.min(255, gain * Math.abs(after.data[i] - before.data[i]));
  }
  pen.putImageData(after, 0, 0);
}

function images() {
  const { samples, rows, values } = data.images;
  const names = Object.keys(rows);
  if (!samples.length) {
    at("images-choice").remove();
    at("images-hint").textContent =
      "No images are on the machine that made this report, or none that all rows share: 'postdiff run' makes them.";
    return;
  }
  const label = Object.fromEntries(data.points.map((point) => [point.row, point.label]));
  fill(at("seed"), [...new Set(samples.map((sample) => sample.seed))].map((seed) => [seed, seed]));
  fill(at("from"), names.map((name) => [name, label[name]]));
  at("images-hint").textContent =
    "The same prompts and seeds in every row, one column each. The pointer on an image tells what was measured of it.";
  const draw = () => {
    const seed = Number(at("seed").value), apart = at("difference").checked, from = rows[at("from").value];
    const places = samples.map((_, place) => place).filter((place) => samples[place].seed === seed);
    at("grid").replaceChildren();
    const head = make("tr", null, at("grid"));
    make("th", "", head);
    places.forEach((place) => make("th", samples[place].prompt, head));
    for (const name of names) {
      const line = make("tr", null, at("grid"));
      make("td", label[name], line);
      for (const place of places) {
        const title = values[name][place], cell = make("td", null, line);
        if (apart) {
          const canvas = make("canvas", null, cell, { title });
          difference(rows[name][place], from[place], Number(at("gain").value), canvas);
        } else make("img", null, cell, { src: rows[name][place], alt: samples[place].prompt, title });
      }
    }
  };
  for (const id of ["seed", "difference", "from", "gain"]) at(id).addEventListener("change", draw);
  draw();
}

function colour(share) {
  if (share > 1.005) return `rgb(20, 40, ${Math.max(60, 120 - 15 * share)})`;
  const mix = (end) => Math.round(250 + (end - 250) * share);
  return share > 0 ? `rgb(${mix(37)}, ${mix(99)}, ${mix(201)})` : "#eef1f5";
}

function timelines() {
  for (const one of data.timelines) {
    const block = make("div", null, at("timelines"), { class: "timeline" });
    make("h3", one.label, block);
    if (one.reason) {
      make("p", one.reason, block, { class: "hint" });
      continue;
    }
    if (one.image) make("p", `Counted on one image, "${one.image}".`, block, { class: "hint" });
    const body = make("table", null, block);
    one.groups.forEach((group, place) => {
      const line = make("tr", null, body);
      make("th", group, line, { scope: "row" });
      one.shares[place].forEach((share, step) => {
        const size = one.sizes[step] && one.sizes[step] !== "-" ? `, latents ${one.sizes[step]}` : "";
        const cell = make("td", null, line, { title: `step ${step}, ${group}: ${Math.round(100 * share)} %${size}` });
        cell.style.background = colour(share);
      });
    });
  }
}

function provenance() {
  if (!data.provenance.length) return;
  const head = make("tr", null, at("records"));
  for (const name of Object.keys(data.provenance[0])) make("th", name, head);
  for (const record of data.provenance) {
    const line = make("tr", null, at("records"));
    for (const value of Object.values(record)) make("td", value, line);
  }
  for (const text of data.versions) make("li", text, at("versions"));
}

heading();
table();
frontier();
images();
timelines();
provenance();
