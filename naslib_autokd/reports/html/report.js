// The moving parts of a report: theme, charts (drawn when they come into view), tables.
// All text of the run comes from the JSON of the page and is put in as text, never as markup.
"use strict";
(() => {
  const payload = JSON.parse(document.getElementById("report-data").textContent);
  const root = document.documentElement;

  /** An element with these properties (those with a dash, and `role`, as attributes) and children. */
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.includes("-") || name === "role") element.setAttribute(name, value);
      else element[name] = value;
    }
    element.append(...children);
    return element;
  }
  const button = (text, onclick, properties = {}) =>
    make("button", { type: "button", textContent: text, onclick, ...properties });
  const counted = (n) => n.toLocaleString("en");

  // ---- theme ------------------------------------------------------------------------------------------------------
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => { try { return localStorage.getItem("report-theme"); } catch { return null; } };
  const theme = () => root.dataset.theme === "dark" ? "dark" : "light";
  const redraws = new Set();
  const themeButton = document.getElementById("theme");
  function applyTheme(name) {
    root.dataset.theme = name;
    themeButton.textContent = name === "dark" ? "Light" : "Dark";
    themeButton.setAttribute("aria-label", `Switch to the ${name === "dark" ? "light" : "dark"} theme`);
    for (const redraw of redraws) redraw();
  }
  themeButton.addEventListener("click", () => {
    const next = theme() === "dark" ? "light" : "dark";
    try { localStorage.setItem("report-theme", next); } catch { /* a page from disk may have no storage */ }
    applyTheme(next);
  });
  system.addEventListener("change", () => { if (!chosen()) applyTheme(system.matches ? "dark" : "light"); });
  applyTheme(theme());

  /** A chart's description with the theme's colours in place of their names ("@c0", "@muted"). */
  function coloured(value) {
    if (typeof value === "string" && value[0] === "@") return payload.palettes[theme()][value.slice(1)] || value;
    if (Array.isArray(value)) return value.map(coloured);
    if (!value || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, entry]) =>
      [key, key === "domain" || key === "usermeta" ? entry : coloured(entry)]));
  }

  // ---- charts -----------------------------------------------------------------------------------------------------
  const TEXT = payload.config.legend.labelFontSize;
  const PANEL_SCALE = 2.1, AXES = 72; // pixels for a point on paper; of axes and legends beside and below a panel
  const MANY = 600; // rows from which a chart is a canvas
  const rowsOf = new Map();
  function rows(name) {
    if (!rowsOf.has(name)) {
      const { columns, rows: lines } = payload.data[name];
      rowsOf.set(name, lines.map((line) => Object.fromEntries(columns.map((column, i) => [column, line[i]]))));
    }
    return rowsOf.get(name);
  }
  /** How many panels stand side by side. */
  function columnsOf({ concat, columns, usermeta }, width) {
    return Math.min(columns || concat.length, Math.max(1, Math.floor(width / (PANEL_SCALE * usermeta.panel))));
  }
  /** About what a chart takes with its axes and legends, so that texts do not jump when it is drawn. */
  function heightOf({ spec }, width) {
    if (!spec.concat) return spec.height + AXES;
    const columns = columnsOf(spec, width), heights = spec.concat.map((part) => part.height + AXES);
    return heights.reduce((sum, _, k) => sum + (k % columns ? 0 : Math.max(...heights.slice(k, k + columns))), 0);
  }
  /** A chart of this width: legends in columns, panels side by side as they have room. */
  function fitted({ spec, data }, width) {
    const about = spec.usermeta;
    const config = coloured(payload.config);
    config.legend.columns = Math.max(1, Math.floor(width / (0.5 * TEXT * about.longest + 2.6 * TEXT)));
    const fit = { ...coloured(spec), config, datasets: Object.fromEntries(data.map((name) => [name, rows(name)])) };
    if (fit.concat) fit.columns = columnsOf(fit, width);
    if (about.fixed) return fit;
    if (!fit.concat) return { ...fit, width, autosize: { type: "fit-x", contains: "padding" } };
    for (const part of fit.concat) part.width = Math.max(80, Math.floor(width / fit.columns) - AXES);
    return fit;
  }
  // ---- trials inside the ranges that are drawn in the charts of a run -----------------------------------------------
  const groups = new Map();
  function groupOf(element) {
    const run = element.closest("article");
    if (!groups.has(run)) groups.set(run, { ranges: new Map(), shows: new Set(), linked: null });
    return groups.get(run);
  }
  /** Keep the ids that a chart's range holds (null: no range), and show all charts of the run what is in all ranges. */
  function choose(element, ids) {
    const group = groupOf(element), { ranges } = group;
    if (ids) ranges.set(element, new Set(ids));
    else if (!ranges.delete(element)) return;
    const [first, ...others] = ranges.values();
    const common = first && [...first].filter((id) => others.every((range) => range.has(id)));
    group.linked = common ? Object.fromEntries(common.map((id) => [id, 1])) : null;
    for (const show of group.shows) show();
  }
  function link(element, { spec, data }, view) {
    const group = groupOf(element), show = () => view.signal("linked", group.linked).runAsync();
    choose(element, null); // a chart that is drawn anew has lost its range
    group.shows.add(show);
    show();
    let timer = 0;
    if ("brush" in view.getState().signals) view.addSignalListener("brush", (_, range) => {
      const fields = Object.entries(range || {});
      const inside = (row) => row.id != null && fields.every(([name, ends]) => typeof row[name] === "number"
        ? row[name] >= Math.min(...ends) && row[name] <= Math.max(...ends) : ends.includes(row[name]));
      clearTimeout(timer);
      timer = setTimeout(() => choose(element,
        fields.length ? data.flatMap(rows).filter(inside).map((row) => row.id) : null), 80);
    });
    return () => group.shows.delete(show);
  }
  function startChart(element) {
    const variants = payload.charts[element.dataset.chart];
    let current = 0, drawn = null, unlink = null, width = 0, turn = 0, timer = 0;
    const plot = make("div");
    const choices = variants.map((variant, index) => button(variant.name, () => {
      current = index;
      choices.forEach((other, i) => other.setAttribute("aria-pressed", i === index));
      draw();
    }, { "aria-pressed": index === 0 }));
    if (choices.length > 1) element.append(make("div", { className: "segments" }, ...choices));
    element.append(plot);
    async function draw() {
      const own = ++turn;
      width = element.clientWidth;
      const chart = variants[current];
      const many = !chart.spec.usermeta.fixed && Math.max(0, ...chart.data.map((name) => payload.data[name].rows.length)) > MANY;
      const holder = make("div");
      const result = await vegaEmbed(holder, fitted(chart, width), { mode: "vega-lite", ast: true, actions: false,
        renderer: many ? "canvas" : "svg", tooltip: { theme: theme() } });
      if (own !== turn) { result.finalize(); return; } // drawn anew meanwhile
      if (drawn) drawn.finalize();
      if (unlink) unlink();
      drawn = result;
      unlink = (chart.spec.params || []).some(({ name }) => name === "linked") ? link(element, chart, result.view) : null;
      plot.replaceChildren(holder);
      element.style.minHeight = "";
      element.setAttribute("data-drawn", "true");
      performance.mark("report-drawn");
    }
    redraws.add(() => { if (turn) draw(); });
    new ResizeObserver(() => {
      if (!turn || element.clientWidth === width) return;
      clearTimeout(timer);
      timer = setTimeout(draw, 150);
    }).observe(element);
    return draw;
  }
  const pending = new Map();
  function begin(element) {
    observer.unobserve(element);
    pending.get(element)();
    pending.delete(element);
  }
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) begin(entry.target);
  }, { rootMargin: "300px" });
  function later(element, start) { pending.set(element, start); observer.observe(element); }
  // the libraries take longer than all the rest: texts and tables are there before they start
  function startCharts() {
    document.head.append(make("script",
      { textContent: `(() => {${document.getElementById("vega-source").textContent}})()` }));
    for (const element of document.querySelectorAll("[data-chart]")) later(element, startChart(element));
  }
  addEventListener("beforeprint", () => [...pending.keys()].forEach(begin));

  // ---- tables -----------------------------------------------------------------------------------------------------
  const PAGE = 25;
  function formatter({ type, digits }) {
    const places = digits ?? 0;
    const numbers = new Intl.NumberFormat("en", { minimumFractionDigits: places, maximumFractionDigits: places });
    return (value) => type === "number" && typeof value === "number" ? numbers.format(value) : String(value ?? "");
  }
  const unknown = (value) => value === null || value === "";
  /** Numbers by size, words as people sort them; what is not known comes last in both directions. */
  function compare(x, y, sign) {
    if (unknown(x) || unknown(y)) return unknown(x) - unknown(y);
    return sign * (typeof x === "number" && typeof y === "number" ? x - y
      : String(x).localeCompare(String(y), "en", { numeric: true }));
  }
  function csv(value) {
    const text = value === null ? "" : String(value);
    // a leading = + - @ would be a formula to a spreadsheet
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }
  function startTable(element) {
    const { columns, rows, sort, marked, name, ids } = payload.tables[element.dataset.table];
    const group = groupOf(element);
    let order = { index: sort[0], down: sort[1] }, page = 0, found = rows, timer = 0;
    const shown = columns.map(formatter);
    let texts = null; // of thousands of rows they take longer than the rest of the table: not before a search
    const textOf = (place) => (texts ??= rows.map((row) =>
      row.map((value, i) => shown[i](value)).join("\n").toLowerCase()))[place];
    const again = () => { page = 0; update(); };
    const search = make("input", { type: "search", placeholder: "Filter", "aria-label": `Filter ${name}`,
      oninput: () => { clearTimeout(timer); timer = setTimeout(again, 80); } });
    const filters = columns.map((column, index) => {
      const values = column.filter ? [...new Set(rows.map((row) => row[index]))].filter((value) => value !== null) : [];
      values.sort((a, b) => compare(a, b, 1));
      const options = values.map((value, i) => new Option(String(value), String(i)));
      options.unshift(new Option(`${column.label}: all`, ""));
      const select = make("select", { "aria-label": column.label, onchange: again }, ...options);
      return values.length < 2 ? null : { select, values };
    });
    const count = make("span", { className: "count", role: "status" });
    const save = button("CSV", () => {
      const lines = [columns.map((column) => column.label), ...found].map((row) => row.map(csv).join(","));
      const link = make("a", { href: URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" })),
        download: `${name}.csv` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }, { title: "Save the rows that are shown by the filter" });
    const heads = columns.map((column, index) => {
      const better = column.type === "number" && column.best !== "low"; // the largest first
      const sorted = () => {
        order = { index, down: order.index === index ? !order.down : better };
        again();
      };
      const className = column.type === "number" ? "number" : "";
      return make("th", { scope: "col", className }, button(column.label, sorted));
    });
    const table = make("table");
    table.createTHead().insertRow().append(...heads);
    const body = table.createTBody();
    const turn = (text, step) => button(text, () => { page += step; show(); });
    const [before, after] = [turn("Previous", -1), turn("Next", 1)];
    const where = make("span", { className: "count" });
    const pages = make("div", { className: "tools" }, before, after, where);
    const selects = filters.filter(Boolean).map((filter) => filter.select);
    element.append(make("div", { className: "tools" }, search, ...selects, save, count),
      make("div", { className: "scroll", tabIndex: 0 }, table), pages);

    function update() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const passes = (row, place) => words.every((word) => textOf(place).includes(word)) && filters.every((filter, i) =>
        !filter || filter.select.value === "" || row[i] === filter.values[Number(filter.select.value)])
        && (!ids || !group.linked || group.linked[ids[place]]);
      const { index, down } = order;
      found = rows.filter(passes).sort((a, b) => compare(a[index], b[index], down ? -1 : 1));
      heads.forEach((cell, i) => {
        if (i === index) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        else cell.removeAttribute("aria-sort");
      });
      show();
    }
    function show() {
      const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
      page = Math.min(Math.max(page, 0), last);
      body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((row) => {
        const failed = columns.some((column, i) => column.failed && row[i] !== "success");
        const className = failed ? "failed" : marked && row[marked[0]] === marked[1] ? "marked" : "";
        return make("tr", { className }, ...row.map((value, i) =>
          make("td", { className: columns[i].type, textContent: shown[i](value) })));
      }));
      const part = found.length === rows.length ? "" : `${counted(found.length)} of `;
      count.textContent = `${part}${counted(rows.length)} rows`;
      pages.hidden = found.length <= PAGE;
      where.textContent = `page ${page + 1} of ${last + 1}`;
      before.disabled = page === 0;
      after.disabled = page === last;
    }
    update();
    if (ids) group.shows.add(again);
  }
  for (const element of document.querySelectorAll("[data-table]")) startTable(element);
  for (const element of document.querySelectorAll("[data-chart]")) {
    const heights = payload.charts[element.dataset.chart].map((chart) => heightOf(chart, element.clientWidth));
    element.style.minHeight = `${Math.max(...heights)}px`;
  }

  // ---- commands ---------------------------------------------------------------------------------------------------
  for (const element of document.querySelectorAll(".command")) {
    const copy = button("Copy", () => {
      getSelection().selectAllChildren(element.querySelector("code"));
      document.execCommand("copy"); // the newer interface does not work in pages from disk
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
    element.append(copy);
  }
  root.dataset.ready = "true";
  performance.mark("report-ready");
  requestAnimationFrame(() => setTimeout(startCharts));
})();
