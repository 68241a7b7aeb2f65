"use strict";
(() => {
  const root = document.documentElement;
  const parsed = (block) => JSON.parse(block.querySelector('script[type="application/json"]').textContent);

  // Light or dark: as the system says, until the button is pressed.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const plots = [];
  const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  function themed(layout) {
    const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line") };
    const shapes = (layout.shapes || []).map((shape) => ({ ...shape, line: { ...shape.line, color: color("--quiet") } }));
    return {
      ...layout, shapes, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--text"), family: getComputedStyle(document.body).fontFamily, size: 12 },
      margin: { l: 50, r: 12, t: 8, b: 40 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      xaxis: { ...layout.xaxis, ...axis }, yaxis: { ...layout.yaxis, ...axis },
    };
  }
  function setTheme(dark) {
    root.dataset.theme = dark ? "dark" : "light";
    for (const { place, layout } of plots) Plotly.relayout(place, themed(layout));
  }
  setTheme(system.matches);
  system.addEventListener("change", () => setTheme(system.matches));
  document.getElementById("theme").addEventListener("click", () => setTheme(root.dataset.theme !== "dark"));

  // Plots are made when they come into view.
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      const { data, layout } = parsed(entry.target.parentElement);
      plots.push({ place: entry.target, layout });
      Plotly.newPlot(entry.target, data, themed(layout), { responsive: true, displaylogo: false, displayModeBar: false });
    }
  }, { rootMargin: "600px" });
  document.querySelectorAll(".plot").forEach((place) => seen.observe(place));

  // Tables are sorted by a click on a column.
  document.querySelectorAll("table.sortable").forEach((table) => {
    table.querySelectorAll("th").forEach((head, column) => {
      let up = true;
      head.addEventListener("click", () => {
        const rows = [...table.tBodies[0].rows];
        const value = (row) => row.cells[column].textContent;
        const number = (row) => parseFloat(value(row).replaceAll(",", ""));
        const compare = (a, b) => (Number.isNaN(number(a)) || Number.isNaN(number(b))
          ? value(a).localeCompare(value(b)) : number(a) - number(b));
        rows.sort((a, b) => (up ? compare(a, b) : compare(b, a)));
        up = !up;
        table.tBodies[0].append(...rows);
      });
    });
  });

  function element(name, text, attributes = {}) {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    Object.assign(made, attributes);
    return made;
  }

  // A cell of the confusion matrix shows its examples.
  const SHOWN = 200;
  document.querySelectorAll(".matrix").forEach((block) => {
    const { examples, cells } = parsed(block);
    const chosen = block.querySelector(".chosen");
    block.querySelectorAll("td[data-cell] button").forEach((button) => button.addEventListener("click", () => {
      const cell = button.parentElement;
      block.querySelectorAll("td.on").forEach((other) => other.classList.remove("on"));
      cell.classList.add("on");
      const found = cells[cell.dataset.cell] || [];
      chosen.replaceChildren(element("h3", `${button.title}: ${found.length} example(s)`));
      const photos = element("div", "", { className: "photos" });
      const links = element("ul", "", { className: "links" });
      for (const place of found.slice(0, SHOWN)) {
        const [name, truth, predicted, link, picture] = examples[place];
        const title = link ? element("a", name, { href: link }) : element("span", name);
        if (!picture) {
          const item = element("li");
          item.append(title);
          links.append(item);
          continue;
        }
        const figure = element("figure");
        const caption = element("figcaption");
        caption.append(title, element("span", `is ${truth}`), element("span", `said ${predicted}`));
        const frame = element("div", "", { className: "picture" });
        frame.append(element("img", "", { src: picture, alt: name }));
        figure.append(frame, caption);
        photos.append(figure);
      }
      chosen.append(photos, links);
      if (found.length > SHOWN) chosen.append(element("p", `and ${found.length - SHOWN} more`, { className: "hint" }));
    }));
  });

  // Objects are drawn above a score.
  const COLORS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#7f7f7f"];
  const SVG = "http://www.w3.org/2000/svg";
  function shape(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    return made;
  }
  const labels = new Map();
  const colorOf = (label) => {
    if (!labels.has(label)) labels.set(label, COLORS[labels.size % COLORS.length]);
    return labels.get(label);
  };
  function draw(svg, objects, least) {
    const [width, height] = svg.getAttribute("viewBox").split(" ").slice(2).map(Number);
    const scale = width / Math.max(svg.clientWidth || svg.parentElement.clientWidth || 300, 1);
    const thin = { fill: "none", "stroke-width": 2 * scale };
    const drawn = [];
    const taken = [];
    for (const object of objects) {
      const truth = object.score === null;
      if (!truth && object.score < least) continue;
      const [x0, y0, x1, y1] = object.box;
      const stroke = truth ? "#ffffff" : colorOf(object.label);
      const group = shape("g", { "data-score": truth ? "" : object.score });
      group.append(shape("title", {}, `${object.label}${truth ? " (ground truth" + (object.verdict ? ", " + object.verdict : "") + ")" : " " + object.score.toFixed(2) + (object.verdict ? ", " + object.verdict : "")}`));
      for (const points of object.outline) group.append(shape("polygon", { points, fill: stroke, "fill-opacity": 0.35, stroke, "stroke-width": scale }));
      const line = { x: x0, y: y0, width: Math.max(x1 - x0, 0), height: Math.max(y1 - y0, 0), stroke, ...thin };
      if (truth) line["stroke-dasharray"] = `${4 * scale} ${3 * scale}`;
      group.append(shape("rect", line));
      if (!truth || object.verdict === "missed") {
        const text = truth ? `missed: ${object.label}` : `${object.label} ${object.score.toFixed(2)}`;
        const size = 11 * scale, wide = text.length * size * 0.64, high = size * 1.25;
        const x = Math.max(Math.min(x0, width - wide), 0);
        let y = Math.max(y0 - high, 0);
        // A label gives way downwards to those that are there already.
        for (let tries = 0; tries < 8 && taken.some((t) => x < t.x + t.w && t.x < x + wide && y < t.y + high && t.y < y + high); tries += 1) y += high;
        y = Math.min(y, height - high);
        taken.push({ x, y, w: wide });
        group.append(shape("rect", { x, y, width: wide, height: high, fill: truth ? "#b3261e" : stroke, "fill-opacity": 0.85 }));
        group.append(shape("text", { x: x + 0.2 * size, y: y + size, fill: "#ffffff", style: `font-size:${size}px` }, text));
      }
      drawn.push(group);
    }
    svg.replaceChildren(...drawn.reverse());
  }
  document.querySelectorAll(".gallery").forEach((block) => {
    const heat = block.querySelector(".heat input");
    if (heat) heat.addEventListener("change", () => block.classList.toggle("heated", heat.checked));
    const slider = block.querySelector(".slider input");
    const photos = [...block.querySelectorAll("svg")].map((svg) => [svg, parsed(svg.parentElement)]);
    const update = () => {
      const least = slider ? Number(slider.value) : 0;
      if (slider) block.querySelector("output").textContent = least.toFixed(2);
      for (const [svg, objects] of photos) draw(svg, objects, least);
    };
    if (slider) slider.addEventListener("input", update);
    addEventListener("resize", update);
    update();
  });
})();
