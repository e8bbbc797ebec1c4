"use strict";
// Draws the plots of a page with uPlot. The data stands in the element "plots", as document.py writes it.
(() => {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const readOut = document.getElementById("read-out");
  const drawn = new Map();   // holder: uPlot
  const reading = new Map(); // holder: the place that the arrow keys have come to
  const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3]];
  const POINTS = [14, 12, 9, 6];
  const SPANS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400,
    172800, 604800, 1209600, 2419200];

  // Numbers, as units.py writes them

  const digits = (value) => {
    const rounded = Number(value.toPrecision(3));
    if (rounded === 0 || Math.abs(rounded) >= 100) return Math.round(value).toLocaleString("en-US");
    return rounded.toFixed(2 - Math.floor(Math.log10(Math.abs(rounded))));
  };
  const seconds = (value) => (Math.abs(value) < 0.9995 ? `${digits(1000 * value)} ms` : `${digits(value)} s`);
  const told = (value, unit) => {
    if (value === null || value === undefined) return "–";
    if (unit === "s") return seconds(value);
    return unit === "share" ? `${(100 * value).toFixed(1)}%` : digits(value);
  };
  const tick = (value, unit) => {
    if (unit === "share") return `${Math.round(100 * value)}%`;
    if (unit !== "s") return value.toLocaleString("en-US", { maximumSignificantDigits: 6 });
    return value === 0 ? "0" : Math.abs(value) < 1 ? `${Number((1000 * value).toPrecision(6))} ms` : `${value} s`;
  };
  const clock = (time, step = 0) => {
    const two = (number) => String(number).padStart(2, "0");
    const [days, hours] = [Math.floor(time / 86400), Math.floor(time / 3600)];
    const [minutes, rest] = [Math.floor(time / 60) % 60, Math.floor(time % 60)];
    if (time === 0) return "0";
    if (step >= 86400) return `${days} d`;
    if (step >= 3600) return `${hours} h`;
    if (hours) return `${hours}:${two(minutes)} h`;
    return step >= 60 || rest === 0 ? `${minutes} min` : minutes ? `${minutes}:${two(rest)} min` : `${rest} s`;
  };

  // Data, as uPlot wants it: the xs, then the ys of each curve

  // Cumulative shares at common xs. The xs are logarithms of seconds.
  const overlaid = (curves) => {
    const own = curves.map((curve) => curve.xs.map((x) => Math.log10(Math.max(x, 1e-4))));
    const xs = [...new Set(own.flat())].sort((a, b) => a - b);
    const ys = curves.map((curve, number) => {
      let next = 0;
      return xs.map((x) => {
        while (next < own[number].length && own[number][next] < x) next += 1;
        if (next === own[number].length) return curve.ys[next - 1];
        if (own[number][next] === x) {
          while (own[number][next + 1] === x) next += 1;
          return curve.ys[next];
        }
        if (next === 0) return 0;
        const part = (x - own[number][next - 1]) / (own[number][next] - own[number][next - 1]);
        return curve.ys[next - 1] + part * (curve.ys[next] - curve.ys[next - 1]);
      });
    });
    return [xs, ...ys];
  };

  const tabled = (plot) => {
    if (plot.kind === "cdf") return overlaid(plot.curves);
    if (plot.kind === "scatter") {
      const points = plot.curves.flatMap((curve, number) => curve.xs.map((x, place) => ({ x, y: curve.ys[place], number })));
      points.sort((a, b) => a.x - b.x);
      return [points.map((point) => point.x), ...plot.curves.map((_, number) => points.map((point) => (point.number === number ? point.y : null)))];
    }
    const length = Math.max(...plot.curves.map((curve) => curve.ys.length));
    return [Array.from({ length }, (_, place) => place * plot.every), ...plot.curves.map((curve) => curve.ys)];
  };

  const xTold = (plot, x) => {
    if (plot.kind === "time") return clock(x) === "0" ? "0 s" : clock(x);
    return plot.kind === "cdf" ? seconds(10 ** x) : told(x, plot.xUnit);
  };

  // Looks

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const printing = () => document.documentElement.classList.contains("printed");

  const area = (ctx, bbox, left, right) => {
    ctx.fillStyle = css("--fault-area");
    ctx.fillRect(left, bbox.top, right - left, bbox.height);
    ctx.fillStyle = css("--fault");
    ctx.fillRect(left, bbox.top, devicePixelRatio, bbox.height);
  };
  const write = (ctx, bbox, label, x, y, colour) => {
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    Object.assign(ctx, { textBaseline: "top", textAlign: "left", lineJoin: "round", lineWidth: 4 * devicePixelRatio });
    const left = Math.min(x, bbox.left + bbox.width - ctx.measureText(label).width);
    ctx.strokeStyle = css("--back");
    ctx.strokeText(label, left, y);
    ctx.fillStyle = colour;
    ctx.fillText(label, left, y);
  };
  const words = (ctx, bbox, left, _, label, number) => {
    write(ctx, bbox, label, left + 5 * devicePixelRatio, bbox.top + (3 + 13 * (number % 3)) * devicePixelRatio, css("--fault"));
  };
  const shades = (plot, paint) => (u) => {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    plot.shades.forEach(([start, end, label], number) => {
      const left = u.valToPos(start, "x", true);
      paint(ctx, bbox, left, u.valToPos(end, "x", true), label, number);
    });
    ctx.restore();
  };

  // Points that stand alone have their names beside them.
  const names = (plot) => (u) => plot.curves.forEach((curve, number) => {
    if (plot.kind !== "scatter" || curve.xs.length !== 1 || !u.series[number + 1].show) return;
    const [x, y] = [u.valToPos(curve.xs[0], "x", true), u.valToPos(curve.ys[0], "y", true)];
    write(u.ctx, u.bbox, curve.label, x + 10 * devicePixelRatio, y - 5 * devicePixelRatio, css("--text"));
  });

  // 1, 2 and 5 of each power of ten, or only 1 where there are many; given and returned as logarithms.
  const decades = (u, axis, low, high) => {
    const marks = [];
    for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
      for (const factor of high - low > 2.2 || u.width < 500 ? [1] : [1, 2, 5]) {
        const mark = power + Math.log10(factor);
        if (mark >= low && mark <= high) marks.push(mark);
      }
    }
    return marks;
  };

  const axes = (plot) => {
    const look = {
      stroke: () => css("--muted"), font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif",
      grid: { stroke: () => css("--grid"), width: 1 }, ticks: { show: false },
    };
    const x = { ...look, grid: { ...look.grid, show: !plot.small }, space: plot.small ? 60 : 70, size: plot.small ? 22 : 30 };
    if (plot.kind === "time") {
      Object.assign(x, { incrs: SPANS, values: (u, marks, _, __, step) => marks.map((mark) => clock(mark, step)) });
    } else if (plot.kind === "cdf") {
      Object.assign(x, { splits: decades, values: (u, marks) => marks.map((mark) => tick(Number((10 ** mark).toPrecision(3)), "s")) });
    } else {
      x.values = (u, marks) => marks.map((mark) => tick(mark, plot.xUnit));
    }
    if (plot.xLabel) Object.assign(x, { label: plot.xLabel, labelSize: 18 });
    const y = {
      ...look, size: plot.small ? 34 : 58, space: plot.small ? 24 : 34,
      values: (u, marks) => marks.map((mark) => tick(mark, plot.unit)),
    };
    if (plot.yLabel) Object.assign(y, { label: plot.yLabel, labelSize: 18 });
    return [x, y];
  };

  const series = (plot) => plot.curves.map((curve, number) => {
    const colour = () => css(`--curve-${1 + (number % 4)}`);
    const points = plot.kind === "scatter";
    return {
      label: curve.label, stroke: colour, width: points ? 0 : plot.small ? 1.25 : 2, dash: DASHES[number % 4],
      fill: plot.kind === "time" && plot.curves.length === 1 ? () => css("--area") : undefined,
      points: { show: points, size: POINTS[number % 4], fill: colour }, spanGaps: plot.kind === "cdf",
      paths: points ? () => null : undefined,
    };
  });

  const padded = (u, low, high) => {
    const pad = (high - low) * 0.06 || Math.abs(high) * 0.06 || 1;
    return [low - pad, high + pad];
  };
  const range = (plot) => (u, low, high) => {
    if (plot.kind === "scatter") return padded(u, low ?? 0, high ?? 1);
    if (plot.unit === "share") return [0, 1.02];
    const top = plot.most ?? high ?? 0;
    return [0, top > 0 ? top * 1.08 : 1];
  };

  const under = (plot, u, place) => {
    const known = plot.kind === "scatter" ? (ys) => ys[place] !== null : () => true;
    const values = plot.curves.flatMap((curve, number) => {
      if (!known(u.data[number + 1])) return [];
      const value = told(u.data[number + 1][place], plot.unit);
      return plot.curves.length > 1 ? `${curve.label} ${value}` : value;
    });
    return `${xTold(plot, u.data[0][place])}: ${values.join(", ")}`;
  };
  const note = (holder, plot, u) => {
    const place = u.cursor.idx;
    const shown = place === null || place === undefined || u.cursor.left < 0 ? "" : under(plot, u, place);
    holder.previousElementSibling.querySelector("output").textContent = shown;
  };

  const draw = (holder) => {
    const plot = plots[holder.dataset.plot];
    const room = printing() ? (plot.small ? 320 : 660) : holder.clientWidth;
    const options = {
      width: Math.max(room, 120), height: plot.small ? 110 : plot.kind === "time" ? 190 : 300,
      padding: [8, 12, 0, 0],
      scales: { x: { time: false, ...(plot.kind === "scatter" ? { range: padded } : {}) }, y: { range: range(plot) } },
      axes: axes(plot),
      series: [{}, ...series(plot)],
      cursor: { points: { size: 7 }, ...(plot.kind === "time" ? { sync: { key: "time" } } : {}) },
      legend: { show: plot.curves.length > 1, live: false },
      hooks: {
        drawClear: [shades(plot, area)],
        draw: [shades(plot, words), names(plot)],
        setSeries: [(u) => pressed(u)],
        setCursor: [(u) => note(holder, plot, u)],
      },
    };
    drawn.get(holder)?.destroy();
    const made = new uPlot(options, tabled(plot), holder);
    drawn.set(holder, made);
    reachable(made);
  };

  // Keyboard: the legend's entries are switches, the arrows move the cursor and read out what is under it

  const entries = (u) => [...u.root.querySelectorAll(".u-legend .u-series")].slice(-(u.series.length - 1));
  const pressed = (u) => entries(u).forEach((row, number) => {
    row.querySelector("th").setAttribute("aria-pressed", String(u.series[number + 1].show));
  });
  const reachable = (u) => {
    for (const row of entries(u)) {
      const name = row.querySelector("th");
      name.tabIndex = 0;
      name.setAttribute("role", "button");
      name.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        name.click();
      });
    }
    pressed(u);
  };
  const step = (holder, event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way || event.target !== holder) return;
    event.preventDefault();
    const u = drawn.get(holder);
    const plot = plots[holder.dataset.plot];
    const last = u.data[0].length - 1;
    const from = reading.get(holder) ?? (way > 0 ? -1 : last + 1);
    const place = Math.min(Math.max(from + way * (event.shiftKey ? 10 : 1), 0), last);
    reading.set(holder, place);
    u.setCursor({ left: u.valToPos(u.data[0][place], "x"), top: u.over.clientHeight / 2 });
    readOut.textContent = `${plot.caption}, ${under(plot, u, place)}`;
  };

  // The tables behind the plots, made when somebody opens them

  const cell = (row, kind, text) => {
    const made = document.createElement(kind);
    made.textContent = text;
    if (kind === "td") made.className = "number";
    else made.scope = row.parentElement.tagName === "THEAD" ? "col" : "row";
    row.append(made);
  };
  const fill = (details) => {
    if (!details.open || details.querySelector("table")) return;
    const shown = details.dataset.plots.split(" ").map((number) => plots[number]);
    if (shown[0].kind === "time") listing(details, shown);
    else shown.forEach((plot) => listing(details, [plot]));
  };
  // Of plots that have the same xs.
  const listing = (details, shown) => {
    const first = shown[0];
    const columns = shown.flatMap((plot) => tabled(plot).slice(1).map((ys, number) => {
      const label = plot.curves[number].label;
      return { name: label, unit: plot.unit, ys };
    }));
    const table = document.createElement("table");
    if (first.kind !== "time") table.createCaption().textContent = first.caption;
    const head = table.createTHead().insertRow();
    cell(head, "th", first.kind === "time" ? "time" : first.xLabel.split(" (")[0]);
    for (const column of columns) cell(head, "th", column.name);
    const body = table.createTBody();
    tabled(first)[0].forEach((x, place) => {
      const row = body.insertRow();
      cell(row, "th", xTold(first, x));
      for (const column of columns) cell(row, "td", told(column.ys[place], column.unit));
    });
    const holder = document.createElement("div");
    holder.className = "scroll";
    holder.tabIndex = 0;
    holder.append(table);
    details.append(holder);
  };

  // Beginning

  const holders = [...document.querySelectorAll("[data-plot]")];
  const drawAll = () => holders.forEach(draw);
  const print = (on) => () => {
    document.documentElement.classList.toggle("printed", on);
    drawAll();
  };
  drawAll();
  const decided = document.querySelector("#source .decided");
  if (decided) decided.closest(".scroll").scrollTop = decided.offsetTop - 120;
  holders.forEach((holder) => holder.addEventListener("keydown", (event) => step(holder, event)));
  document.querySelectorAll("details.values").forEach((details) => details.addEventListener("toggle", () => fill(details)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", print(true));
  addEventListener("afterprint", print(false));
  new ResizeObserver(() => holders.forEach((holder) => {
    const u = drawn.get(holder);
    if (!printing() && holder.clientWidth !== u.width) u.setSize({ width: holder.clientWidth, height: u.height });
  })).observe(document.querySelector("main"));
})();
