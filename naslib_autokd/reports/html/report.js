// The moving parts of a report: theme, charts (drawn when they come into view), tables, parallel coordinates.
// All text of the run comes from the JSON of the page and is put in as text, never as markup.
"use strict";
(() => {
  const payload = JSON.parse(document.getElementById("report-data").textContent);
  const root = document.documentElement;
  const coarse = matchMedia("(pointer: coarse)").matches;

  // ---- theme ------------------------------------------------------------------------------------------------------
  const PALETTES = payload.palettes;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => { try { return localStorage.getItem("report-theme"); } catch { return null; } };
  const theme = () => root.dataset.theme === "dark" ? "dark" : "light";
  const button = document.getElementById("theme");
  function applyTheme(name) {
    root.dataset.theme = name;
    button.textContent = name === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${name === "dark" ? "light" : "dark"} theme`);
    for (const redraw of redraws) redraw();
  }
  const redraws = new Set();
  button.addEventListener("click", () => {
    const next = theme() === "dark" ? "light" : "dark";
    try { localStorage.setItem("report-theme", next); } catch { /* a page from disk may have no storage */ }
    applyTheme(next);
  });
  system.addEventListener("change", () => { if (!chosen()) applyTheme(system.matches ? "dark" : "light"); });
  applyTheme(theme());

  /** A chart's description with the theme's colours in place of their names ("@c0", "@muted"). */
  function coloured(value) {
    if (typeof value === "string" && value[0] === "@") return PALETTES[theme()][value.slice(1)] || value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, entry]) =>
        [key, key === "domain" || key === "usermeta" ? entry : coloured(entry)]));
    }
    return value;
  }

  // ---- charts -----------------------------------------------------------------------------------------------------
  const TEXT = payload.config.legend.labelFontSize;
  const PANEL_SCALE = 2.1, AXES = 64; // pixels for a point on paper; beside a panel
  const MANY = 600; // rows from which a chart is a canvas
  const rowsOf = new Map();
  function rows(name) {
    if (!rowsOf.has(name)) {
      const { columns, rows: lines } = payload.data[name];
      rowsOf.set(name, lines.map((line) => Object.fromEntries(columns.map((column, i) => [column, line[i]]))));
    }
    return rowsOf.get(name);
  }
  /** A chart of this width: legends in columns, panels side by side as they have room. */
  function fitted({ spec, data }, width) {
    const about = spec.usermeta;
    const config = coloured(payload.config);
    config.legend.columns = Math.max(1, Math.floor(width / (0.5 * TEXT * about.longest + 2.6 * TEXT)));
    const fit = { ...coloured(spec), config, datasets: Object.fromEntries(data.map((name) => [name, rows(name)])) };
    if (!fit.concat) return { ...fit, width, autosize: { type: "fit-x", contains: "padding" } };
    fit.columns = Math.min(fit.concat.length, Math.max(1, Math.floor(width / (PANEL_SCALE * about.panel))));
    for (const part of fit.concat) part.width = Math.max(80, Math.floor(width / fit.columns) - AXES);
    return fit;
  }
  function startChart(element) {
    const variants = payload.charts[element.dataset.chart];
    let current = 0, drawn = null, width = 0, turn = 0;
    const plot = document.createElement("div");
    if (variants.length > 1) {
      const segments = document.createElement("div");
      segments.className = "segments";
      variants.forEach((variant, index) => {
        const choice = document.createElement("button");
        choice.type = "button";
        choice.textContent = variant.name;
        choice.setAttribute("aria-pressed", String(index === 0));
        choice.addEventListener("click", () => {
          current = index;
          [...segments.children].forEach((other, i) => other.setAttribute("aria-pressed", String(i === index)));
          draw();
        });
        segments.append(choice);
      });
      element.append(segments);
    }
    element.append(plot);
    async function draw() {
      const own = ++turn;
      width = element.clientWidth;
      const chart = variants[current];
      const many = Math.max(0, ...chart.data.map((name) => payload.data[name].rows.length)) > MANY;
      const holder = document.createElement("div");
      const result = await vegaEmbed(holder, fitted(chart, width), { mode: "vega-lite", ast: true, actions: false,
        renderer: many ? "canvas" : "svg", tooltip: { theme: theme() } });
      if (own !== turn) { result.finalize(); return; } // drawn anew meanwhile
      if (drawn) drawn.finalize();
      drawn = result;
      plot.replaceChildren(holder);
      element.setAttribute("data-drawn", "true");
      performance.mark("report-drawn");
    }
    redraws.add(() => { if (turn) draw(); });
    let timer = 0;
    new ResizeObserver(() => {
      if (!turn || element.clientWidth === width) return;
      clearTimeout(timer);
      timer = setTimeout(draw, 150);
    }).observe(element);
    return draw;
  }
  const pending = new Map();
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        observer.unobserve(entry.target);
        pending.get(entry.target)();
        pending.delete(entry.target);
      }
    }
  }, { rootMargin: "300px" });
  function later(element, start) { pending.set(element, start); observer.observe(element); }
  // the libraries take longer than all the rest: texts and tables are there before they start
  function startCharts() {
    const library = document.createElement("script");
    library.textContent = `(() => {${document.getElementById("vega-source").textContent}})()`;
    document.head.append(library);
    for (const element of document.querySelectorAll("[data-chart]")) later(element, startChart(element));
  }
  addEventListener("beforeprint", () => { for (const [element, start] of pending) { observer.unobserve(element); start(); }
    pending.clear(); });

  // ---- tables -----------------------------------------------------------------------------------------------------
  const PAGE = 25;
  const formats = {};
  function shown(value, column) {
    if (value === null || value === undefined || value === "") return "";
    if (column.type !== "number" || typeof value !== "number") return String(value);
    const digits = column.digits ?? 0;
    formats[digits] ??= new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    return formats[digits].format(value);
  }
  function startTable(element) {
    const { columns, rows, sort, marked, name } = payload.tables[element.dataset.table];
    let order = { index: sort[0], down: sort[1] };
    let page = 0;
    let found = rows;
    const tools = document.createElement("div");
    tools.className = "tools";
    const search = document.createElement("input");
    search.type = "search";
    search.placeholder = "Filter";
    search.setAttribute("aria-label", `Filter ${name}`);
    tools.append(search);
    const selects = columns.map((column, index) => {
      if (!column.filter) return null;
      const values = [...new Set(rows.map((row) => row[index]))].filter((value) => value !== null);
      values.sort((a, b) => typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
      if (values.length < 2) return null;
      const select = document.createElement("select");
      select.setAttribute("aria-label", column.label);
      select.append(new Option(`${column.label}: all`, ""));
      values.forEach((value, i) => select.append(new Option(String(value), String(i))));
      select.addEventListener("change", () => { page = 0; update(); });
      tools.append(select);
      return { select, values };
    });
    const count = document.createElement("span");
    count.className = "count";
    count.setAttribute("role", "status");
    const csv = document.createElement("button");
    csv.type = "button";
    csv.textContent = "CSV";
    csv.title = "Save the rows that are shown by the filter";
    csv.addEventListener("click", save);
    tools.append(csv, count);
    const scroll = document.createElement("div");
    scroll.className = "scroll";
    scroll.tabIndex = 0;
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    const heads = columns.map((column, index) => {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.className = column.type === "number" ? "number" : "";
      const label = document.createElement("button");
      label.type = "button";
      label.textContent = column.label;
      label.addEventListener("click", () => {
        order = { index, down: order.index === index ? !order.down : column.type === "number" && column.best !== "low" };
        page = 0;
        update();
      });
      cell.append(label);
      head.append(cell);
      return cell;
    });
    const body = table.createTBody();
    scroll.append(table);
    const pages = document.createElement("div");
    pages.className = "tools";
    const [before, after] = ["Previous", "Next"].map((text, i) => {
      const turn = document.createElement("button");
      turn.type = "button";
      turn.textContent = text;
      turn.addEventListener("click", () => { page += i ? 1 : -1; show(); });
      return turn;
    });
    const where = document.createElement("span");
    where.className = "count";
    pages.append(before, after, where);
    element.append(tools, scroll, pages);
    const texts = rows.map((row) => row.map((value, i) => shown(value, columns[i])).join("\n").toLowerCase());
    let timer = 0;
    search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => { page = 0; update(); }, 80); });

    function update() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const places = [];
      rows.forEach((row, place) => {
        if (words.every((word) => texts[place].includes(word)) && selects.every((filter, i) => !filter ||
            filter.select.value === "" || row[i] === filter.values[Number(filter.select.value)])) places.push(place);
      });
      const { index, down } = order;
      const sign = down ? -1 : 1;
      places.sort((a, b) => {
        const [x, y] = [rows[a][index], rows[b][index]];
        const [noX, noY] = [x === null || x === "", y === null || y === ""];
        if (noX || noY) return noX && noY ? a - b : noX ? 1 : -1; // what is not known comes last
        const difference = typeof x === "number" && typeof y === "number" ? x - y
          : String(x).localeCompare(String(y), "en", { numeric: true });
        return difference ? sign * difference : a - b;
      });
      found = places.map((place) => rows[place]);
      heads.forEach((cell, i) => {
        if (i === index) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        else cell.removeAttribute("aria-sort");
      });
      show();
    }
    function show() {
      const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
      page = Math.min(Math.max(page, 0), last);
      const part = found.slice(page * PAGE, (page + 1) * PAGE);
      const lines = part.map((row) => {
        const line = document.createElement("tr");
        row.forEach((value, i) => {
          const cell = document.createElement("td");
          cell.className = columns[i].type;
          cell.textContent = shown(value, columns[i]);
          line.append(cell);
        });
        if (marked && row[marked[0]] === marked[1]) line.className = "marked";
        if (columns.some((column, i) => column.failed && row[i] !== "success")) line.className = "failed";
        return line;
      });
      body.replaceChildren(...lines);
      count.textContent = found.length === rows.length ? `${rows.length.toLocaleString("en")} rows`
        : `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
      pages.hidden = found.length <= PAGE;
      where.textContent = `page ${page + 1} of ${last + 1}`;
      before.disabled = page === 0;
      after.disabled = page === last;
    }
    function save() {
      const quoted = (value) => {
        const text = value === null ? "" : String(value);
        // a leading = + - @ would be a formula to a spreadsheet
        const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
        return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
      };
      const lines = [columns.map((column) => column.label), ...found].map((row) => row.map(quoted).join(","));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
      link.download = `${name}.csv`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }
    update();
  }
  for (const element of document.querySelectorAll("[data-table]")) startTable(element);

  // ---- parallel coordinates ---------------------------------------------------------------------------------------
  const SCALES = { light: [[196, 206, 215], [0, 114, 178], [8, 38, 84]], dark: [[52, 68, 84], [92, 179, 240], [240, 249, 255]] };
  function accuracyColour(share) {
    const scale = SCALES[theme()];
    const x = Math.min(0.9999, Math.max(0, share)) * 2;
    const [a, b] = [scale[Math.floor(x)], scale[Math.floor(x) + 1]];
    return a.map((value, i) => Math.round(value + (x % 1) * (b[i] - value))).join(",");
  }
  function startParallel(element) {
    const { axes, rows } = payload.parallel[element.dataset.parallel];
    const note = document.createElement("p");
    note.className = "lead";
    note.setAttribute("role", "status");
    const scroll = document.createElement("div");
    scroll.className = "parallel";
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "Parallel coordinates of the settings of all trials");
    scroll.append(canvas);
    element.append(note, scroll);
    const HEIGHT = 360, TOP = 44, BOTTOM = HEIGHT - 62, NONE = HEIGHT - 26;
    const ranges = axes.map(() => null);
    let width = 0;
    const x = (i) => 56 + i * (width - 120) / Math.max(1, axes.length - 1);
    function share(axis, value) {
      if (axis.choices.length) return axis.choices.length < 2 ? 0.5 : value / (axis.choices.length - 1);
      if (axis.high === axis.low) return 0.5;
      return axis.log ? Math.log(value / axis.low) / Math.log(axis.high / axis.low)
        : (value - axis.low) / (axis.high - axis.low);
    }
    const shares = rows.map((row) => row.map((value, i) => value === null ? null : share(axes[i], value)));
    const last = axes.length - 1;
    const best = shares.map((row, i) => i).sort((a, b) => shares[a][last] - shares[b][last]);
    const y = (part) => part === null ? NONE : BOTTOM - part * (BOTTOM - TOP);
    function number(value) {
      return Math.abs(value) >= 1000 || Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(3)));
    }
    function draw() {
      width = Math.max(element.clientWidth, 82 * axes.length);
      const scale = devicePixelRatio || 1;
      canvas.width = width * scale;
      canvas.height = HEIGHT * scale;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${HEIGHT}px`;
      const c = canvas.getContext("2d");
      c.scale(scale, scale);
      const palette = PALETTES[theme()];
      const brushed = ranges.some(Boolean);
      const inside = (row) => ranges.every((range, i) => !range ||
        (row[i] !== null && row[i] >= range[0] && row[i] <= range[1]));
      const alpha = Math.max(0.12, Math.min(0.75, 60 / rows.length));
      let n = 0;
      for (const pass of [false, true]) {
        for (const place of best) {
          const row = shares[place];
          const chosen = inside(row);
          if (chosen !== pass) continue;
          n += pass ? 1 : 0;
          c.strokeStyle = pass ? `rgba(${accuracyColour(row[last])},${brushed ? Math.max(alpha, 0.6) : alpha})` : palette.grid;
          c.lineWidth = pass ? 1.5 : 0.7;
          c.beginPath();
          row.forEach((part, i) => (i ? c.lineTo(x(i), y(part)) : c.moveTo(x(i), y(part))));
          c.stroke();
        }
      }
      c.font = `12px ${getComputedStyle(document.body).fontFamily}`;
      axes.forEach((axis, i) => {
        c.strokeStyle = palette.line;
        c.lineWidth = 1;
        c.beginPath();
        c.moveTo(x(i), TOP);
        c.lineTo(x(i), BOTTOM);
        c.stroke();
        if (ranges[i]) {
          c.fillStyle = palette.c0;
          c.globalAlpha = 0.35;
          c.fillRect(x(i) - 6, y(ranges[i][1]), 12, y(ranges[i][0]) - y(ranges[i][1]));
          c.globalAlpha = 1;
        }
        c.textAlign = "center";
        c.fillStyle = palette.text;
        c.fillText(axis.label, x(i), i % 2 ? 13 : 28, 2 * (width - 120) / Math.max(1, last) - 8);
        c.fillStyle = palette.muted;
        const marks = axis.choices.length ? axis.choices.map((name, k) => [name, share(axis, k)])
          : [[number(axis.low), 0], [number(axis.high), 1]];
        for (const [text, part] of marks) {
          c.lineWidth = 3;
          c.strokeStyle = palette.bg;
          const place = y(part) + (part === 0 && !axis.choices.length ? 14 : part === 1 && !axis.choices.length ? -4 : 4);
          c.strokeText(text, x(i), place, 78);
          c.fillText(text, x(i), place, 78);
        }
        if (shares.some((row) => row[i] === null)) c.fillText("inactive", x(i), NONE + 16);
      });
      note.textContent = brushed ? `${n.toLocaleString("en")} of ${rows.length.toLocaleString("en")} trials are inside the ranges; click an axis to clear its range.`
        : `${rows.length.toLocaleString("en")} trials, strong lines are accurate. Drag along an axis to choose a range.`;
    }
    let start = null;
    const local = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const part = (py) => Math.min(1.02, Math.max(-0.02, (BOTTOM - py) / (BOTTOM - TOP)));
    canvas.addEventListener("pointerdown", (event) => {
      const [px, py] = local(event);
      const index = axes.findIndex((_, i) => Math.abs(x(i) - px) < 14);
      if (index < 0) return;
      start = { index, at: part(py), moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!start) return;
      const now = part(local(event)[1]);
      start.moved ||= Math.abs(now - start.at) > 0.02;
      if (start.moved) { ranges[start.index] = [Math.min(now, start.at), Math.max(now, start.at)]; frame(); }
    });
    canvas.addEventListener("pointerup", () => {
      if (start && !start.moved) { ranges[start.index] = null; frame(); }
      start = null;
    });
    let queued = 0;
    function frame() { cancelAnimationFrame(queued); queued = requestAnimationFrame(draw); }
    draw();
    redraws.add(draw);
    let seen = element.clientWidth;
    addEventListener("resize", () => { if (element.clientWidth !== seen) { seen = element.clientWidth; frame(); } });
    element.setAttribute("data-drawn", "true");
  }
  for (const element of document.querySelectorAll("[data-parallel]")) later(element, () => startParallel(element));

  // ---- commands ---------------------------------------------------------------------------------------------------
  for (const element of document.querySelectorAll(".command")) {
    const copy = document.createElement("button");
    copy.type = "button";
    copy.textContent = "Copy";
    copy.addEventListener("click", () => {
      const code = element.querySelector("code");
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
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
